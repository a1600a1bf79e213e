"""The engine: Betty's graph and schedule, with callbacks, validation and devices."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from betty.configs import EngineConfig
from betty.engine import Engine
from betty.logging import get_logger
from peft import PeftModel
from torch import nn

from bilora.engines.callbacks.callback import Callback, CallbackGuard
from bilora.engines.callbacks.records import StagePlace, StepRecord, UpperRecord, ValidationRecord
from bilora.engines.checks import (
    check_checkpointing,
    check_disjoint,
    check_equal_start,
    check_quantised,
    check_schedule,
    warn_of_scale,
)
from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.engines.hypergradients.quality_meter import QualityMeter
from bilora.engines.settings import CompileMode
from bilora.errors import SettingsError
from bilora.problems.levels.hypergradient import Hypergradient
from bilora.problems.levels.level import Level
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.problems.replay.random_state import RandomState
from bilora.processes.devices import choose_device
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.settings.arguments import check_arguments

Metrics = Mapping[str, float | None]

# Modes of torch.compile in which the next run overwrites the outputs of the last one.
CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
# What the records of both levels have of the level's report, under the same name.
REPORTED = ("loss", "parts", "learning_rates", "skipped")


class BilevelEngine(Engine):  # type: ignore[misc]  # Betty carries no types
    """Run a lower level, and an upper level over it, to the end.

    The dependency graph and the schedule are Betty's: ``unroll_steps``, ``warmup_steps`` and
    ``gradient_accumulation`` of the levels' configs say when which level steps.

    Args:
        lower: The lower level, or the only one.
        upper: The upper level; None trains ``lower`` alone, through the same code.
        steps: Lower optimizer steps; none only after another stage.
        hypergradient: Name, mapping or object, see :func:`~bilora.engines.hypergradients.catalog.build_hypergradient`.
        validate: Returns metrics by name; called without gradients, in eval mode, and its random draws are undone.
        validate_every: Lower steps between two validations; 0 validates at the end only.
        callbacks: Called in this order.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        meter: Upper steps between two readings of the quality meter; 0 takes none.
        skip_diverged: Steps in a row of a level that may be skipped because they are not finite.
        place: Position in a run of several stages; None for a run of one stage.
        processes: The processes that train together; each makes an engine over equal levels.

    Raises:
        SettingsError: A setting is out of range, the levels share a parameter, or the upper level would never step.
        ProcessesError: The processes do not start with equal models.
    """

    def __init__(
        self,
        lower: LowerProblem,
        upper: UpperProblem | None = None,
        *,
        steps: int,
        hypergradient: str | Mapping[str, Any] | Hypergradient = "darts",
        validate: Callable[[], Metrics] | None = None,
        validate_every: int = 0,
        callbacks: Sequence[Callback] = (),
        device: str = "auto",
        meter: int = 0,
        skip_diverged: int = 0,
        place: StagePlace | None = None,
        processes: Processes = ONE_PROCESS,
    ) -> None:
        check_arguments(BilevelEngine, locals())
        if upper is not None:
            approximation = build_hypergradient(hypergradient)
            warn_of_scale(approximation, processes)
            upper.hypergradient = QualityMeter(approximation, every=meter) if meter else approximation
            # Before the first step: the lower level records only what it was asked for.
            lower.needs = upper.needs
        self.place = place or StagePlace()
        check_schedule(lower, upper, steps, validate_every, least_steps=1 if self.place.is_first else 0)
        self.lower_level, self.upper_level = lower, upper
        self.levels: tuple[Level, ...] = (lower,) if upper is None else (lower, upper)
        self.processes = processes
        for level in self.levels:
            level.processes = processes
            level.skipped.allowed = skip_diverged
        self.steps = self.place.steps_before + steps
        self.validate = validate
        self.validate_every = validate_every
        self.callbacks = tuple(callbacks)
        self._guard = CallbackGuard()
        self.stop_reason: str | None = None
        self.begins_run = self.place.is_first
        self.ends_run = self.place.is_last
        self.last_validation: ValidationRecord | None = None
        self._device_name = device
        graph = {"u2l": {}, "l2u": {}} if upper is None else {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}
        # Betty counts micro-batches, and its own validation is never run: it would not undo its draws.
        config = EngineConfig(train_iters=steps * lower.gas, valid_step=max(validate_every, 1))
        super().__init__(list(self.levels), config, graph)
        # Only now: the levels know their parameters once Betty has set them up.
        check_disjoint(lower, upper)
        check_checkpointing(self.levels)
        check_quantised(self.levels)
        check_equal_start(self.levels, processes)

    @property
    def step(self) -> int:
        """Lower optimizer steps made so far in the run, earlier stages included."""
        return self.place.steps_before + int(self.global_step // self.lower_level.gas)

    @property
    def upper_step(self) -> int:
        """Upper optimizer steps made so far in the run, earlier stages included."""
        upper = self.upper_level
        return self.place.upper_steps_before + (0 if upper is None else int(upper.count // upper.gas))

    def stop(self, reason: str) -> None:
        """End the run after the step it is in, whatever stages would follow; callbacks call this."""
        self.stop_stage(reason)
        # Stages that would follow are left out, and callbacks are told that the run is over.
        self.ends_run = True

    def stop_stage(self, reason: str) -> None:
        """End this stage after the step it is in; the stages after it still run."""
        self.stop_reason = reason

    def run(self) -> None:
        """Step until the steps are made or a callback stops the run, then validate once more.

        Raises:
            DivergedError: A loss or gradient is not finite, and the step may not be skipped; the parameters are those
                before it.
        """
        # A model as it is loaded, or left by the stage before, is in eval mode.
        self.train()
        ended = False
        try:
            if self.begins_run:
                self._tell(lambda callback: callback.on_run_start(self))
            self._tell(lambda callback: callback.on_stage_start(self))
            # A resumed run may have been stopped already, at the step of its checkpoint.
            self._agree_to_stop()
            while self.global_step < self.train_iters and self.stop_reason is None:
                self._one_iteration()
            # Not twice at the same step: the parameters are the same, and callbacks would count it again.
            if self.last_validation is None or self.last_validation.step != self.step:
                self.validate_now()
            self._tell(lambda callback: callback.on_stage_end(self))
            if self.ends_run:
                self._tell(lambda callback: callback.on_run_end(self))
            ended = True
        finally:
            # Between two stages callbacks stay open, such as the file of the run's metrics.
            if self.ends_run or not ended:
                self.close()
        # Ready for use: nobody should predict with dropout because a training came before.
        self.eval()

    def close(self) -> None:
        """Let every callback close what it opened, each even if an earlier one cannot; :meth:`run` calls this."""
        self._guard.close(self)

    def _one_iteration(self) -> None:
        upper_steps_before = self.upper_step
        self.global_step += 1
        # Betty steps the lower level, and the upper one behind it where its turn has come.
        self.train_step()
        # Callbacks hear of whole optimizer steps, not of micro-batches.
        if self.global_step % self.lower_level.gas != 0:
            return
        record = self._record(upper_stepped=self.upper_step > upper_steps_before)
        self._tell(lambda callback: callback.on_step(self, record))
        if self.validate_every and self.step % self.validate_every == 0:
            self.validate_now()
        # After the validation, so that a checkpoint taken here holds it and a resume does not repeat it.
        self._tell(lambda callback: callback.on_step_end(self))
        self._agree_to_stop()

    def _agree_to_stop(self) -> None:
        # One that stopped alone would leave the others waiting for its gradients.
        if self.processes.any(self.stop_reason is not None):
            asked = self.processes.gathered((self.stop_reason, self.ends_run))
            self.stop_reason = next(reason for reason, _ in asked if reason is not None)
            self.ends_run = any(ends for _, ends in asked)

    def validate_now(self, validate: Callable[[], Metrics] | None = None) -> None:
        """Validate the parameters as they are and tell every callback; a callback may ask for it in ``on_step_end``."""
        validate = validate or self.validate
        if validate is None:
            return
        self.eval()
        # The random draws of a validation, if only the seed of a data loader, must not change the training after it.
        with torch.no_grad(), RandomState.take(self.device).replayed():
            metrics = dict(validate())
        # The first process's numbers for all: early stopping must not depend on a rounding.
        shared = self.processes.first_only(lambda: metrics)
        self.train()
        record = self.last_validation = ValidationRecord(self.step, shared)
        self._tell(lambda callback: callback.on_validation(self, record))

    def _tell(self, hook: Callable[[Callback], None]) -> None:
        self._guard.tell(self.callbacks, hook, step=self.step)

    def _record(self, *, upper_stepped: bool) -> StepRecord:
        upper_record, upper = None, self.upper_level
        if upper_stepped and upper is not None:
            upper_record = UpperRecord(
                step=self.upper_step,
                hypergradient_norm=upper.report.gradient_norm,
                direct_norm=upper.direct_norm,
                implicit_norm=upper.implicit_norm,
                meter=upper.hypergradient.reading if isinstance(upper.hypergradient, QualityMeter) else None,
                **{name: getattr(upper.report, name) for name in REPORTED},
            )
        report = self.lower_level.report
        reported = {name: getattr(report, name) for name in REPORTED}
        return StepRecord(self.step, gradient_norm=report.gradient_norm, upper=upper_record, **reported)

    def initialize(self) -> None:
        """Wire and set up the levels, as Betty does, without a word."""
        # Betty would print its set-up to the standard output, which is the user's.
        logger = get_logger()
        level = logger.level
        logger.setLevel(logging.WARNING)
        try:
            super().initialize()
        finally:
            logger.setLevel(level)

    def configure_systems(self) -> dict[str, Any]:
        """Place the run on its device."""
        # Betty knows CUDA and CPU only.
        systems: dict[str, Any] = super().configure_systems()
        self.device = choose_device(self._device_name)
        return systems

    def set_problem_attr(self, problem: Level) -> str:
        """Make a level an attribute of the engine and of the other level, unless the name is taken there."""
        others = [level for level in self.levels if level is not problem]
        # Betty would overwrite an attribute such as `step` without a word.
        if any(hasattr(owner, problem.name) for owner in (self, *others)):
            raise SettingsError(
                f"a level cannot be called {problem.name!r}: Betty makes each name an attribute of the engine and of "
                "the other level, and this one is taken; choose another, such as 'lower' and 'upper'"
            )
        return str(super().set_problem_attr(problem))


@contextmanager
def compiled(
    model: nn.Module, mode: CompileMode, *, levels: Sequence[Level] = (), backend: str | Callable[..., Any] = "inductor"
) -> Iterator[None]:
    """Run the block with the base model compiled in place by torch.compile; afterwards it is as it was."""
    # Both levels and the displaced passes of finite differences call the same model with the same shapes, and so share
    # one graph. It has no second derivative: products `exact` and the meter need `off`.
    if mode == "off":
        yield
        return
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    before = base._compiled_call_impl
    # Other backends than inductor know no modes, and refuse even the name of the default.
    base.compile(backend=backend, mode=mode if backend == "inductor" and mode != "default" else None)
    for level in levels:
        level.copies_outputs = mode in CUDA_GRAPHS
    try:
        yield
    finally:
        # torch has no call that undoes Module.compile; this attribute is all that it sets.
        base._compiled_call_impl = before
        for level in levels:
            level.copies_outputs = False
