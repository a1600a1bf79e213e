"""The stages of a run: which there are, and what is done to the model before each of them."""

from collections.abc import Sequence
from typing import Any

from peft import PeftModel
from torch import Tensor, nn

from bilora.adapter.level_parameters import trainable_parameters
from bilora.adapter.pruning import cut_ranks
from bilora.adapter.spectrum import Spectrum
from bilora.engines.callbacks.records import StagePlace
from bilora.engines.endings import build_ending
from bilora.engines.settings import FitSettings
from bilora.engines.training.levels import stage_steps
from bilora.engines.training.result import StageResult
from bilora.errors import SettingsError
from bilora.problems.stage import Stage
from bilora.problems.variant import Variant
from bilora.tensors import put


class StartValues:
    """A copy of everything trainable in a model, on the CPU.

    Args:
        model: The model, before its first step.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> start = StartValues(layer)
        >>> before = layer.weight.item()
        >>> _ = nn.init.constant_(layer.weight, 7.0)
        >>> start.put_back(dict(layer.named_parameters()))
        >>> layer.weight.item() == before
        True
    """

    def __init__(self, model: nn.Module) -> None:
        self.values: dict[str, Tensor] = {
            name: each.detach().to("cpu", copy=True) for name, each in trainable_parameters(model).items()
        }

    def put_back(self, parameters: dict[str, nn.Parameter]) -> None:
        """Set parameters, given by their full names in the model, to what they were."""
        put(list(parameters.values()), [self.values[name] for name in parameters])


def run_stages(variant: Variant, variant_settings: Any, settings: FitSettings) -> tuple[Stage, ...]:
    """Return the stages of a run: the variant's own, and those of its ending or of the one that the user chose.

    Raises:
        SettingsError: Two have the same name, or the ending does not fit the variant.

    Example:
        >>> from bilora.problems.catalog import VARIANTS
        >>> chosen = FitSettings(ending="retrain")
        >>> [stage.name for stage in run_stages(VARIANTS["bilora"], None, chosen)]
        ['bilevel', 'retrain']
    """
    ending = build_ending(variant.ending if settings.ending is None else settings.ending)
    stages = (*variant.stages(variant_settings), *ending.stages(variant, variant_settings))
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise SettingsError(f"method {variant.name!r} has two stages of one name: {', '.join(names)}")
    return stages


def place_of(stages: tuple[Stage, ...], index: int, done: Sequence[StageResult], settings: FitSettings) -> StagePlace:
    """Return the place of a stage behind those that are done."""
    return StagePlace(
        name=stages[index].name,
        index=index,
        count=len(stages),
        steps_before=sum(each.steps for each in done),
        upper_steps_before=sum(each.upper_steps for each in done),
        steps_after=sum(stage_steps(stage, settings) for stage in stages[index + 1 :]),
    )


def prepare_model(
    model: PeftModel, stage: Stage, start: StartValues | None, *, variant_settings: Any = None
) -> Spectrum | None:
    """Bring the model to where a stage starts: parameters of its level anew, ranks cut.

    Args:
        model: The model as the stage before left it.
        stage: The stage.
        start: The values before the run; needed where the stage starts anew.
        variant_settings: What the levels get as ``cfg``.

    Returns:
        The spectrum by which ranks were cut, or None where none were.
    """
    # Chosen by what was learned, so before anything is put back.
    chosen = None if stage.cut is None else stage.cut.choose(model, adapter=_adapter(model))
    if stage.fresh:
        assert start is not None  # made before the first stage of any run that has such a stage
        level = stage.lower("lower", module=model, extra_config=variant_settings)
        start.put_back(level.named_level_parameters())
    if stage.cut is None or chosen is None:
        return None
    kept, spectrum = chosen
    cut_ranks(model, kept, adapter=_adapter(model), keep_values=stage.cut.keep_values)
    return spectrum


def _adapter(model: PeftModel) -> str:
    return str(model.active_adapter)
