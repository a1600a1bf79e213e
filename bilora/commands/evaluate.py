"""``bilora evaluate``: loss and metrics of a trained adapter on labelled rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilora.artifacts.scored_on import UPPER, WHOLE_D2
from bilora.commands.command_line import parse_config
from bilora.commands.usual_names import aliases_of
from bilora.commands.verb import Verb
from bilora.data.records import read_records
from bilora.data.rows import Row, Rows, check_records
from bilora.errors import SettingsError, first_ten
from bilora.files.formats import write_json
from bilora.files.whole_folders import new_file
from bilora.runs.config import RunConfig
from bilora.runs.plan import scored_sets
from bilora.runs.table import print_cells
from bilora.runs.trained import Trained, open_trained
from bilora.tasks.columns import columns_in_words, find_text_columns, with_columns
from bilora.tasks.labels import LabelledFiles, guess_label_column
from bilora.tasks.task import AnyTask, BaseTask


@dataclass(frozen=True)
class EvaluateConfig:
    """What is evaluated on what.

    Args:
        run: Folder of a run, or of an adapter.
        data: A file of labelled rows with the columns of the training file; None takes the run's own validation
            rows, or its D2 where no row was held out.
        text_columns: The columns of the file with the text, one for each of the training file; None takes those of its
            names, or finds them by name and content.
        label_column: The column of the file with the labels; None takes that of the training file, or finds it.
        model: The base model, where it is no longer where it was in training.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        output: A file for the metrics as JSON.
        task_type: ``package.module:NAME`` of your own kind of task, where the adapter was trained for one.
    """

    run: str
    data: str | None = None
    text_columns: list[str] | None = None
    label_column: str | None = None
    model: str | None = None
    device: str = "auto"
    output: str | None = None
    task_type: str | None = None


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Print the metrics of every set, write them where asked, and return them by set."""
    # First of all: to evaluate takes long, and a file that cannot be written should be told before.
    output = None if config.output is None else new_file(config.output)
    trained = open_trained(config.run, model=config.model, device=config.device, task_type=config.task_type)
    by_set = {name: _metrics(trained, rows, name) for name, rows in _sets(config, trained).items()}
    for name, metrics in by_set.items():
        cells = [{"metric": key, "value": _cell(key, value, empty="undefined")} for key, value in metrics.items()]
        print_cells(cells, title=WHOLE_D2 if name == UPPER else name)
    if output is not None:
        # Of one set alone, as nearly always, its metrics stand at the top.
        write_json(output, next(iter(by_set.values())) if len(by_set) == 1 else by_set)
        print(f"metrics: {output}")
    return by_set


def _sets(config: EvaluateConfig, trained: Trained) -> dict[str, Rows]:
    if config.data is not None:
        return {Path(config.data).name: _rows(config, trained.task, config.data)}
    path = trained.adapter.parent / "config.yaml"
    if not path.is_file():
        raise SettingsError(f"{config.run} is no run with a config.yaml, so its rows are not known; give --data")
    return scored_sets(parse_config(RunConfig, ["--config", str(path)], prog="bilora evaluate", description=""))


def _rows(config: EvaluateConfig, task: AnyTask, path: str) -> Rows:
    """Return the rows of a file, whose columns may have other names than those of the training file."""
    if not isinstance(task, BaseTask) or not task.text_columns:
        if config.text_columns or config.label_column:
            raise SettingsError(
                f"task {task.name!r} finds its columns by itself; leave out text_columns and label_column"
            )
        return task.read_rows(path, labelled=True)
    files, records = task.columns, read_records(path)
    labels = files.label_columns
    if config.label_column and files.label_columns:
        raise SettingsError(f"label_column is {config.label_column!r}, and the labels are in {first_ten(labels)}")
    rows = [row for _, row, faults in records if row and not faults]
    found = dict[str, str]()
    if not files.label_columns:
        label = config.label_column or _label_column(files, rows, source=path, given=config.text_columns)
        labels, found = (label,), {} if label == files.label_column else {files.label_column: label}
    texts = find_text_columns(files.text_columns, rows, source=path, given=config.text_columns, others=labels)
    if texts and config.text_columns is None:
        print(f"note: {columns_in_words(texts, source=path)}")
    if found and config.label_column is None:
        print(
            f"note: {path} has no {files.label_column!r}: the label is in {labels[0]!r}; "
            "give --label-column for another"
        )
    found |= texts
    renamed = [with_columns(record, found) for record in records]
    return check_records(files.read(path, renamed), task, source=path, split="evaluation")


def _label_column(files: LabelledFiles, rows: Sequence[Row], *, source: str, given: Sequence[str] | None) -> str:
    if any(files.label_column in row for row in rows):
        return files.label_column
    label = guess_label_column(rows, text_columns=given or files.text_columns, source=source)
    # Without one, the column that is missing is told.
    return label if any(label in row for row in rows) else files.label_column


def _metrics(trained: Trained, rows: Rows, name: str) -> dict[str, Any]:
    data = trained.task.encode(rows, trained.tokenizer.own, max_length=trained.max_length)
    for notice in data.notices:
        print(f"note: {notice}")
    evaluated = trained.task.evaluate(trained.inference, data)
    evaluated.warn(name)
    if evaluated.table:
        table = [{key: _cell(key, value, empty="-") for key, value in row.items()} for row in evaluated.table]
        print_cells(table, title=f"{name}, by class")
    return {"rows": len(rows), **evaluated.metrics}


def _cell(name: str, value: Any, *, empty: str) -> str:
    if value is None:
        return empty
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if name == "rows" else str(value)


EVALUATE = Verb(
    "evaluate",
    "Evaluate a trained adapter on labelled rows.",
    EvaluateConfig,
    evaluate,
    positional="run",
    aliases=aliases_of(EvaluateConfig, rows="data", adapter="run"),
)
