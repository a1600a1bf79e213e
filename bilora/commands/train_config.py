"""The configuration of ``bilora train``: that of a run, with defaults that need no thought."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from bilora.engines.callbacks.trackers import check_loggers
from bilora.errors import SettingsError
from bilora.runs.config import DEFAULT_ROAD, HELD_OUT, Road, RunConfig
from bilora.settings.arguments import check_fields
from bilora.settings.sections import BEYOND, refuse_faults
from bilora.tasks.labels import LabelledFiles

# Validations of a run whose user does not say how often.
VALIDATIONS = 20
# Of a run whose user says neither epochs nor steps. Ten epochs of a few rows are a handful of steps, too few to learn
# anything.
EPOCHS = 10
LEAST_STEPS = 40
# Validations without gain after which a run ends whose user does not say how many.
PATIENCE = 5


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """One method on one task, and how it is trained.

    Args:
        text_columns: The columns of the files with the text, one or two; None takes ``text``, ``sentence1`` and
            ``sentence2`` and other usual names, or else the columns that hold text.
        validation_share: Share of ``train_file`` that is held out where there is no ``validation_file``. 0 holds none
            out: D2 is watched, on which the upper level is trained too. None is 0 where a split that stays leaves D2 to
            the upper level alone, and a tenth for other methods.
        steps: Lower optimizer steps of each stage; None takes ``epochs``.
        epochs: Passes of the lower level over D1, where ``steps`` is None; None is ten, and at least 40 steps: of 1,000
            rows D1 has 800, and ten passes in batches of 16 are 500 steps.
        refresh: Epochs of the lower level between two draws of a new split; 0 keeps the first, None does so where D2 is
            watched, and is 1 elsewhere.
        validate_every: Lower steps between two validations; None validates twenty times, 0 at the end only.
        early_stopping: Validations without gain before the run is stopped; 0 does not stop early, None is 5.
        keep_best: Whether to end with the parameters of the best validation instead of the last ones; None does.
        log_every: Steps between two lines of progress where the output is no terminal; None writes one every 30
            seconds.
        watch: What early stopping and keep_best look at: the ``loss`` on the validation rows or on D2, or the task's
            ``score`` there.
        output: Folder of the run; None takes the next free ``runs/<task>-N``.
        report_to: Trackers that get every number beside ``metrics.jsonl``: ``tensorboard``, ``wandb``, ``trackio``,
            ``mlflow``; each is a package to install.
        self_check: Whether the adapter is loaded into a fresh model at the end, which must give the same outputs.
        push_to_hub: Whether the adapter goes to the hub at the end, into a private repository.
        hub_model_id: The repository, ``name/model``.

    Raises:
        SettingsError: A value is unknown or out of range.
    """

    epochs: float | None = None
    log_every: int | None = None
    watch: Literal["loss", "score"] = "loss"
    report_to: list[str] = field(default_factory=list)
    self_check: bool = True
    push_to_hub: bool = False
    hub_model_id: str | None = None

    # All of it is decided by the rows, in run_config.
    UNSAID: ClassVar[Mapping[str, Any]] = {}
    # Nobody means the sentences of the demo without saying so.
    DEFAULT_TASK: ClassVar[str | None] = None
    ROAD_UNSAID: ClassVar[Road] = "auto"

    def __post_init__(self) -> None:
        """Check everything that can be checked before any file is read."""
        # What may be left open is decided, and looked at, by the settings of every fit.
        check_fields(self, "config", leave_out=self.DEFAULTS)
        share = self.validation_share
        checks = (
            ("steps", "it must be at least 1, or null to go by epochs", self.steps is None or self.steps >= 1),
            ("epochs", f"it must be positive, and below {BEYOND:,}", self.epochs is None or 0 < self.epochs < BEYOND),
            ("log_every", "it must be at least 1, or null", self.log_every is None or self.log_every >= 1),
            ("validation_share", "it must be at least 0 and below 1, or null", share is None or 0 <= share < 1),
            ("watch", "allowed: loss, score", self.watch in ("loss", "score")),
            (
                "self_check",
                "it runs the model in the first process alone, and shard_base cuts that up; set it to false",
                not (self.self_check and self.shard_base),
            ),
            ("hub_model_id", "push_to_hub needs it", self.hub_model_id is not None or not self.push_to_hub),
        )
        refuse_faults("config", self, checks)
        # None counts as set here: it becomes a patience of 5, and true.
        if self.validate_every == 0 and (self.early_stopping != 0 or self.keep_best is not False):
            raise SettingsError(
                "config: validate_every is 0, and early_stopping and keep_best look at validations during the run; set "
                "it, or --early-stopping 0 --keep-best false"
            )
        check_loggers(self.report_to)
        super().__post_init__()

    def labelled_files(self, text_columns: Sequence[str] | None = None) -> LabelledFiles | None:
        """Return the files to read in place of a task, or None, also where the columns are not known yet."""
        columns = text_columns or self.text_columns
        return None if columns is None else super().labelled_files(columns)

    @property
    def held_out(self) -> float:
        """Share of the rows of ``train_file`` that is held out where it has no ``validation_file``."""
        if self.validation_share is not None:
            return self.validation_share
        return 0.0 if self.watches_upper else HELD_OUT

    @property
    def watches_upper(self) -> bool:
        """Whether D2 stands in for validation rows: none are given, and none of ``train_file`` are held out."""
        if self.train_file is None or self.validation_file is not None or self.has_trusted:
            return False
        return self.leaves_upper if self.validation_share is None else self.validation_share == 0

    def steps_for(self, rows: int, *, processes: int = 1) -> int:
        """Return the lower steps for that many rows, D1 and D2 together: ``steps``, or as many as ``epochs`` makes."""
        if self.steps is not None:
            return self.steps
        # Each process reads batches of its own.
        batch = self.lower.batch_size * self.lower.accumulation * processes
        # Where D2 is given, D1 is all of the rows.
        share = 1.0 if self.has_trusted and self.road != "trusted_only" else self.split_ratio
        if self.epochs is None:
            return max(LEAST_STEPS, round(EPOCHS * share * rows / batch))
        return max(1, round(self.epochs * share * rows / batch))

    def run_config(
        self, *, steps: int | None = None, text_columns: tuple[str, ...] | None = None, upper_given: bool = False
    ) -> RunConfig:
        """Return the config of the run, with what this one leaves open; None takes steps and columns of this one."""
        # While the steps are not known yet, 1 lets everything else be checked.
        watches, steps = self.watches_upper, (self.steps or 1) if steps is None else steps
        decided = {
            "validation_share": self.held_out,
            # Trusted rows are all of D2, also where others are given for validation.
            "refresh": 0 if watches or upper_given or self.has_trusted else 1,
            "validate_every": max(1, steps // VALIDATIONS),
            # Where a validation set of its own is D2, the one set that is left gives the score, and chooses nothing.
            "early_stopping": 0 if upper_given else PATIENCE,
            "keep_best": not upper_given,
        }
        changed: dict[str, Any] = {name: value for name, value in decided.items() if getattr(self, name) is None}
        if self.road == "auto":
            changed["road"] = DEFAULT_ROAD
        if text_columns is not None:
            changed["text_columns"] = list(text_columns)
        return self.as_base(RunConfig, steps=steps, **changed)
