"""What comes of a fit, as a whole and by stage."""

from dataclasses import dataclass, field
from typing import Any

from bilora.adapter.spectrum import Spectrum
from bilora.data.split import Split


@dataclass(frozen=True)
class StageResult:
    """What came of one stage.

    Attributes:
        name: Its name.
        steps: Lower optimizer steps made in it.
        upper_steps: Upper optimizer steps made in it.
        best_step: The step of the run whose parameters were kept, or None where the last ones were.
        stop_reason: Why it ended before its last step, or None.
        skipped_steps: How many of its lower steps were skipped, since they were not finite.
        skipped_upper_steps: The same of its upper steps.
    """

    name: str
    steps: int
    upper_steps: int
    best_step: int | None
    stop_reason: str | None
    skipped_steps: int = 0
    skipped_upper_steps: int = 0


@dataclass(frozen=True)
class FitResult:
    """What came of a fit.

    Attributes:
        steps: Lower optimizer steps made, over all stages.
        upper_steps: Upper optimizer steps made.
        metrics: The last validation, or None without one.
        best_step: The step whose parameters the last stage kept, or None where the last ones were.
        splits: The splits into D1 and D2 that were used; empty for a single-level method.
        seconds: Wall-clock time of the run, validations included.
        stop_reason: Why the last stage that ran ended before its last step, or None.
        stages: What came of each stage.
        spectrum: The magnitudes by which ranks were cut, or None where none were.
        learned: What the variant's companion has learned, as a JSON object; empty without one.
        skipped_steps: Lower steps, of those made, that were skipped since they were not finite.
        skipped_upper_steps: The same of the upper steps.
    """

    steps: int
    upper_steps: int
    metrics: dict[str, float | None] | None
    best_step: int | None
    splits: tuple[Split, ...]
    seconds: float
    stop_reason: str | None
    stages: tuple[StageResult, ...] = ()
    spectrum: Spectrum | None = None
    learned: dict[str, Any] = field(default_factory=dict)
    skipped_steps: int = 0
    skipped_upper_steps: int = 0
