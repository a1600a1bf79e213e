"""The numbers of a step and of a validation, as callbacks get them."""

from dataclasses import dataclass

from bilora.engines.hypergradients.quality_meter import MeterReading


@dataclass(frozen=True)
class UpperRecord:
    """Numbers of one upper step.

    Attributes:
        step: Upper steps made so far.
        loss: L2 on the upper batch, its penalty included.
        parts: ``task_loss`` and ``penalty`` where the loss has both.
        hypergradient_norm: Norm of the total gradient of the upper parameters, before clipping.
        direct_norm: Norm of its direct part d_E L2.
        implicit_norm: Norm of its implicit part.
        learning_rates: One per param group of the upper optimizer.
        meter: The quality meter's reading, where one was taken.
        skipped: Whether it was left out, since a number in it was not finite.
    """

    step: int
    loss: float
    parts: dict[str, float]
    hypergradient_norm: float
    direct_norm: float
    implicit_norm: float
    learning_rates: tuple[float, ...]
    meter: MeterReading | None = None
    skipped: bool = False


@dataclass(frozen=True)
class StepRecord:
    """Numbers of one lower step, and of the upper step that followed it, if one did.

    Attributes:
        step: Lower optimizer steps made so far.
        loss: L1, mean over the step's micro-batches, its penalty included.
        parts: ``task_loss`` and ``penalty`` where the loss has both.
        gradient_norm: Norm of the lower gradient, before clipping.
        learning_rates: One per param group of the lower optimizer.
        upper: The upper step, or None.
        skipped: Whether it was left out, since a number in it was not finite.
    """

    step: int
    loss: float
    parts: dict[str, float]
    gradient_norm: float
    learning_rates: tuple[float, ...]
    upper: UpperRecord | None = None
    skipped: bool = False


@dataclass(frozen=True)
class ValidationRecord:
    """Numbers of one validation; a metric that is undefined on the data is None."""

    step: int
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class StagePlace:
    """The place of a stage among the stages of its run; by default it is the only one.

    Args:
        name: Name of the stage.
        index: Counts the stages of the run from 0.
        count: Number of stages.
        steps_before: Steps that the stages before it made, so that steps count on over the whole run.
        upper_steps_before: Upper steps that they made.
        steps_after: Steps that the stages after it will make, if nothing ends them early.
        title: What people read of it while it runs.

    Example:
        >>> StagePlace("retrain", index=1, count=2, steps_before=100).is_last
        True
    """

    name: str = "single"
    index: int = 0
    count: int = 1
    steps_before: int = 0
    upper_steps_before: int = 0
    steps_after: int = 0
    title: str = ""

    @property
    def is_first(self) -> bool:
        """Whether no stage comes before it."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether no stage comes after it."""
        return self.index == self.count - 1
