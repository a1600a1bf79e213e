"""A run, stage after stage: each with levels, optimizers and an engine of its own."""

import gc
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers import set_seed

from bilora.adapter.spectrum import Spectrum
from bilora.data.loaders import Collate
from bilora.data.row_marks import MarkingCollate, TrainingRows
from bilora.data.split import Split
from bilora.engines.bilevel import BilevelEngine, Metrics, compiled
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.early_stopping import EarlyStopping, HeldOut
from bilora.engines.callbacks.keep_best import KeepBest
from bilora.engines.checkpoints.files import remove_later
from bilora.engines.checks import sample_of
from bilora.engines.training.diverged import SkippedBatches, divergence_told
from bilora.engines.training.kept_parameters import check_kept
from bilora.engines.training.levels import Levels, LowerOptimizer, build_levels, stage_steps
from bilora.engines.training.plan import Plan
from bilora.engines.training.result import FitResult, StageResult
from bilora.engines.training.smaller_batches import Points, restart, try_longest_rows
from bilora.engines.training.split_loaders import DividedRows, numbered
from bilora.engines.training.stage_state import Resumed, restore_stage, restore_staged, trained_values
from bilora.engines.training.stages import place_of, prepare_model
from bilora.errors import SettingsError
from bilora.metrics.monitor import Monitor
from bilora.problems.levels.betty_problem import Companion
from bilora.problems.levels.out_of_memory import OutOfMemory
from bilora.problems.replay.buffers import ChangedBuffers
from bilora.problems.stage import Stage


