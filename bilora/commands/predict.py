"""``bilora predict``: what a trained adapter says of rows, one JSON object a row."""

import json
import sys
from dataclasses import dataclass

from bilora.commands.verb import Verb
from bilora.errors import DataError
from bilora.files.formats import write_whole
from bilora.files.whole_folders import new_file
from bilora.runs.trained import ADAPTER_FILE, open_trained


@dataclass(frozen=True)
class PredictConfig:
    """What is predicted by what.

    Args:
        run: Folder of a run, or of an adapter.
        file: A file of rows with the text columns of the training file, or with the inputs of a data-to-text task.
            Labels, such as the -1 of test rows, and references may be there, and are not looked at.
        output: The file of JSON lines to write; None prints them.
        model: The base model, where it is no longer where it was in training.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        task_type: ``package.module:NAME`` of your own kind of task, where the adapter was trained for one.
    """

    run: str
    file: str
    output: str | None = None
    model: str | None = None
    device: str = "auto"
    task_type: str | None = None


def predict_rows(config: PredictConfig) -> None:
    """Write one object a row, in the order of the file: its number, the prediction and any probabilities."""
    # First of all: to predict takes long, and a file that cannot be written should be told before.
    output = None if config.output is None else new_file(config.output)
    trained = open_trained(config.run, model=config.model, device=config.device, task_type=config.task_type)
    rows = trained.task.read_rows(config.file, labelled=False)
    answers, notices = trained.task.answers(trained.inference, rows, max_length=trained.max_length)
    try:
        lines = [
            json.dumps({"row": number, **answer}, ensure_ascii=False, allow_nan=False) + "\n"
            for number, answer in zip(rows.ids, answers, strict=True)
        ]
    except ValueError as error:
        raise DataError(
            f"the answers of the model with the adapter {trained.adapter / ADAPTER_FILE} are not finite: it is "
            "damaged, or does not fit its base model; copy it again"
        ) from error
    # What is printed may be read by a program: no notice stands among the lines.
    if output is None:
        sys.stdout.writelines(lines)
        return
    write_whole(output, "".join(lines))
    for notice in notices:
        print(f"note: {notice}")
    print(f"{len(lines):,} predictions: {output}")


PREDICT = Verb(
    "predict",
    "Predict labels with probabilities, or texts, for rows of a file.",
    PredictConfig,
    predict_rows,
    positional="run",
)
