"""``bilora check-labels``: which labels of a file are likely wrong."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bilora.commands.usual_names import aliases_of
from bilora.commands.verb import Verb
from bilora.files.whole_folders import new_file
from bilora.runs.columns import find_columns
from bilora.runs.config import RunConfig
from bilora.runs.label_issues import Chances, class_names, find_issues, write_issues
from bilora.runs.out_of_sample import by_embeddings, by_training, folds_of, remove_parts
from bilora.runs.plan import rows_of
from bilora.settings.sections import refuse_faults

# Of the trainings: rows of a batch, and steps with which anything is learned at all.
BATCH, LEAST_STEPS = 16, 40

JUDGES: dict[str, Callable[..., Chances]] = {"embeddings": by_embeddings, "training": by_training}
"""Where the probabilities come from, by the name of the setting."""


@dataclass(frozen=True)
class CheckLabelsConfig:
    """A file of labelled rows, and what judges them.

    Args:
        file: The file (csv, tsv, json, jsonl, parquet, xlsx); each row has one class.
        text_columns: Its columns with the text, one or two; None takes those of usual names, or that hold text.
        label_column: Its column with the labels.
        group_column: Its column by which rows belong together; no group judges itself.
        by: ``embeddings`` fits a logistic regression to a frozen model's embeddings, ``training`` trains a LoRA; either
            is done for each fold, on the rows of the others.
        folds: Parts of the file; each is judged by what the others teach.
        model: Hub id or folder of the model; None is the embedded MiniLM.
        max_length: Largest number of tokens of a row.
        output: The csv file to write; None is the name of the file with ``-label_issues.csv`` at the end.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        epochs: Passes of a ``training`` over as many rows as the file has.
        seed: Of the folds, and of the training.

    Raises:
        SettingsError: A value is out of range.
    """

    file: str
    text_columns: list[str] | None = None
    label_column: str = "label"
    group_column: str | None = None
    by: Literal["embeddings", "training"] = "embeddings"
    folds: int = 5
    model: str | None = None
    max_length: int = 128
    output: str | None = None
    device: str = "auto"
    epochs: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        checks = (
            ("by", f"allowed: {', '.join(JUDGES)}", self.by in JUDGES),
            ("folds", "it must be at least 2", self.folds >= 2),
            ("epochs", "it must be at least 1", self.epochs >= 1),
            ("max_length", "it must be at least 1", self.max_length >= 1),
            ("seed", "it must not be negative", self.seed >= 0),
        )
        refuse_faults("config", self, checks)

    def run_config(self, columns: Sequence[str] | None, *, rows: int = 0) -> RunConfig:
        """Return the config of the trainings, of so many rows."""
        return RunConfig(
            train_file=self.file,
            text_columns=None if columns is None else list(columns),
            label_column=self.label_column,
            group_column=self.group_column,
            validation_share=0.0,
            model=self.model,
            max_length=self.max_length,
            method="lora",
            steps=max(LEAST_STEPS, self.epochs * rows // BATCH),
            # A training per fold takes long enough without padding that nobody needs.
            group_by_length=True,
            device=self.device,
            seed=self.seed,
        )


def check_labels(config: CheckLabelsConfig) -> Path:
    """Write the rows whose label is likely wrong, and return the file."""
    # First of all: a file that cannot be written should be told before the work is done.
    name = f"{Path(config.file).name.split('.')[0] or 'rows'}-label_issues.csv"
    output = new_file(config.output or str(Path(config.file).with_name(name)))
    columns = find_columns(config.run_config(config.text_columns))
    for notice in columns.found:
        print(f"note: {notice}")
    rows = rows_of(columns)
    names = class_names(rows.task)
    folds = folds_of(rows.train, config.folds, names=names, seed=config.seed)
    print(f"{len(rows.train):,} rows of {len(names)} classes, in {len(folds)} folds, judged by {config.by}", flush=True)
    # Whatever was done before a stop is found again there.
    parts = output.with_name(f"{output.name}.parts")
    texts, steps = list(columns.texts or ()), config.run_config(None, rows=len(rows.train)).steps
    run = dataclasses.replace(columns.config, text_columns=texts, steps=steps)
    issues = find_issues(rows.train, rows.task, JUDGES[config.by](run, rows, folds, parts=parts))
    write_issues(output, issues)
    remove_parts(parts)
    share = len(issues) / len(rows.train)
    print(f"{len(issues):,} labels are likely wrong ({share:.1%} of the rows), the most suspicious first: {output}")
    return output


CHECK_LABELS = Verb(
    "check-labels",
    "Find the labels of a file that are likely wrong.",
    CheckLabelsConfig,
    check_labels,
    positional="file",
    aliases=aliases_of(CheckLabelsConfig, rows="file"),
)
