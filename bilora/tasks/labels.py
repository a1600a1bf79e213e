"""Files of labelled rows: which columns hold the text and the labels, and what their cells mean."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilora.data.faults import Fault, OnBadRow
from bilora.data.records import is_untyped, read_records
from bilora.data.rows import Row
from bilora.data.tables import Record
from bilora.errors import DataError, SettingsError, first_ten
from bilora.settings.lookup import did_you_mean

# Without leading zeros: 007 is a code, and as a number it would not read back.
# Above 300 digits it would not be read back either: Python reads no number of 5,000, and no float holds one of 310.
_WHOLE = re.compile(r"0|-?[1-9]\d{0,299}")
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,299})(\.\d+)?([eE][+-]?\d+)?")  # as in JSON
_WITH_COMMA = re.compile(r"-?(0|[1-9]\d{0,299})(,\d+)?")
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})*")
_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([T ].*)?")

# Of more labels each is too rare, and a column of ids was likely taken for labels.
MOST_CLASSES = 10_000

# What a column of one label may hold; False and True are 0 and 1, and hash alike.
MARKS = {"0": False, "1": True, 0: False, 1: True}


def refuse_wrong(what: str, *faults: tuple[bool, str]) -> None:
    """Raise one error with the texts of all the faults that there are."""
    if texts := [text for wrong, text in faults if wrong]:
        raise SettingsError(f"{what}: {first_ten(texts, '; ')}")


@dataclass(frozen=True)
class LabelledFiles:
    """Which files to read, and which of their columns."""

    train: str
    text_columns: tuple[str, ...]  # one or two; for token classification the one with the tokens
    label_column: str = "label"  # for token classification that of the tags, a list per row
    label_columns: tuple[str, ...] = ()  # several columns of 0 and 1, one per label, in place of the one
    label_separator: str | None = None  # between the labels of a row, where a cell of text holds several
    validation: str | None = None  # None takes a share of the training file
    validation_share: float = 0.1  # below 1; 0 takes none
    task_type: str | None = None  # None lets the labels decide
    on_bad_row: OnBadRow = "error"
    trusted: str | None = None  # rows that somebody has checked, in a file of their own
    trusted_column: str | None = None  # or in the training file, where this column says so
    row_columns: tuple[str, ...] = ()  # of the training file, beside text and labels
    group_column: str | None = None  # one of them: rows with the same cell stay on one side of every split

    def __post_init__(self) -> None:
        texts, separator, share = self.text_columns, self.label_separator, self.validation_share
        both = [] if self.generates else [name for name in self._labels if name in texts]
        twice = len(set(self.label_columns)) < len(self.label_columns)
        misplaced = separator is not None and (not separator or bool(self.label_columns))
        refuse_wrong(
            f"train_file {self.train!r}",
            (not 1 <= len(texts) <= 2, f"text_columns is {texts!r}, name one or two columns"),
            (len(set(texts)) < len(texts), f"text_columns is {texts!r}, which names a column twice"),
            (bool(both), f"label_column is {''.join(both[:1])!r}, which is among text_columns too"),
            (twice, f"label_column is {self.label_columns!r}, which names a column twice"),
            (misplaced, f"label_separator is {separator!r}, it must not be empty, and belongs to one label_column"),
            (
                bool(used := [name for name in self._of_rows if name in (*texts, *self._labels)]),
                f"column {''.join(used[:1])!r} holds text or label; trusted_column, source_column and weight_column "
                "are others",
            ),
            (not 0 <= share < 1, f"validation_share is {share}, it must be at least 0 and below 1"),
            (self.on_bad_row not in ("error", "skip"), f"on_bad_row is {self.on_bad_row!r}; allowed: error, skip"),
        )

    @property
    def generates(self) -> bool:
        """Return whether the columns are those of texts to be written, as TRL names them."""
        return (self.text_columns, self.label_column) in GENERATION and not self.label_columns

    @property
    def name(self) -> str:
        """Return what the task is called: the name of the training file without its ends."""
        # All ends go, of which .jsonl.gz has two; a name like .csv is nothing but ends.
        return Path(self.train).name.split(".")[0] or "rows"

    @property
    def label_field(self) -> str:
        """Return the field of a row read by :meth:`read` that holds its label, or the list of its labels."""
        return ", ".join(self.label_columns) or self.label_column

    @property
    def _labels(self) -> tuple[str, ...]:
        return self.label_columns or (self.label_column,)

    def read(self, path: str, records: list[Record] | None = None) -> list[Record]:
        """Return the records of a file, or those that were read of it, with the labels of each in ``label_field``."""
        records = read_records(path) if records is None else records
        if not records:
            raise DataError(f"{path} has no row; at least one is needed")
        there = {name for _, row, _ in records for name in row}
        missing = [name for name in (*self.text_columns, *self._labels) if name not in there]
        if there and missing:  # told once, and not row by row
            raise DataError(
                f"{path} has no column {missing[0]!r}; it has: {first_ten(sorted(there))}; name them with "
                f"--text-columns and --label-column.{did_you_mean(missing[0], there)}"
            )
        if path == self.train and (absent := [name for name in self._of_rows if name not in there]):
            raise DataError(
                f"{path} has no column {absent[0]!r}; it has: {first_ten(sorted(there))}."
                f"{did_you_mean(absent[0], there)}"
            )
        if self.label_columns:
            return [self._with_marked(*record) for record in records]
        # JSON and Parquet say what is a number; in CSV only the look of a cell can.
        if not is_untyped(path) or self.generates:
            return records
        column = self.label_column
        cells = [row[column] for _, row, _ in records if row]
        if self.label_separator is None and have_decimal_commas(cells):
            what = f"the numbers in {column!r} have commas in the place of points, and were read so"
            warnings.warn(f"{path}: {what}", RuntimeWarning, stacklevel=2)
            records = [
                (line, row and {**row, column: row[column].replace(",", ".")}, bad) for line, row, bad in records
            ]
        return [(line, row and {**row, column: self._label(row[column])}, faults) for line, row, faults in records]

    @property
    def _of_rows(self) -> tuple[str, ...]:
        return self.row_columns if self.trusted_column is None else (self.trusted_column, *self.row_columns)

    def _label(self, cell: str) -> Any:
        if self.label_separator is None:
            return typed(cell)
        return [name for part in cell.split(self.label_separator) if (name := part.strip())]

    def _with_marked(self, line: int, row: dict[str, Any], faults: list[Fault]) -> Record:
        if not row:
            return line, row, faults
        cells = {name: row.get(name) for name in self.label_columns}
        # Other types may not hash, and 1.0 would pass for 1.
        marks = {name: MARKS.get(cell) if isinstance(cell, str | int) else None for name, cell in cells.items()}
        text = "is {!r}; a column of one label holds 0 or 1"
        wrong = [Fault(name, text.format(cells[name])) for name, mark in marks.items() if mark is None]
        return line, {**row, self.label_field: [name for name, mark in marks.items() if mark]}, [*faults, *wrong]


def have_decimal_commas(cells: Sequence[str]) -> bool:
    """Return whether cells are numbers of which some have a decimal comma, and none need be one of thousands."""
    given = [cell for cell in cells if cell]
    if not all(_WITH_COMMA.fullmatch(cell) for cell in given):
        return False
    return any("," in cell and not _THOUSANDS.fullmatch(cell) for cell in given)


def typed(cell: str) -> str | int | float:
    """Return a number for a cell that is written as one; what reads back differently (007) stays text."""
    if _WHOLE.fullmatch(cell):
        return int(cell)
    return float(cell) if _NUMBER.fullmatch(cell) else cell


def in_order(names: set[str]) -> list[str]:
    """Return names of classes by number where all are whole numbers, else by letter."""
    # As numbers, 2 comes before 10.
    return sorted(names, key=int) if all(_WHOLE.fullmatch(name) for name in names) else sorted(names)


def described(rows: Sequence[Row], files: LabelledFiles) -> str:
    """Return in words what the labels are, such as "the labels in 'label' of rows.csv (text, 2 different)"."""
    labels = [row[files.label_field] for row in rows]
    types = sorted({type(label).__name__ for label in labels if label is not None and label != ""})
    words = {"str": "text", "int": "whole numbers", "float": "numbers", "bool": "truth values", "list": "lists"}
    # By repr: lists have no hash, and 1, True and 1.0 would be one label.
    different = len({repr(label) for label in labels})
    what = " and ".join(words.get(name, name) for name in types)
    return f"the labels in {files.label_field!r} of {files.train} ({what}, {different} different)"


def given_values(rows: Sequence[Row], column: str) -> list[Any]:
    """Return the values of a column, without those of rows that have none."""
    return [value for row in rows if (value := row.get(column)) is not None and value != ""]


def are_lists(rows: Sequence[Row], column: str) -> bool:
    """Return whether a column holds lists; fewer than half of its values are rows at fault."""
    given = given_values(rows, column)
    lists = sum(isinstance(value, list) for value in given)
    # A minority of lists, or of values that are none, is taken for faults, which are told row by row later.
    return bool(lists) and 2 * lists >= len(given)


def listed(rows: Sequence[Row], files: LabelledFiles) -> list[Any]:
    """Return all that stands in the rows' lists of labels; a label that is no list is a fault of its row."""
    return [item for row in rows if isinstance(row[files.label_field], list) for item in row[files.label_field]]


