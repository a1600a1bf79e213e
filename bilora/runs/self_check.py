"""Does the adapter on the disk give what the trained model gave?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bilora.engines.callbacks.callback import Callback
from bilora.errors import SelfCheckError
from bilora.models.pretrained import Tokenizer
from bilora.processes.devices import choose_device
from bilora.runs.description import adapters_of
from bilora.runs.trained import load_adapter
from bilora.tasks.scoring import predicted_batches
from bilora.tasks.task import AnyTask, Inference

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine

TOLERANCE = 1e-6
"""Largest difference of a logit, as a share of the largest logit or of 1, whichever is more."""

PROBE_ROWS = 8


@dataclass(frozen=True)
class Verdict:
    """How far the outputs of a saved adapter are from those of the trained model.

    Args:
        adapter: The folder.
        difference: Largest difference of a logit.
        allowed: What it may be.
    """

    adapter: Path
    difference: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the difference is small enough; that of outputs that are not finite never is."""
        return self.difference <= self.allowed

    def __str__(self) -> str:
        said = "ok" if self.passed else "FAILED"
        return f"self-check of {self.adapter}: {said} (largest difference of a logit {self.difference:.1e})"


class SelfCheck(Callback):
    """Keep the outputs of the trained model on a few rows, and hold every adapter of the run to them.

    Args:
        task: The task.
        tokenizer: The tokenizer, and where the base model is.
        rows: Encoded rows, of which a few are used.
        device: Where both models are run.
    """

    def __init__(self, task: AnyTask, tokenizer: Tokenizer, rows: Sequence[Mapping[str, Any]], *, device: str) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.device = choose_device(device)
        self._batch = task.collator(tokenizer.own)(list(rows[:PROBE_ROWS]))
        self._wanted: Tensor | None = None

    def on_run_end(self, engine: BilevelEngine) -> None:
        """Take the outputs of the parameters that the run ended with."""
        self._wanted = self._outputs(engine.lower_level.module)

    def verdicts(self, folder: Path) -> list[Verdict]:
        """Return one verdict an adapter of the run, each loaded into a model of its own.

        Args:
            folder: Folder of the run.
        """
        return [self._verdict(adapter) for adapter in adapters_of(folder)]

    def _verdict(self, adapter: Path) -> Verdict:
        assert self._wanted is not None  # the run has ended
        fresh = load_adapter(adapter, self.tokenizer, self.task).to(self.device)
        difference = float((self._outputs(fresh) - self._wanted).abs().max())
        return Verdict(adapter, difference, TOLERANCE * max(1.0, float(self._wanted.abs().max())))

    def _outputs(self, model: nn.Module) -> Tensor:
        batches = predicted_batches(Inference(model, self.tokenizer.own), [self._batch])
        return torch.cat([logits.flatten() for logits, _ in batches])


def require_passed(verdicts: Sequence[Verdict], *, say: Callable[[str], object] = print) -> None:
    """Say every verdict.

    Raises:
        SelfCheckError: One has failed.

    Example:
        >>> require_passed([Verdict(Path("run/adapter"), 0.0, 1e-6)])
        self-check of run/adapter: ok (largest difference of a logit 0.0e+00)
    """
    for verdict in verdicts:
        say(str(verdict))
    failed = [str(each.adapter) for each in verdicts if not each.passed]
    if failed:
        raise SelfCheckError(
            f"{', '.join(failed)}: loaded into a fresh model it gives other outputs than the trained model did; do not "
            "use it, and report this with the run's config.yaml"
        )
