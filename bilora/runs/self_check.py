"""Does the adapter on the disk give what the trained model gave?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bilora.engines.callbacks.callback import Callback
from bilora.errors import CheckpointError, DataError, SelfCheckError
from bilora.models.pretrained import Tokenizer
from bilora.processes.devices import choose_device
from bilora.runs.description import adapters_of
from bilora.runs.trained import load_adapter
from bilora.tasks.scoring import predicted_batches
from bilora.tasks.task import AnyTask, Inference

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine

# Few, since the check is of the files, not of the model.
PROBE_ROWS = 8


@dataclass(frozen=True)
class Verdict:
    """How far the outputs of a saved adapter are from those of the trained model."""

    adapter: Path
    difference: float  # largest one of a logit
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the difference is small enough."""
        # NaN, the difference of outputs that are not finite, is not <= anything.
        return self.difference <= self.allowed

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "FAILED"
        return f"self-check of {self.adapter}: {verdict} (largest difference of a logit {self.difference:.1e})"


class SelfCheck(Callback):
    """Keep the outputs of the trained model on a few of the encoded rows, and hold every adapter of the run to them."""

    def __init__(self, task: AnyTask, tokenizer: Tokenizer, rows: Sequence[Mapping[str, Any]], *, device: str) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.device = choose_device(device)
        self._batch = task.collator(tokenizer.own)(list(rows[:PROBE_ROWS]))
        self._wanted: Tensor | None = None
        self._allowed = 0.0

    def on_run_end(self, engine: BilevelEngine) -> None:
        """Take the outputs of the parameters that the run ended with, and how far rounding alone may move them."""
        model = engine.lower_level.module
        self._wanted = self._outputs(model, [self._batch])
        # The same numbers in another order of summation: what a deep model makes of its own rounding.
        rows = range(len(self._batch["labels"]))
        alone = self._outputs(
            model, [{name: part[row : row + 1] for name, part in self._batch.items()} for row in rows]
        )
        others = torch.stack([alone, self._outputs_of_moved(model)])
        noise = float((others - self._wanted).abs().max())
        # Absolute below 1: a logit near zero is a difference of larger numbers, with no more digits than they have.
        self._allowed = max(rounding(model) * max(1.0, float(self._wanted.abs().max())), 8 * noise)

    def verdicts(self, folder: Path) -> list[Verdict]:
        """Return one verdict per adapter in a run's folder, each loaded into a model of its own."""
        return [self._verdict(adapter) for adapter in adapters_of(folder)]

    def _verdict(self, adapter: Path) -> Verdict:
        assert self._wanted is not None  # the run has ended
        # A model of its own: in the trained one, what was not saved would be there all the same.
        try:
            fresh = load_adapter(adapter, self.tokenizer, self.task).to(self.device)
        except (DataError, CheckpointError) as error:
            raise SelfCheckError(f"{error}; do not use it, and report this with the run's config.yaml") from error
        difference = float((self._outputs(fresh, [self._batch]) - self._wanted).abs().max())
        return Verdict(adapter, difference, self._allowed)

    @torch.no_grad()
    def _outputs_of_moved(self, model: nn.Module) -> Tensor:
        """Return the outputs with every trained parameter moved by the last digit of its type."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        before = [parameter.clone() for parameter in trained]
        try:
            for parameter in trained:
                # The products of an export are rounded once more than the layer's: this is what the model makes of it.
                parameter.mul_(1 + torch.finfo(parameter.dtype).eps)
            return self._outputs(model, [self._batch])
        finally:
            for parameter, values in zip(trained, before, strict=True):
                parameter.copy_(values)

    def _outputs(self, model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> Tensor:
        answers = predicted_batches(Inference(model, self.tokenizer.own), batches)
        return torch.cat([logits.flatten() for logits, _ in answers])


def rounding(model: nn.Module) -> float:
    """Return the share of the largest logit by which rounding may move one: by the model's type, and per layer."""
    coarsest = max(torch.finfo(each.dtype).eps for each in model.parameters() if each.is_floating_point())
    config: Any = getattr(model, "config", None)
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0) if hasattr(config, "get_text_config") else 0
    return 4 * coarsest * (1 + layers)


def require_passed(verdicts: Sequence[Verdict], *, say: Callable[[str], object] = print) -> None:
    """Say every verdict, and raise if one has failed."""
    for verdict in verdicts:
        say(str(verdict))
    if failed := [str(verdict.adapter) for verdict in verdicts if not verdict.passed]:
        raise SelfCheckError(
            f"{', '.join(failed)}: loaded into a fresh model it gives other outputs than the trained model did; do not "
            "use it. Where the method is your own, look for what adapt() or companion() puts into the model beside the "
            "adapter, such as a hook or a buffer: it is not saved; otherwise report this with the run's config.yaml"
        )
