"""The configuration of a run: what a YAML file or a command line may say."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from bilora.data.faults import OnBadRow
from bilora.engines.checkpoints.config_change import FREE
from bilora.engines.endings import Keep, build_ending
from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.engines.hypergradients.implicit import ProductSettings
from bilora.engines.settings import CompileMode, FitSettings, LevelSettings
from bilora.errors import SettingsError
from bilora.problems.catalog import find_variant
from bilora.settings.sections import build_section, refuse_faults, resolved
from bilora.tasks.catalog import find_task
from bilora.tasks.class_weights import check_class_weights
from bilora.tasks.kinds import find_kind
from bilora.tasks.labels import LabelledFiles
from bilora.tasks.sources import EMBEDDED_TASK

Check = tuple[str, str, bool]
"""A setting, what it must be, and whether it is."""


def config_checks(config: RunConfig) -> tuple[Check, ...]:
    """Return the checks, for :func:`~bilora.settings.sections.refuse_faults`.

    Example:
        >>> from bilora.runs.config import RunConfig
        >>> all(holds for _, _, holds in config_checks(RunConfig()))
        True
    """
    return (
        ("method", "give at least one", bool(config.method)),
        ("method", "each may stand once", len(set(config.method)) == len(config.method)),
        ("seeds", "give at least one", bool(config.seeds)),
        ("seeds", "each may stand once, and none may be negative", _are_seeds(config.seeds)),
        ("train_rows", "it must be at least 2, or none for all", config.train_rows is None or config.train_rows > 1),
        ("max_length", "it must be at least 1", config.max_length >= 1),
        ("overwrite", "it belongs to output, which is not given", config.output is not None or not config.overwrite),
        ("overwrite", "resume goes on with what it removes; take one", config.resume is None or not config.overwrite),
        (
            "shard_base",
            "a sharded model has no second derivative, and is not compiled; use products: finite_difference, no meter "
            "and torch_compile: off",
            not config.shard_base or _is_first_order(config),
        ),
        *_file_checks(config),
    )


def _file_checks(config: RunConfig) -> tuple[Check, ...]:
    given = config.train_file is not None
    with_file = "it belongs to train_file, which is not given"
    return (
        ("task", "it stands beside train_file; leave one of them out", not given or not config.task),
        ("data_dir", "it belongs to task; leave it or train_file out", not given or not config.data_dir),
        ("text_columns", with_file, given or config.text_columns is None),
        ("validation_file", with_file, given or config.validation_file is None),
        ("label_separator", with_file, given or config.label_separator is None),
        ("task_type", with_file, given or config.task_type is None),
        ("on_bad_row", with_file, given or config.on_bad_row == "error"),
    )


def _is_first_order(config: RunConfig) -> bool:
    """Return whether nothing is asked for that needs a second backward pass or a compiled model."""
    built = build_hypergradient(config.hypergradient)
    second = isinstance(built, ProductSettings) and built.products == "exact"
    return not (second or config.meter or config.torch_compile != "off")


def _are_seeds(seeds: list[int]) -> bool:
    return len(set(seeds)) == len(seeds) and all(each >= 0 for each in seeds)


@dataclass(frozen=True)
class RunConfig:
    """Methods to compare on a task, and how each is trained.

    Args:
        task: A GLUE task (cola sst2 mrpc stsb qqp mnli qnli rte wnli), ``rotten_tomatoes``, which is embedded,
            ``ncbi_disease``, or a data-to-text task (e2e webnlg dart). None is the embedded one, unless there is a
            ``train_file``.
        train_file: A file of labelled rows (csv, tsv, jsonl, parquet) in place of a task; its labels say what to learn.
        text_columns: The columns of the files with the text, one or two; for token classification that of the tokens.
        label_column: The column of the files with the labels; for token classification that of the tags. Several
            columns of 0 and 1 are one label each, of which a row may have any number.
        label_separator: What stands between the labels of a row in a csv or tsv file, where a row may have several.
        validation_file: The validation rows that belong to ``train_file``; None takes a share of its rows.
        validation_share: That share; 0 holds none out, and D2, on which the upper level is trained too, is watched.
        task_type: ``classification``, ``regression`` or ``token_classification``; None lets the labels decide.
        on_bad_row: Rows of these files that cannot be used: ``error`` refuses them, ``skip`` counts them, warns and
            leaves them out.
        data_dir: Folder with ``<task>/train.jsonl[.gz]`` and ``<task>/validation*.jsonl[.gz]``; None asks the hub.
        model: Hub id or folder of a pre-trained model, or ``smollm2``, which is embedded; None is the embedded MiniLM,
            and for data-to-text tasks ``smollm2``.
        method: Names of variants, or ``package.module:NAME``; each is run with every seed.
        method_settings: Settings of single methods, by method name.
        formulation: Formulation of the singular values, for every method that has them.
        task_settings: Settings of the kind of task, such as those of decoding.
        class_weights: Weights of the classes in the training loss of both levels: ``none``, ``auto`` (inverse to their
            frequency) or a mapping of names to weights. Validation losses are never weighted.
        train_rows: Training rows, drawn with the run's seed; None takes all.
        max_length: Largest number of tokens of a row.
        seeds: One run a seed and method.
        steps: Lower optimizer steps.
        unroll_steps: Lower steps an upper step.
        warmup_steps: Lower steps before the upper level may step.
        hypergradient: Name, or mapping with ``name`` and that approximation's own settings.
        meter: Upper steps between two readings of the hypergradient's quality; 0 takes none.
        lower: Settings of the lower level, or of the only one.
        upper: Settings of the upper level.
        ending: How each run ends: ``keep``, ``retrain`` or ``prune``, or a mapping with ``name`` and its own settings;
            None takes each method's own.
        split_ratio: Share of the training rows that go to the lower level.
        refresh: Draw a new split every so many epochs of the lower level; 0 keeps the first.
        validate_every: Lower steps between two validations; 0 validates at the end only.
        early_stopping: Validations without a better score before a run is stopped; 0 does not stop early.
        keep_best: Whether to end with the parameters of the best validation instead of the last ones.
        save_every: Lower steps between two checkpoints; 0 saves only when a signal ends the run.
        save_total_limit: Newest checkpoints to keep; 0 keeps all.
        skip_diverged: Steps in a row of a level that are skipped where a loss or gradient is not finite; one more ends
            the run. 0 skips none.
        on_save_error: ``stop`` or ``warn`` and go on, where a checkpoint cannot be written.
        on_out_of_memory: ``stop``, or ``halve`` the level's batch, double its accumulation, and start the stage again.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        group_by_length: Whether a batch holds rows of nearly one length, which saves padding.
        torch_compile: ``off``, or torch.compile's mode: ``default``, ``reduce-overhead`` or ``max-autotune``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
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
        >>> RunConfig(method=["lora"], seeds=[0]).task
        'rotten_tomatoes'
    """

    task: str | None = None
    train_file: str | None = None
    text_columns: list[str] | None = None
    label_column: str | list[str] = "label"
    label_separator: str | None = None
    validation_file: str | None = None
    validation_share: float = 0.1
    task_type: str | None = None
    on_bad_row: OnBadRow = "error"
    data_dir: str | None = None
    model: str | None = None
    method: list[str] = field(default_factory=lambda: ["bilora", "lora"])
    method_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    formulation: str | None = None
    task_settings: dict[str, Any] = field(default_factory=dict)
    class_weights: str | dict[str, float] = "none"
    train_rows: int | None = None
    max_length: int = 128
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    steps: int = 300
    unroll_steps: int = 4
    warmup_steps: int = 0
    hypergradient: str | dict[str, Any] = "darts"
    meter: int = 0
    lower: LevelSettings = field(default_factory=LevelSettings)
    upper: LevelSettings = field(default_factory=lambda: LevelSettings(learning_rate=1e-2))
    ending: str | dict[str, Any] | None = None
    split_ratio: float = 0.8
    refresh: int = 0
    validate_every: int = 0
    early_stopping: int = 0
    keep_best: bool = False
    save_every: int = 0
    save_total_limit: int = 0
    skip_diverged: int = 0
    on_save_error: Literal["stop", "warn"] = "stop"
    on_out_of_memory: Literal["stop", "halve"] = "stop"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    group_by_length: bool = False
    torch_compile: CompileMode = "off"
    device: str = "auto"
    shard_base: bool = False
    output: str | None = None
    overwrite: bool = False
    resume: str | None = None
    allow_config_change: bool = False
    debug: bool = False

    def __post_init__(self) -> None:
        """Check everything that can be checked before any file is read."""
        self._fill_in()
        if self.task is not None:
            find_task(self.task).with_settings(self.task_settings)
        if self.task_type is not None:
            find_kind(self.task_type)
        refuse_faults("config", self, config_checks(self))
        if weight_faults := check_class_weights(self.class_weights):
            raise SettingsError("config: " + "; ".join(weight_faults))
        self.labelled_files()
        self.fit_settings(seed=self.seeds[0])
        self._check_methods()

    def fit_settings(self, *, seed: int) -> FitSettings:
        """Return the part of the config that :func:`~bilora.engines.training.fit.fit` takes."""
        names = [each.name for each in dataclasses.fields(FitSettings) if each.name != "seed"]
        return FitSettings(seed=seed, **{name: getattr(self, name) for name in names})

    def labelled_files(self) -> LabelledFiles | None:
        """Return the files to read in place of a task, or None."""
        if self.train_file is None:
            return None
        return LabelledFiles(
            self.train_file,
            tuple(self.text_columns or ()),
            self.label_column if isinstance(self.label_column, str) else "label",
            label_columns=() if isinstance(self.label_column, str) else tuple(self.label_column),
            label_separator=self.label_separator,
            validation=self.validation_file,
            validation_share=self.validation_share,
            task_type=self.task_type,
            on_bad_row=self.on_bad_row,
        )

    def settings_of(self, method: str) -> Any:
        """Return the settings object of a method: its own section, and the formulation where it has one."""
        variant = find_variant(method)
        own = dict(self.method_settings.get(method, {}))
        if self.formulation is not None and has_formulation(method):
            own.setdefault("formulation", self.formulation)
        return build_section(variant.settings, own, kind=f"method {method!r}")

    def of_run(self, method: str, seed: int) -> RunConfig:
        """Return the config of one of the runs, without what only the other methods read."""
        return dataclasses.replace(
            self,
            method=[method],
            seeds=[seed],
            method_settings={name: own for name, own in self.method_settings.items() if name == method},
            formulation=self.formulation if has_formulation(method) else None,
            # A config that is written down and read again must not remove anything.
            overwrite=False,
        )

    def sha256(self, method: str, seed: int) -> str:
        """Return the hash of everything that decides the numbers of one run: all settings but the output folder."""
        said = {name: value for name, value in resolved(self.of_run(method, seed)).items() if name not in FREE}
        if self.label_separator is None:
            del said["label_separator"]  # so that the hash of a run is that of before there was such a setting
        said["method_settings"] = resolved(self.settings_of(method))
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def _fill_in(self) -> None:
        if self.task is None and self.train_file is None:
            object.__setattr__(self, "task", EMBEDDED_TASK)
        if isinstance(self.label_column, list) and len(self.label_column) == 1:
            # One word of a command line is a list of one; the hash of a run is that of the plain name, as before.
            object.__setattr__(self, "label_column", self.label_column[0])
        if isinstance(self.class_weights, dict):
            # YAML reads {0: 1.5}, and the classes of a file are called "0" and "1".
            named = {str(name): float(weight) for name, weight in self.class_weights.items()}
            object.__setattr__(self, "class_weights", named)

    def _check_methods(self) -> None:
        if self.formulation is not None and not any(has_formulation(each) for each in self.method):
            raise SettingsError(
                f"formulation is {self.formulation!r}, but none of the methods {', '.join(self.method)} has singular "
                "values; leave it out"
            )
        self._check_ending()
        # A section of a method that is not run is allowed: a file may hold settings for all that are compared.
        for method in (*self.method, *self.method_settings):
            self.settings_of(method)

    def _check_ending(self) -> None:
        if self.ending is None:
            return
        ending = build_ending(self.ending)
        if not isinstance(ending, Keep) and not any(
            ending.stages(find_variant(each), self.settings_of(each)) for each in self.method
        ):
            raise SettingsError(
                f"ending is {self.ending!r}, which means nothing for the methods {', '.join(self.method)}; leave it out"
            )


def has_formulation(method: str) -> bool:
    """Return whether a method has pseudo singular values.

    Example:
        >>> has_formulation("bilora"), has_formulation("lora")
        (True, False)
    """
    settings = find_variant(method).settings
    return dataclasses.is_dataclass(settings) and "formulation" in {each.name for each in dataclasses.fields(settings)}