@dataclass
class StagedRun:
    """What the stages of a run share, and the results of those that are done; see ``fit`` for the arguments."""

    model: PeftModel
    rows: Sequence[Mapping[str, Any]]
    _: KW_ONLY
    collate: Collate
    plan: Plan
    count_terms: Callable[[Any], float] | None = None
    compute_loss: Callable[[Any, Any], Any] | None = None
    lower_optimizer: LowerOptimizer | None = None
    validate: Callable[[], Metrics] | None = None
    monitor: Monitor | None = None
    callbacks: tuple[Callback, ...] = ()
    folder: Path | None = None

    def __post_init__(self) -> None:
        """Copy what the stages come back to; nothing is trained."""
        plan = self.plan
        self.variant, self.variant_settings, self.stages = plan.variant, plan.variant_settings, plan.stages
        # Not those of the plan once batches had to be made smaller.
        self.settings = settings = plan.settings
        self.processes = plan.processes
        # Processes that differ here would wait for each other, or average the gradients of two problems.
        self.processes.check_equal("the settings", (self.variant.name, repr(self.variant_settings), repr(settings)))
        self.processes.check_equal("the training rows", sample_of(self.rows))
        if (settings.early_stopping or settings.keep_best) and (self.monitor is None or self.validate is None):
            raise SettingsError(
                "early_stopping and keep_best need to know what to watch; give 'validate' and 'monitor'"
            )
        # Only where a stage starts anew: it is as large as the adapter, and goes into every checkpoint.
        self.start = trained_values(self.model) if any(stage.fresh for stage in self.stages) else None
        self.companion: Companion | None = None
        if self.variant.companion is not None or self.variant.row_marks or self.compute_loss is not None:
            self._look_at_rows()
        self.engine: BilevelEngine | None = None
        self.levels: Levels | None = None
        self.watchers: tuple[Callback, ...] = ()
        self.points = Points(self)
        self.done: list[StageResult] = []
        self.spectrum: Spectrum | None = None
        self.splits: tuple[Split, ...] = ()
        # What each stage but the first found in the model, before it cut ranks or started anything anew.
        self.entries: list[dict[str, Tensor]] = []
        self.buffers = ChangedBuffers(self.model)
        self.seconds_before = 0.0
        self._started = time.perf_counter()

    def _look_at_rows(self) -> None:
        """Build the companion for the rows that there are, and mark them where the variant asks for it."""
        # Not for every variant: each row is read, which takes time where they are tokenised when asked for.
        variant, config = self.variant, getattr(self.model, "config", None)
        first_upper = self.rows.upper.start if isinstance(self.rows, DividedRows) else None
        outputs = getattr(config, "num_labels", None) or 0
        described = TrainingRows.of(self.rows, classes=outputs, first_upper=first_upper)
        variant.check_rows(described)
        if variant.companion is not None:
            self.companion = variant.companion(self.model, self.variant_settings, described)
        marks = (*variant.row_marks, *(() if self.compute_loss is None else ("weights",)))
        if marks:
            self.rows = numbered(self.rows)
            self.collate = MarkingCollate(self.collate, marks, described.source_names)

    def run(self, *, resumed: Resumed | None = None) -> FitResult:
        """Run the stages in order, until the last one or until a callback ends the run."""
        # Again: fingerprints and the reading of a checkpoint are no part of the training.
        self._started = time.perf_counter()
        first = 0 if resumed is None else restore_staged(self, resumed)
        for index in range(first, len(self.stages)):
            if index > first or resumed is None:  # a resumed stage was entered when it was restored
                self.enter(index)
            if self.halves and (index > 0 or resumed is not None):
                self.points.take()
            engine = self._run_until_it_fits(index)
            self.leave(engine)
            if engine.ends_run:
                break
        return self.result()

    @property
    def halves(self) -> bool:
        """Whether a stage starts again with smaller batches where memory is too small."""
        return self.settings.on_out_of_memory == "halve"

    def _run_until_it_fits(self, index: int) -> BilevelEngine:
        """Run the stage that was entered, again with smaller batches while memory is too small for it."""
        while True:
            try:
                return self._run_stage()
            except OutOfMemory as error:
                if not self.halves:
                    raise
                again = restart(self, error)
            # Not in the except block, whose error holds the tensors of the pass that did not fit.
            warnings.warn(again.notice, RuntimeWarning, stacklevel=5)
            if self.folder is not None:
                remove_later(self.folder, again.step)
            self.settings = again.settings
            self.engine = self.levels = None  # their memory too
            gc.collect()  # frames of the pass and its error may hold each other
            self.engine = self._build(index)
            if again.resumed is not None:
                restore_stage(self, again.resumed)

    def _run_stage(self) -> BilevelEngine:
        engine = self.engine
        assert engine is not None  # entered, or restored
        if self.halves and engine.step < engine.steps:
            try:
                # Not compiled: torch.compile would tune the model to the shape that it sees first.
                try_longest_rows(engine)
            except BaseException:
                engine.close()
                raise
        with (
            divergence_told(engine, self.folder),
            compiled(self.model, self.settings.torch_compile, levels=engine.levels),
        ):
            engine.run()
        return engine

    def seconds(self) -> float:
        """Return the time that the run has taken so far, in earlier processes too."""
        return self.seconds_before + time.perf_counter() - self._started

    def prepare(self, index: int) -> None:
        """Bring the model to where a stage starts, and note from which parameters."""
        if index > 0:
            self.entries.append(trained_values(self.model))
        stage, settings = self.stages[index], self.variant_settings
        spectrum = prepare_model(self.model, stage, self.start, variant_settings=settings, companion=self.companion)
        # A later stage that cuts nothing keeps the spectrum of the one that did.
        self.spectrum = spectrum or self.spectrum

    def enter(self, index: int) -> BilevelEngine:
        """Bring the model to where a stage starts, and return the stage's engine, ready to run."""
        before = self.engine
        try:
            self.prepare(index)
            self.points = Points(self)
            self.engine = self._build(index)
        except BaseException:
            # The stage before has left the callbacks open for this one.
            if before is not None:
                before.close()
            raise
        return self.engine

    def leave(self, engine: BilevelEngine) -> None:
        """Note what came of the stage that the engine has run."""
        assert self.levels is not None  # built with the engine
        best_steps = [watcher.best_step for watcher in self.watchers if isinstance(watcher, KeepBest | HeldOut)]
        place, upper = engine.place, engine.upper_level
        result = StageResult(
            name=place.name,
            steps=engine.step - place.steps_before,
            upper_steps=engine.upper_step - place.upper_steps_before,
            best_step=best_steps[-1] if best_steps else None,
            # Stopping at the last step stops nothing.
            stop_reason=engine.stop_reason if engine.step < engine.steps else None,
            skipped_steps=engine.lower_level.skipped.total,
            skipped_upper_steps=0 if upper is None else upper.skipped.total,
        )
        self.done.append(result)
        # Stages that split draw the same split first.
        self.splits = tuple(dict.fromkeys((*self.splits, *self.levels.splits)))

    def result(self) -> FitResult:
        """Return what came of the stages that are done."""
        last, engine = self.done[-1], self.engine
        validation = None if engine is None else engine.last_validation
        return FitResult(
            steps=sum(stage.steps for stage in self.done),
            upper_steps=sum(stage.upper_steps for stage in self.done),
            metrics=None if validation is None else validation.metrics,
            best_step=last.best_step,
            splits=self.splits,
            seconds=self.seconds(),
            stop_reason=last.stop_reason,
            stages=tuple(self.done),
            spectrum=self.spectrum,
            learned={} if self.companion is None else self.companion.learned(),
            skipped_steps=sum(stage.skipped_steps for stage in self.done),
            skipped_upper_steps=sum(stage.skipped_upper_steps for stage in self.done),
        )

    def _build(self, index: int) -> BilevelEngine:
        stage, settings = self.stages[index], self.settings
        # Anew for each stage, so that what it draws does not depend on what earlier ones drew.
        set_seed(settings.seed)
        self.levels = build_levels(
            self.model,
            self.rows,
            collate=self.collate,
            stage=stage,
            variant_settings=self.variant_settings,
            settings=settings,
            companion=self.companion,
            processes=self.processes,
            split=self.plan.split,
            groups=self.plan.groups,
            lower_optimizer=self.lower_optimizer,
        )
        for level in self.levels.both:
            level.count_terms = self.count_terms
            level.compute_loss = self.compute_loss
        if stage.rows == "upper":
            self.levels.lower.section = "upper"
        self.watchers = self._watchers(stage, self.levels)
        # From here on only masks are drawn, and every process draws its own.
        self.processes.fork_random_state(settings.seed)
        engine = BilevelEngine(
            self.levels.lower,
            self.levels.upper,
            steps=stage_steps(stage, settings),
            hypergradient=self.plan.hypergradient,
            validate=self.validate,
            validate_every=settings.validate_every or 0,
            callbacks=(*self.callbacks, *self.watchers, *((self.points,) if self.halves else ())),
            device=settings.device,
            meter=settings.meter,
            skip_diverged=settings.skip_diverged,
            place=place_of(self.stages, index, self.done, settings),
            processes=self.processes,
        )
        check_kept(engine, self.model, method=self.variant.name)
        return engine

    def _watchers(self, stage: Stage, levels: Levels) -> tuple[Callback, ...]:
        """Return fresh watchers: the best of one stage is not the best of another."""
        settings, watchers = self.settings, list[Callback]()
        if settings.skip_diverged and self.folder is not None:
            watchers.append(SkippedBatches(self.folder))
        monitor = None if stage.is_search and stage is not self.stages[-1] else self.monitor
        if monitor is not None and settings.keep_best:
            watchers.append(KeepBest(monitor))
        if monitor is not None and settings.early_stopping:
            watchers.append(EarlyStopping(monitor, patience=settings.early_stopping))
        if stage.watch is not None and levels.held_out is not None:
            watchers.append(HeldOut(levels.held_out, stage.watch))
        return tuple(watchers)
