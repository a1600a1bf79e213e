"""The settings of data-to-text tasks: which set is D2, what is scored, and how texts are searched for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bilora.settings.checked import refuse_faults
from bilora.tasks.kinds.decoding import Decoding


@dataclass(frozen=True)
class GenerationSettings:
    """What may be said of a data-to-text task.

    Args:
        d2: ``validation``: D1 is the training set, D2 the validation set, and the test set is scored; ``split``: D1
            and D2 are drawn from the training set, and the validation set is scored.
        metrics: Names of metrics, the headline one first; None takes the task's.
        generate_rows: Rows of the scored set that are read, for loss and texts alike, the same ones in every run;
            None takes all.
        loss_references: References of a row that enter the losses that are reported; None takes all.
        beams: See :class:`~bilora.tasks.kinds.decoding.Decoding`.
        length_penalty: See there; None takes the task's.
        no_repeat_ngram_size: See there.
        max_new_tokens: See there.
        generate_batch: Rows searched at once.

    Raises:
        SettingsError: A value is out of range, or a metric is unknown or cannot be computed here.
    """

    d2: Literal["validation", "split"] = "validation"
    metrics: list[str] | None = None
    generate_rows: int | None = None
    loss_references: int | None = None
    beams: int = 10
    length_penalty: float | None = None
    no_repeat_ngram_size: int = 4
    max_new_tokens: int = 64
    generate_batch: int = 8

    def __post_init__(self) -> None:
        """Check the values."""
        checks = (
            ("d2", "allowed: validation, split", self.d2 in ("validation", "split")),
            ("metrics", "give at least one, each once", self.metrics is None or _are_names(self.metrics)),
            ("generate_rows", "it must be at least 1, or none for all", _is_count(self.generate_rows)),
            ("loss_references", "it must be at least 1, or none for all", _is_count(self.loss_references)),
        )
        refuse_faults("task_settings", self, checks)
        self.decoding(1.0)

    def decoding(self, length_penalty: float) -> Decoding:
        """Return how texts are searched for, with the task's length penalty where none is set."""
        return Decoding(
            beams=self.beams,
            length_penalty=length_penalty if self.length_penalty is None else self.length_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.generate_batch,
        )


def _are_names(metrics: list[str]) -> bool:
    return bool(metrics) and len(set(metrics)) == len(metrics)


def _is_count(value: int | None) -> bool:
    return value is None or value >= 1
