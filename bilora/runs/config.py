"""The configuration of a run: what a YAML file or a command line may say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from bilora.data.faults import OnBadRow
from bilora.engines.endings import Keep, build_ending
from bilora.engines.settings import OPEN, FitSettings, reopened
from bilora.engines.training.stages import run_stages
from bilora.errors import SettingsError, first_ten
from bilora.problems.catalog import DEFAULT_METHOD, find_variant
from bilora.problems.levels.level import Level
from bilora.problems.stage import Stage
from bilora.problems.variant import Variant
from bilora.settings.sections import build_section, refuse_faults
from bilora.tasks.catalog import find_task
from bilora.tasks.class_weights import check_class_weights
from bilora.tasks.kinds import find_kind
from bilora.tasks.labels import LabelledFiles
from bilora.tasks.places import is_place
from bilora.tasks.sources import EMBEDDED_TASK

Road = Literal["auto", "trusted_only", "noisy_then_trusted", "correction_then_trusted", "method"]
DEFAULT_ROAD: Road = "noisy_then_trusted"

# Share of the rows of a file that is held out for validation where no other is given.
HELD_OUT = 0.1

# Settings of the adapter that every method has.
ADAPTER = ("rank", "alpha", "dropout", "target_modules")


@dataclass(frozen=True)
class RunConfig(FitSettings):
    """One run: a method on a task, and how it is trained.

    Args:
        task: A GLUE task (cola sst2 mrpc stsb qqp mnli qnli rte wnli), ``rotten_tomatoes``, which is embedded,
            ``ncbi_disease``, or a data-to-text task (e2e webnlg dart); a folder or a hub id is a ``train_file``. None
            is the embedded one, unless there is a ``train_file``.
        train_file: A file of labelled rows (csv, tsv, json, jsonl, parquet, xlsx) in place of a task; its labels say
            what to learn. Or a folder with a file for each set, such as ``train.csv`` and ``validation.csv``; or a hub
            id, ``owner/name`` or ``owner/name/configuration``.
        text_columns: The columns of the files with the text, one or two; for token classification that of the tokens.
        label_column: The column of the files with the labels; for token classification that of the tags. Several
            columns of 0 and 1 are one label each, of which a row may have any number.
        label_separator: What stands between the labels of a row in a csv or tsv file, where a row may have several.
        validation_file: The validation rows that belong to ``train_file``; None takes a share of its rows.
        validation_share: That share; 0 holds none out, and D2, on which the upper level is trained too, is watched.
            None is a tenth, and in ``bilora train`` 0 where D2 can be watched.
        task_type: ``classification``, ``multilabel_classification``, ``regression``, ``token_classification`` or
            ``generation``; None lets the labels decide.
        trusted_file: Rows that somebody has checked, in the form of ``train_file``, whose rows are doubtful then: at
            least one of each class, and ten in all.
        trusted_column: The column of ``train_file`` that marks such rows by true, 1 or yes, in place of a file.
        road: What is made of doubtful and trusted rows: ``trusted_only`` leaves the doubtful ones out,
            ``noisy_then_trusted`` trains on them and goes on with the others, ``correction_then_trusted`` does so with
            a loss that knows how labels go wrong, ``method`` trains ``method`` with the trusted rows as D2, and
            ``auto`` tries the first three on folds of the trusted rows, in ``bilora train``. None is ``auto`` there,
            and elsewhere ``noisy_then_trusted``, unless a method is named.
        source_column: The column of ``train_file`` with the source of each row, for a method that learns of sources.
        weight_column: The column of ``train_file`` with the weight of each row in the training loss; trusted
            rows have 1.
        group_column: The column of ``train_file`` by which rows belong together, such as those of one customer or one
            document; no group is on two sides of a split: validation, D1 and D2, and folds. An empty cell is a group
            of its own.
        on_bad_row: Rows of these files that cannot be used: ``error`` refuses them, ``skip`` counts them, warns and
            leaves them out.
        data_dir: Folder with ``<task>/train.jsonl[.gz]`` and ``<task>/validation*.jsonl[.gz]``; None asks the hub.
        model: Hub id or folder of a pre-trained model, or ``smollm2``, which is embedded; None is the embedded MiniLM,
            and for data-to-text tasks ``smollm2``.
        revision: The branch, tag or commit of the model on the hub, which is pinned by it; the adapter and its model
            card name it too. None takes the newest.
        method: Name of the variant, or ``package.module:NAME``; left out, it is the one that has nothing to tune.
        method_settings: Settings of single methods, by method name.
        formulation: Formulation of the singular values, for a method that has them.
        rank: Rank of the adapter, where ``method_settings`` has none for the method; 8 without either.
        alpha: The update is scaled by alpha / rank; in the same way, 16 without.
        dropout: Dropout on the input of the adapter; in the same way, 0 without.
        target_modules: Layers to adapt, by name, or ``all-linear``; in the same way, PEFT's choice without.
        task_settings: Settings of the kind of task, such as those of decoding.
        class_weights: Weights of the classes in the training loss of both levels: ``none``, ``auto`` (inverse to their
            frequency) or a mapping of names to weights. Validation losses are never weighted.
        train_rows: Training rows, drawn with the run's seed; None takes all.
        flip_labels: Share of the training rows that get a wrong class, drawn with the run's seed, for studies of noise;
            None for none. Rows that are held out or given for validation keep theirs.
        max_length: Largest number of tokens of a row.
        shard_base: Whether several processes cut the frozen base model up among them, instead of a copy in each.
        output: Folder of the results; None takes the next free ``runs/<task>-N``.
        overwrite: Whether an earlier run in ``output`` is removed before this one begins; only the files that a run
            writes are, and nothing is before everything that can be checked has been.
        resume: The output folder of an earlier command: finished runs are kept, the one that was interrupted goes on.
            ``auto`` does so with ``output`` if something is there, and starts anew if not.
        allow_config_change: Whether learning rates, schedules, clipping, steps and validation may differ on a resume.
        debug: Whether to show where in the program an error was raised.

    Raises:
        SettingsError: A value is unknown or out of range.

    Example:
        >>> RunConfig(method="lora").task
        'rotten_tomatoes'
    """

    # A file or a command line gives no object.
    hypergradient: str | dict[str, Any] = OPEN
    task: str | None = None
    train_file: str | None = None
    text_columns: list[str] | None = None
    label_column: str | list[str] = "label"
    label_separator: str | None = None
    validation_file: str | None = None
    validation_share: float | None = None
    task_type: str | None = None
    trusted_file: str | None = None
    trusted_column: str | None = None
    road: Road | None = None
    source_column: str | None = None
    weight_column: str | None = None
    group_column: str | None = None
    on_bad_row: OnBadRow = "error"
    data_dir: str | None = None
    model: str | None = None
    revision: str | None = None
    method: str = DEFAULT_METHOD
    method_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    formulation: str | None = None
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    target_modules: str | list[str] | None = None
    task_settings: dict[str, Any] = field(default_factory=dict)
    class_weights: str | dict[str, float] = "none"
    train_rows: int | None = None
    flip_labels: float | None = None
    max_length: int = 128
    shard_base: bool = False
    output: str | None = None
    overwrite: bool = False
    resume: str | None = None
    allow_config_change: bool = False
    debug: bool = False

    UNSAID: ClassVar[Mapping[str, Any]] = {**FitSettings.UNSAID, "validation_share": HELD_OUT}
    # What is trained on where neither a task nor a file is named.
    DEFAULT_TASK: ClassVar[str | None] = EMBEDDED_TASK
    # The road where rows are trusted, and neither a road nor a method is named.
    ROAD_UNSAID: ClassVar[Road] = DEFAULT_ROAD

    def __post_init__(self) -> None:
        """Check everything that can be checked before any file is read."""
        super().__post_init__()
        if self.task is not None:
            find_task(self.task).with_settings(self.task_settings)
        if self.task_type is not None:
            find_kind(self.task_type)
        refuse_faults("config", self, self._checks())
        if weight_faults := check_class_weights(self.class_weights):
            raise SettingsError(f"config: {first_ten(weight_faults, '; ')}")
        # Built for the checks of their own, and once more with the columns that are found in the file.
        self.labelled_files()
        self._check_method()

    def fit_settings(self) -> FitSettings:
        """Return the part of the config that :func:`~bilora.engines.training.fit.fit` takes."""
        return self.as_base(FitSettings)

    @property
    def has_trusted(self) -> bool:
        """Whether some rows are trusted, and the others doubtful."""
        return self.trusted_file is not None or self.trusted_column is not None

    @property
    def held_out(self) -> float:
        """Share of the rows of ``train_file`` that is held out where it has no ``validation_file``."""
        return self.validation_share or 0.0

    @property
    def leaves_upper(self) -> bool:
        """Whether D2 stays what it is, and nothing but an upper level trains on it."""
        # A lower level that trained on D2, as in retraining, or that is given its rows by a refreshed split, fits them;
        # the loss there would say nothing.
        trained = [stage for stage in self.stages if stage.steps != 0]
        return not self.refresh and bool(trained) and all(stage.upper is not None for stage in trained)

    def labelled_files(self, text_columns: Sequence[str] | None = None) -> LabelledFiles | None:
        """Return the files to read in place of a task, or None, also where the columns are not known yet.

        ``text_columns`` are those that were found in the files.
        """
        columns = text_columns or self.text_columns
        if self.train_file is None or columns is None:
            return None
        return LabelledFiles(
            self.train_file,
            tuple(columns),
            self.label_column if isinstance(self.label_column, str) else "label",
            label_columns=() if isinstance(self.label_column, str) else tuple(self.label_column),
            label_separator=self.label_separator,
            validation=self.validation_file,
            validation_share=self.held_out,
            task_type=self.task_type,
            on_bad_row=self.on_bad_row,
            trusted=self.trusted_file,
            trusted_column=self.trusted_column,
            row_columns=tuple(name for name in (self.source_column, self.weight_column, self.group_column) if name),
            group_column=self.group_column,
        )

    # Looked up and built once: the plan, the run and its hash all ask for these.
    @cached_property
    def variant(self) -> Variant:
        """The method's variant."""
        return find_variant(self.method)

    @cached_property
    def variant_settings(self) -> Any:
        """The settings object of the method: its own section, and the formulation where it has one."""
        return self._section(self.variant, self.method)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the run, those of its ending among them."""
        return run_stages(self.variant, self.variant_settings, self)

    def settings_of(self, method: str) -> Any:
        """Return the settings object of any method."""
        return self.variant_settings if method == self.method else self._section(find_variant(method), method)

    def _section(self, variant: Variant, method: str) -> Any:
        section = dict(self.method_settings.get(method, {}))
        if self.formulation is not None and has_formulation(method):
            section.setdefault("formulation", self.formulation)
        for name in ADAPTER:
            if (value := getattr(self, name)) is not None:
                section.setdefault(name, value)
        return build_section(variant.settings, section, kind=f"method {method!r}")

    def of(self, method: str, seed: int) -> RunConfig:
        """Return the config of a run of another method, without what this method does not read."""
        parts: dict[str, Any] = {
            "method": method,
            "seed": seed,
            "method_settings": {name: section for name, section in self.method_settings.items() if name == method},
            "formulation": self.formulation if self._concerns("formulation", method) else None,
            "ending": self.ending if self._concerns("ending", method) else None,
            "road": self.road if method == self.method else "method" if self.road else None,
            # A config that is written down and read again must not remove anything.
            "overwrite": False,
            # Another method may have other defaults.
            **(reopened(self) if method != self.method else {}),
        }
        changed = {name: value for name, value in parts.items() if value != getattr(self, name)}
        # A new config is checked anew, and works out variant and stages again.
        return dataclasses.replace(self, **changed) if changed else self

    @property
    def method_defaults(self) -> Mapping[str, Any]:
        """The values of the method for what is left out."""
        return self.variant.defaults

    def _fill_in(self) -> None:
        # By object.__setattr__, the one way into a frozen dataclass.
        # First: a method may have other defaults.
        if self.has_trusted:
            road: Road = self.road or (self.ROAD_UNSAID if self.method == DEFAULT_METHOD else "method")
            object.__setattr__(self, "road", road)
            if road != "method" and self.method == DEFAULT_METHOD:
                object.__setattr__(self, "method", ROADS[DEFAULT_ROAD if road == "auto" else road])
        super()._fill_in()
        if self.task is not None and self.train_file is None and is_place(self.task):
            object.__setattr__(self, "train_file", self.task)
            object.__setattr__(self, "task", None)
        if self.task is None and self.train_file is None:
            object.__setattr__(self, "task", self.DEFAULT_TASK)
        if isinstance(self.label_column, list) and len(self.label_column) == 1:
            # One word of a command line is a list of one; the hash of a run is that of the plain name, as before.
            object.__setattr__(self, "label_column", self.label_column[0])
        if isinstance(self.class_weights, dict):
            # YAML reads {0: 1.5}, and the classes of a file are called "0" and "1".
            weights = {str(name): float(weight) for name, weight in self.class_weights.items()}
            object.__setattr__(self, "class_weights", weights)

    def _checks(self) -> tuple[tuple[str, str, bool], ...]:
        """Return the checks, for :func:`~bilora.settings.sections.refuse_faults`."""
        files, with_file = self.train_file is not None, "it belongs to train_file, which is not given"
        # A setting that would be read by nothing is refused, so that nobody takes it for done.
        return (
            ("seed", "it must not be negative", self.seed >= 0),
            ("train_rows", "it must be at least 2, or none for all", self.train_rows is None or self.train_rows > 1),
            ("flip_labels", "it is a share of the training rows, in [0, 1)", 0 <= (self.flip_labels or 0) < 1),
            ("max_length", "it must be at least 1", self.max_length >= 1),
            ("overwrite", "it belongs to output, which is not given", self.output is not None or not self.overwrite),
            ("overwrite", "resume goes on with what it removes; take one", self.resume is None or not self.overwrite),
            (
                "shard_base",
                "a sharded model has no second derivative, and is not compiled; use products: finite_difference, no "
                "meter and torch_compile: off",
                not self.shard_base or not (self.second_derivatives or self.meter or self.torch_compile != "off"),
            ),
            ("task", "it stands beside train_file; leave one of them out", not files or not self.task),
            ("data_dir", "it belongs to task; leave it or train_file out", not files or not self.data_dir),
            ("text_columns", with_file, files or self.text_columns is None),
            ("validation_file", with_file, files or self.validation_file is None),
            ("label_separator", with_file, files or self.label_separator is None),
            ("task_type", with_file, files or self.task_type is None),
            ("on_bad_row", with_file, files or self.on_bad_row == "error"),
            ("trusted_file", with_file, files or self.trusted_file is None),
            ("trusted_column", with_file, files or self.trusted_column is None),
            (
                "trusted_file",
                "trusted_column names the same rows in another way; take one",
                self.trusted_file is None or self.trusted_column is None,
            ),
            ("road", "it is for trusted rows; give trusted_file or trusted_column", self.has_trusted or not self.road),
            (
                "road",
                f"it has a method of its own, and method is {self.method!r}; leave one out, or set road to method",
                self.road not in ROADS or self.method == ROADS[self.road],
            ),
            (
                "road",
                f"bilora train alone decides by trials; take {', '.join(ROADS)} or method",
                self.road != "auto" or self.ROAD_UNSAID == "auto",
            ),
            (
                "road",
                f"it chooses the method, and method is {self.method!r}; leave one out",
                self.road != "auto" or self.method == ROADS[DEFAULT_ROAD],
            ),
            ("source_column", with_file, files or self.source_column is None),
            ("weight_column", with_file, files or self.weight_column is None),
            ("revision", "it is of a model on the hub; give model", self.revision is None or self.model is not None),
            ("group_column", with_file, files or self.group_column is None),
            (
                "validation_share",
                "the trusted rows are D2, and trained on; give validation_file, or a share above 0",
                not self.has_trusted or self.validation_file is not None or self.validation_share != 0,
            ),
        )

    def _check_method(self) -> None:
        # A section of a method that is not run is allowed: a file may hold settings for all that are compared.
        for method in (self.method, *self.method_settings):
            self.settings_of(method)
        for name in ("formulation", "ending"):
            if not self._concerns(name, self.method):
                raise SettingsError(
                    f"{name} is {getattr(self, name)!r}, which means nothing for method {self.method}; leave it out, "
                    "or choose another method"
                )
        if self.source_column is not None and "sources" not in self.variant.row_marks:
            raise SettingsError(
                f"source_column is {self.source_column!r}, and method {self.method} learns nothing of sources; leave "
                "it out"
            )
        is_weighed = self.class_weights != "none" or self.weight_column is not None
        # A user's own settings may be any dataclass.
        own_weights = getattr(self.variant_settings, "own_row_weights", None) if is_weighed else None
        if own_weights is not None:
            name = "weight_column" if self.class_weights == "none" else "class_weights"
            raise SettingsError(
                f"{name} is {getattr(self, name)!r}, and method {self.method} with {own_weights} weighs rows by "
                "itself; leave one out"
            )
        levels = [level for stage in self.stages for level in (stage.lower, stage.upper) if level is not None]
        own = [level for level in levels if level.training_step is not Level.training_step and not level.reads_weights]
        if self.class_weights != "none" and not all(level.weighs_classes for level in levels):
            raise SettingsError(
                f"class_weights is {self.class_weights!r}, and method {self.method} computes a loss of its own, "
                "without them; leave it out"
            )
        if self.weight_column is not None and own:
            raise SettingsError(
                f"weight_column is {self.weight_column!r}, and method {self.method} has a loss of its own, which does "
                "not weigh rows; leave it out"
            )

    def _concerns(self, name: str, method: str) -> bool:
        """Return whether formulation or ending, where one is given, means something for a method."""
        if getattr(self, name) is None:
            return True
        if name == "formulation":
            return has_formulation(method)
        ending = build_ending(self.ending or "")
        # To keep the adapter as it is takes no stage and means something everywhere.
        return isinstance(ending, Keep) or bool(ending.stages(find_variant(method), self.settings_of(method)))


# The road to a model where rows are trusted: the method of each, ``method`` standing for the one that is named.
ROADS = {
    "trusted_only": "self_tuned",
    "noisy_then_trusted": "noisy_then_trusted",
    "correction_then_trusted": "correction_then_trusted",
}


def has_formulation(method: str) -> bool:
    """Return whether a method has pseudo singular values, of which a formulation can be chosen."""
    settings = find_variant(method).settings  # a user's own may be any callable
    return is_dataclass(settings) and any(setting.name == "formulation" for setting in fields(settings))
