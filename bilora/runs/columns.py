"""Which files a config reads, and which of their columns: those that it names, and those that are found."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from bilora.data.faults import refuse
from bilora.data.records import read_records
from bilora.data.rows import Row
from bilora.data.tables import Record
from bilora.errors import DataError
from bilora.runs.config import RunConfig
from bilora.tasks.labels import GENERATION, LABEL, guess_label_column, guess_text_columns
from bilora.tasks.places import find_sets

Config = TypeVar("Config", bound=RunConfig)


@dataclass(frozen=True)
class Columns(Generic[Config]):
    """What the training file is read by."""

    config: Config  # with the files of a folder, and with the column of labels that was found
    texts: tuple[str, ...] | None = None  # None without a file
    records: list[Record] | None = None  # of the file: it may be large, and is read once
    found: tuple[str, ...] = ()  # a sentence for each that was not named


def find_columns(config: Config) -> Columns[Config]:
    """Return the columns of the training file, those that the user has named and those that are found in it.

    Raises:
        DataError: There is no row, or it is not clear which columns are meant.
    """
    if config.train_file is None:
        return Columns(config)
    config, found = _with_files(config)
    path = str(config.train_file)
    records = read_records(path)
    rows = [row for _, row, faults in records if row and not faults]
    if not records:
        raise DataError(f"{path} has no row; at least one is needed")
    if not rows:
        told = [fault.at(path, line) for line, _, faults in records for fault in faults]
        refuse(told, source=f"{path}: no row can be used")
    if (pair := _generation_columns(config, rows)) is not None:
        texts, written = pair
        config = dataclasses.replace(config, label_column=written)
        found.append(f"the text is in {texts[0]!r}, and what is to be written in {written!r}")
        return Columns(config, texts, records, tuple(found))
    if config.label_column == LABEL and not any(LABEL in row for row in rows):
        label = guess_label_column(rows, text_columns=config.text_columns or (), source=path)
        if label != LABEL:
            config = dataclasses.replace(config, label_column=label)
            found.append(f"the label is in {label!r}; give --label-column for another")
    if config.text_columns is not None:
        return Columns(config, tuple(config.text_columns), records, tuple(found))
    labels = [config.label_column] if isinstance(config.label_column, str) else config.label_column
    columns = guess_text_columns(rows, label_columns=labels, source=path)
    found.append(f"the text is in {' and '.join(map(repr, columns))}; give --text-columns for others")
    return Columns(config, columns, records, tuple(found))


def _generation_columns(config: RunConfig, rows: Sequence[Row]) -> tuple[tuple[str, ...], str] | None:
    """Return the columns of texts to be written, where a file has them and nothing else is asked for."""
    if config.text_columns is not None or config.label_column != LABEL or config.task_type not in (None, "generation"):
        return None
    there = {name for row in rows for name in row}
    if LABEL in there:
        return None
    return next((columns for columns in GENERATION if {*columns[0], columns[1]} <= there), None)


def _with_files(config: Config) -> tuple[Config, list[str]]:
    """Return the config with the files of the sets where it names a folder or a hub id, and a sentence on them."""
    assert config.train_file is not None
    sets = find_sets(config.train_file)
    if sets is None:
        return config, []
    validation = config.validation_file or sets.validation
    said = f"of {config.train_file}, training is {sets.train}"
    said += f", and validation {validation}" if validation else ""
    said += f"; {sets.test} is not read: bilora evaluate RUN --file {sets.test} scores it" if sets.test else ""
    return dataclasses.replace(config, train_file=sets.train, validation_file=validation), [said]
