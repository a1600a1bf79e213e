"""The stages of a run: which there are, and what is done to the model before each of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from peft import PeftModel
from torch import Tensor

from bilora.adapter.pruning import cut_ranks
from bilora.adapter.spectrum import Spectrum
from bilora.engines.callbacks.records import StagePlace
from bilora.engines.endings import build_ending
from bilora.engines.settings import FitSettings
from bilora.engines.training.levels import stage_steps
from bilora.engines.training.result import StageResult
from bilora.errors import SettingsError
from bilora.problems.levels.betty_problem import Companion
from bilora.problems.stage import Stage
from bilora.problems.variant import Variant
from bilora.tensors import put


def run_stages(variant: Variant, variant_settings: Any, settings: FitSettings) -> tuple[Stage, ...]:
    """Return the stages of a run: the variant's own, and those of its ending or of the one that the user chose."""
    ending = build_ending(variant.ending if settings.ending is None else settings.ending)
    stages = (*variant.stages(variant_settings), *ending.stages(variant, variant_settings))
    names = [stage.name for stage in stages]
    # Files tell stages apart by their names.
    if len(set(names)) < len(names):
        raise SettingsError(f"method {variant.name!r} has two stages of one name: {', '.join(names)}")
    return stages


def place_of(stages: tuple[Stage, ...], index: int, done: Sequence[StageResult], settings: FitSettings) -> StagePlace:
    """Return the place of a stage behind those that are done."""
    return StagePlace(
        name=stages[index].name,
        index=index,
        count=len(stages),
        # Made, not planned: an earlier stage may have stopped early.
        steps_before=sum(result.steps for result in done),
        upper_steps_before=sum(result.upper_steps for result in done),
        steps_after=sum(stage_steps(stage, settings) for stage in stages[index + 1 :]),
        title=stages[index].title,
    )


def prepare_model(
    model: PeftModel,
    stage: Stage,
    start: Mapping[str, Tensor] | None,
    *,
    variant_settings: Any = None,
    companion: Companion | None = None,
) -> Spectrum | None:
    """Bring the model to where a stage starts, and return the spectrum by which ranks were cut, if they were."""
    # Chosen by what was learned, so before anything is put back.
    choice = None if stage.cut is None else stage.cut.choose(model, adapter=str(model.active_adapter))
    if stage.fresh:
        assert start is not None  # copied before the first stage of any run that has such a stage
        if companion is not None:
            companion.settle(model)
        # Only what the level of the stage trains: the upper values that were learned stay.
        fresh = stage.lower("lower", module=model, extra_config=variant_settings).named_level_parameters()
        put(list(fresh.values()), [start[name] for name in fresh])
    if stage.cut is None or choice is None:
        return None
    kept, spectrum = choice
    cut_ranks(model, kept, adapter=str(model.active_adapter), keep_values=stage.cut.keep_values)
    return spectrum
