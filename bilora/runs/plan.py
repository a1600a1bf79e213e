"""The plan of a run: method, stages, task, rows and their first D1 and D2, checked before a model is read."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bilora.artifacts.scored_on import UPPER
from bilora.data.flipped_labels import flip_labels
from bilora.data.loaders import check_batch
from bilora.data.row_marks import TrainingRows
from bilora.data.rows import Rows
from bilora.data.sets import TaskRows, shared_texts
from bilora.data.split import Split, split_rows
from bilora.data.trusted_rows import check_weights
from bilora.engines.training.plan import Plan
from bilora.engines.training.split_loaders import refuse_refresh, with_upper_batch
from bilora.errors import SettingsError, first_ten
from bilora.processes.devices import choose_device, has_bf16
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.processes.sharded import ALONE
from bilora.runs.columns import Columns, find_columns
from bilora.runs.config import RunConfig
from bilora.tasks.catalog import find_task
from bilora.tasks.class_weights import resolve_class_weights
from bilora.tasks.labelled_files import load_labelled_files
from bilora.tasks.row_weights import row_weighted_loss
from bilora.tasks.sources import EMBEDDED_TASK, take_rows
from bilora.tasks.targets import TargetScale
from bilora.tasks.task import AnyTask


@dataclass(frozen=True, kw_only=True)
class RunPlan(Plan):
    """The plan of a fit, and the config, the task and the rows that it is of."""

    config: RunConfig
    rows: TaskRows  # where none are held out, the run's D2 is the set that is watched and scored
    train: Rows  # D1 and D2 together, where both are drawn of them

    def __post_init__(self) -> None:
        """Check what needs config and rows together."""
        super().__post_init__()
        config = self.config
        self._check_room()
        if self.rows.upper is not None and not config.has_trusted and (config.early_stopping or config.keep_best):
            scored = next(iter(self.rows.validation))
            raise SettingsError(
                f"early_stopping and keep_best would choose by the {scored} set, which gives the score, since the "
                "validation set is D2; set task_settings.d2 to split, or leave both out"
            )
        if config.shard_base and self.processes.count == 1:
            raise SettingsError(ALONE)
        if self.variant.own_loss:
            self._check_own_loss()
        # Refuses labels that are all the same.
        self.target_scale  # noqa: B018
        if config.weight_column is not None:
            row_weighted_loss(self.task, None)  # refuses rows without one class each
        # Refuses a class that is to be weighted and has no row.
        self.class_weights()

    @property
    def task(self) -> AnyTask:
        """How the rows are read, trained on and scored."""
        return self.rows.task

    @functools.cached_property
    def target_scale(self) -> TargetScale | None:
        """Mean and deviation of the labels, where those are numbers."""
        return self.task.target_scale(self.train)

    @property
    def targets(self) -> Mapping[str, float] | None:
        """The same for the manifest of a checkpoint."""
        return None if self.target_scale is None else dataclasses.asdict(self.target_scale)

    def class_weights(self) -> tuple[float, ...] | None:
        """Return the weight of each class in the losses, or None where all weigh the same."""
        if self.config.class_weights == "none":
            return None
        return resolve_class_weights(self.config.class_weights, self.task.class_counts(self.train))

    def _check_own_loss(self) -> None:
        """Refuse rows and weights of classes that a loss which a method computes itself has no use for."""
        column = self.config.source_column
        sources = [None if column is None else row[column] for row in self.train]
        pairs = zip(self.train.labels, sources, strict=True)
        self.variant.check_rows(TrainingRows.of([{"labels": label, "source": source} for label, source in pairs]))
        if self.config.class_weights != "none":
            raise SettingsError(
                f"class_weights is {self.config.class_weights!r}, and method {self.config.method!r} computes a loss of "
                "its own, without them; leave it out"
            )

    def _check_room(self) -> None:
        """Refuse rows that do not fill a batch of each level; a row may make several examples."""
        # Looked up once, not once per row: a file may have millions.
        count_of = self.task.examples_of
        examples = [count_of(row) for row in self.train]
        given = 0 if self.rows.upper is None else sum(map(count_of, self.rows.upper))
        # A method that draws no split trains its lower level on all there is, on rows meant for D2 too.
        parts = {"lower": sum(examples) + given}
        if self.splits_rows and self.split is None:
            refuse_refresh(self.settings)
            parts = {"lower": sum(examples), "upper": given}
        elif self.split is not None:
            parts = {level: sum(examples[row] for row in getattr(self.split, level)) for level in ("lower", "upper")}
        settings, share = self.settings, self.processes.share
        if any(stage.small_upper for stage in self.stages) and "upper" in parts:
            settings = with_upper_batch(settings, parts["upper"], share)
        for level, count in parts.items():
            size = getattr(settings, level).batch_size
            check_batch(count, part=level, batch_size=size, share=share)


def plan_run(config: RunConfig, rows: TaskRows, *, processes: Processes = ONE_PROCESS) -> RunPlan:
    """Return the plan of a run on the rows of its config, checked; no model is read for it."""
    # Refuses a device that is not there, before a model is loaded.
    choose_device(config.device)
    rows = rows_of_road(config, rows)
    train = training_rows(config, rows.train, rows.task)
    split = _first_split(config, rows, train)
    return RunPlan(
        variant=config.variant,
        variant_settings=config.variant_settings,
        settings=config.fit_settings(),
        stages=config.stages,
        split=split,
        groups=train.groups,
        processes=processes,
        config=config,
        rows=rows if rows.validation else _with_upper_watched(config, rows, train, split),
        train=train,
    )


def rows_of_road(config: RunConfig, rows: TaskRows) -> TaskRows:
    """Return the rows that the road of a run trains on: D1 and D2 are drawn of trusted rows that stand alone."""
    if config.road != "trusted_only":
        return rows
    assert rows.upper is not None  # read with a trusted_file or trusted_column
    return dataclasses.replace(rows, train=rows.upper, upper=None)


def load_run_rows(config: RunConfig) -> TaskRows:
    """Return the checked rows of the config's files, or of its task; no validation set where no row is held out.

    Columns that the config leaves open are found, and notices say which they are.
    """
    if config.train_file is None:
        return find_task(config.task or EMBEDDED_TASK).with_settings(config.task_settings).load_rows(config.data_dir)
    columns = find_columns(config)
    rows = rows_of(columns)
    return dataclasses.replace(rows, notices=(*columns.found, *rows.notices))


def rows_of(columns: Columns[Any]) -> TaskRows:
    """Return the checked rows of files whose columns are found, or of the task of a config without files."""
    config: RunConfig = columns.config
    files = config.labelled_files(columns.texts)
    if files is None:
        return load_run_rows(config)
    rows = load_labelled_files(files, columns.records)
    if config.weight_column is not None:
        check_weights(rows.train, config.weight_column)
    return dataclasses.replace(rows, task=rows.task.with_settings(config.task_settings))


def training_rows(config: RunConfig, rows: Rows, task: AnyTask) -> Rows:
    """Return the training rows of a run, with the labels that it trains on."""
    # Both are about the doubtful rows, where others are trusted.
    if config.road == "trusted_only":
        return rows
    drawn = rows if config.train_rows is None else take_rows(rows, config.train_rows, seed=config.seed)
    if not config.flip_labels:
        return drawn
    return flip_labels(drawn, config.flip_labels, task=task, seed=config.seed)


def flipped_labels(plans: Iterable[RunPlan]) -> tuple[str, ...]:
    """Return a notice of the training labels that were flipped on purpose, for each seed that had some flipped."""
    notices = []
    for plan in {plan.config.seed: plan for plan in plans if plan.config.flip_labels}.values():
        given = dict(zip(plan.rows.train.ids, plan.rows.train.labels, strict=True))
        flips = sum(given[name] != label for name, label in zip(plan.train.ids, plan.train.labels, strict=True))
        notices.append(
            f"{flips:,} of {len(plan.train):,} training labels are wrong on purpose: flip_labels is "
            f"{plan.config.flip_labels:g}, seed {plan.config.seed}"
        )
    return tuple(notices)


def slow_precision(config: RunConfig) -> tuple[str, ...]:
    """Return a notice of a precision that the device computes in, but far slower than in float32."""
    device = choose_device(config.device)
    if config.precision != "bf16" or device.type != "cpu" or has_bf16(device):
        return ()
    return (
        "this CPU has no instructions for bf16, which takes it many times as long as fp32; --precision auto takes what "
        "is fast",
    )


def scored_sets(config: RunConfig) -> dict[str, Rows]:
    """Return the rows that a run was scored on, by the name of the set."""
    rows = rows_of_road(config, load_run_rows(config))
    train = training_rows(config, rows.train, rows.task)
    return rows.validation or _with_upper_watched(config, rows, train, _first_split(config, rows, train)).validation


def _first_split(config: RunConfig, rows: TaskRows, train: Rows) -> Split | None:
    """Return the first D1 and D2, which the seed alone decides; None where none is drawn."""
    if rows.upper is not None or not any(stage.splits for stage in config.stages):
        return None
    return split_rows(train.labels, ratio=config.split_ratio, seed=config.seed, groups=train.groups)


def _with_upper_watched(config: RunConfig, rows: TaskRows, train: Rows, split: Split | None) -> TaskRows:
    """Return rows of which none are held out, with the run's first D2 as the set that is watched and scored."""
    # The loss on rows that a lower level has fitted would go down whatever the model has learned.
    if split is None or not config.leaves_upper:
        raise SettingsError(
            "validation_share is 0, so that D2 would be watched: that takes refresh 0 and a method whose upper level "
            f"alone trains on D2, and here are refresh {config.refresh} and method {config.method}; give "
            "validation_file, or a validation_share above 0"
        )
    upper = train.select(split.upper)
    notice = (
        f"no row is held out: the best step is chosen by D2, {len(upper)} of the {len(train)} rows, which the upper "
        "level is trained on too, and the score is of them; give --validation-file, or --validation-share 0.1, for one "
        "of rows that nothing has seen"
    )
    return dataclasses.replace(rows, validation={UPPER: upper}, notices=(*rows.notices, notice))


