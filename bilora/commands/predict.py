"""``bilora predict``: a file of rows with what a trained adapter says of each."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bilora.commands.verb import Verb
from bilora.data.chunks import Chunks, open_chunks
from bilora.errors import SettingsError
from bilora.files.row_writers import SUFFIXES
from bilora.files.whole_folders import new_file
from bilora.runs.answered_rows import FileAnswers, OnBadRow, WholeFileAnswers
from bilora.runs.trained import Trained, open_trained
from bilora.runs.written_answers import write_answers
from bilora.tasks.task import BaseTask

STANDARD_INPUT = "standard input"


@dataclass(frozen=True)
class PredictConfig:
    """What is predicted by what.

    Args:
        run: Folder of a run, or of an adapter.
        file: A file of rows with the text columns of the training file, or with the inputs of a data-to-text task: csv,
            tsv, jsonl, json, parquet or xlsx. Labels, such as the -1 of test rows, and references may be there, and are
            not looked at. ``-``, and None, read standard input.
        output: The file to write: .csv, .tsv, .jsonl or .parquet; None prints JSON lines.
        input_format: ``csv``, ``tsv`` or ``jsonl``, for standard input and files whose name does not say it. None takes
            standard input for JSON lines where it begins with a brace, and for csv elsewhere.
        text_columns: The columns of the file with the text, one for each of the training file; None takes those of its
            names, or finds them by name and content.
        on_bad_row: What is done with a row that cannot be used: ``keep`` writes it without a prediction and with
            ``error``, which says what is wrong; ``skip`` leaves it out; ``error`` refuses the file before anything is
            predicted.
        model: The base model, where it is no longer where it was in training.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        task_type: ``package.module:NAME`` of your own kind of task, where the adapter was trained for one.

    Raises:
        SettingsError: The output is no form that is written.
    """

    run: str
    file: str | None = None
    output: str | None = None
    input_format: Literal["csv", "tsv", "jsonl"] | None = None
    text_columns: list[str] | None = None
    on_bad_row: OnBadRow = "keep"
    model: str | None = None
    device: str = "auto"
    task_type: str | None = None

    def __post_init__(self) -> None:
        """Check the name of the output, before a model is loaded."""
        # Without an end it is of JSON lines.
        if self.output is not None and Path(self.output).suffix not in ("", *SUFFIXES):
            raise SettingsError(
                f"output {self.output} ends in none of {', '.join(SUFFIXES)}; other forms are not written"
            )


def predict_rows(config: PredictConfig) -> None:
    """Write the rows of the file, in their order, each with its prediction and any probabilities."""
    # First of all: to predict takes long, and a file that cannot be written should be told before.
    output = None if config.output is None else new_file(config.output)
    if config.file in (None, "-") and sys.stdin.isatty():
        raise SettingsError("file is required: give --file rows.csv, or pipe rows into the command")
    trained = open_trained(config.run, model=config.model, device=config.device, task_type=config.task_type)
    with _answers(config, trained, with_schema=output is not None and output.suffix == ".parquet") as answers:
        try:
            count, notes = write_answers(answers, output, skip=config.on_bad_row == "skip")
        except BrokenPipeError:
            # Who reads what is printed has read enough, as head does; nor is there room for what is left at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        answers.warn()
        # What is printed may be read by a program: no notice stands among the lines.
        for note in (*answers.notes, *notes, *answers.notices):
            print(f"note: {note}", file=sys.stderr if output is None else sys.stdout)
    if output is not None:
        print(f"{count - answers.bad if config.on_bad_row == 'keep' else count:,} predictions: {output}")


@contextlib.contextmanager
def _answers(config: PredictConfig, trained: Trained, *, with_schema: bool) -> Iterator[FileAnswers | WholeFileAnswers]:
    if not isinstance(trained.task, BaseTask):
        if config.file in (None, "-"):
            raise SettingsError(f"task {trained.task.name!r} reads its files by itself; give --file")
        yield WholeFileAnswers(trained, str(config.file))
        return
    with _chunks(config, trained.task) as chunks:
        yield FileAnswers(
            trained, chunks, on_bad_row=config.on_bad_row, text_columns=config.text_columns, with_schema=with_schema
        )


@contextlib.contextmanager
def _chunks(config: PredictConfig, task: BaseTask) -> Iterator[Chunks]:
    if config.file in (None, "-"):
        # On the disk: the rows are gone through twice, and need not fit into memory.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows"
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            yield open_chunks(path, form=config.input_format or _form(path), source=STANDARD_INPUT)
        return
    assert config.file is not None
    records = None if config.input_format else task.own_records(config.file)
    if records is None:
        yield open_chunks(config.file, form=config.input_format)
    else:
        yield Chunks(config.file, lambda: iter(records))


def _form(path: Path) -> str:
    with path.open("rb") as file:
        return "jsonl" if file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{" else "csv"


PREDICT = Verb(
    "predict",
    "Predict labels with probabilities, or texts, for rows of a file.",
    PredictConfig,
    predict_rows,
    positional="run",
    aliases={"data": "file", "test_file": "file"},
)