# Names that data sets of the hub and of GLUE give to text, pairs before single ones: "sentence" alone is half of QNLI.
KNOWN_COLUMNS: tuple[tuple[str, ...], ...] = (
    *(("sentence1", "sentence2"), ("question1", "question2"), ("premise", "hypothesis")),
    *(("question", "sentence"), ("text1", "text2")),
    *((name,) for name in ("tokens", "text", "sentence", "review", "content")),
)

# The columns of texts to be written, and what is to be written: of messages the last one.
GENERATION = ((("prompt",), "completion"), (("messages",), "messages"))

# Names that data sets give to what is to be predicted, where no column has the name that is the default.
LABEL = "label"
KNOWN_LABELS = (
    "labels",
    "class",
    "category",
    "target",
    "sentiment",
    "intent",
    "stance",
    "topic",
    "emotion",
    "tags",
    "ner_tags",
) + ("rating", "score", "y")

# Characters; what is longer is a text.
LONGEST_LABEL = 100

# Rows that are looked at for columns of other names: enough to tell, and no more than a moment for a large file.
LOOKED_AT = 100


def guess_label_column(rows: Sequence[Row], *, text_columns: Sequence[str], source: str) -> str:
    """Return the column of labels: that of the default or of a known name, else the only one whose values repeat."""
    names = list(dict.fromkeys(name for row in rows for name in row if name not in text_columns))
    known = [name for name in names if name.strip().lower() in (LABEL, *KNOWN_LABELS)]
    first = [name for name in known if name.strip().lower() == LABEL]
    found = first or known or [name for name in names if _repeats([row.get(name) for row in rows])]
    if len(found) > 1:
        raise DataError(f"{source}: {first_ten(found)} could each be the label; name one with --label-column")
    # Without any the default stays, and its absence is told with the columns that there are.
    return found[0] if found else LABEL