def not_in_upper(plans: Iterable[RunPlan]) -> tuple[str, ...]:
    """Return a notice of classes with several training rows of which none is in D2, where D2 is drawn."""
    notices = dict[str, None]()
    for plan in plans:
        if plan.split is None or not all(type(label) is int for label in plan.train.labels):
            continue
        counts = Counter(plan.train.labels)
        upper = {plan.train.labels[row] for row in plan.split.upper}
        names = enumerate(plan.task.class_counts(plan.train))
        if missing := [repr(name) for index, name in names if counts[index] > 1 and index not in upper]:
            notices[
                f"D2 has {len(plan.split.upper)} rows, and none of {first_ten(missing)}: what the upper level learns "
                "is not judged by them; give more rows, or a smaller --split-ratio"
            ] = None
    return tuple(notices)


def shared_by_levels(plans: Iterable[RunPlan]) -> tuple[str, ...]:
    """Return a notice of texts that are in D1 and in D2, where D2 is drawn."""
    shared, rows = [], 0
    # The seed decides the first split; those that refresh draws later may share other texts.
    for plan in {plan.config.seed: plan for plan in plans if plan.split is not None}.values():
        assert plan.split is not None
        upper = plan.train.select(plan.split.upper)
        shared.append(shared_texts(plan.task, plan.train.select(plan.split.lower), upper))
        rows = len(upper)
    if not any(shared):
        return ()
    counts = " to ".join(f"{count:,}" for count in sorted({min(shared), max(shared)}))
    return (
        f"{counts} of {rows:,} rows of D2 have the text of a row of D1, so that the upper level partly sees what "
        "the lower level has learned by heart; keep one row of each text",
    )