def _repeats(values: Sequence[Any]) -> bool:
    given = [str(value) for value in values if value is not None and value != ""]
    repeat = 2 <= len(set(given)) <= max(2, len(given) // 2) and max(map(len, given)) <= LONGEST_LABEL
    # Days repeat too, and nobody predicts them from a text.
    return repeat and not all(_DATE.fullmatch(value) for value in given)


def guess_text_columns(rows: Sequence[Row], *, label_columns: Sequence[str], source: str) -> tuple[str, ...]:
    """Return the one or two columns of text: those of a known name, else all that hold text in every row."""
    names = list(dict.fromkeys(name for row in rows for name in row if name not in label_columns))
    for columns in KNOWN_COLUMNS:
        if set(columns) <= set(names):
            return columns
    # In every row, since a column that is blank here and there would be refused by the checks.
    columns = tuple(name for name in names if all(_is_text(row.get(name)) for row in rows[:LOOKED_AT]))
    if not columns:
        # Single words are texts too where nothing else could be.
        words = tuple(name for name in names if all(_is_word(row.get(name)) for row in rows[:LOOKED_AT]))
        columns = words if len(words) == 1 else ()
    if not 1 <= len(columns) <= 2:
        what = first_ten(columns) or "no column"
        raise DataError(
            f"{source}: {what} of {first_ten(names) or 'no columns'} could be the text; name one or two with "
            "--text-columns"
        )
    return columns


def _is_text(value: Any) -> bool:
    # A space tells a text from an id or a name; Chinese and Japanese write none.
    return isinstance(value, str) and any(map(str.isalpha, value)) and (" " in value or not value.isascii())


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and any(map(str.isalpha, value)) and not any(map(str.isdigit, value))


def label_settings(names: Sequence[str]) -> dict[str, Any]:
    """Return ``num_labels``, ``id2label`` and ``label2id`` of transformers' configs."""
    label2id = {name: index for index, name in enumerate(names)}
    return {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": label2id}
