"""The answers of a trained model to a file of any size: what is wrong with its rows first, then part by part."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from types import MappingProxyType
from typing import Any, Literal, Self

from bilora.data.chunks import Chunks
from bilora.data.faults import SHOWN, BadNumber, refuse, warn_of_unanswered
from bilora.data.rows import Rows
from bilora.data.tables import Record
from bilora.errors import DataError
from bilora.files.formats import finite_or_null
from bilora.files.row_writers import schema_of
from bilora.runs.trained import ADAPTER_FILE, Trained
from bilora.tasks.columns import columns_in_words, find_text_columns, with_columns
from bilora.tasks.task import BaseTask

# What is done with rows that cannot be answered.
OnBadRow = Literal["error", "skip", "keep"]


@dataclass(frozen=True)
class Answered:
    """One row of a file, with the answer or with what is wrong."""

    number: int  # of the row in the file, counted from 0
    row: Mapping[str, Any]  # as it is in the file; a value that could not be read is None
    answer: Mapping[str, Any] | None
    fault: str | None

    @classmethod
    def of(cls, number: int, row: Mapping[str, Any], said: Mapping[str, Any] | str) -> Self:
        """Return a row with its answer, or with what is wrong with it."""
        answer, fault = (None, said) if isinstance(said, str) else (said, None)
        return cls(number, _readable(row), answer, fault)


class FileAnswers:
    """The answers to the rows of a file, in their order, one list per part of the file.

    All rows are looked at when it is made, and what cannot be answered is refused before anything is predicted.
    """

    def __init__(
        self,
        trained: Trained,
        chunks: Chunks,
        *,
        on_bad_row: OnBadRow = "keep",
        text_columns: Sequence[str] | None = None,  # None finds them by name and content
        with_schema: bool = False,  # whether the types of all columns are wanted
    ) -> None:
        assert isinstance(trained.task, BaseTask)
        self.trained, self.task, self.chunks = trained, trained.task, chunks
        self.on_bad_row, self.with_schema = on_bad_row, with_schema
        self.count, self.bad, self.fault_count, self.first_faults = 0, 0, 0, list[str]()
        # In their order, and Arrow's schema of them.
        self.columns, self.schema = dict.fromkeys(chunks.columns), chunks.schema
        self.notes, self._notices = list[str](), dict[str, list[int]]()
        self.renamed = self._find_columns(text_columns)
        for chunk in chunks:
            self._look_at(chunk)
        if self.count == 0:
            raise DataError(f"{chunks.source}: the prediction set has no row; at least one is needed")
        if self.bad and on_bad_row == "error":
            refuse(self.first_faults, source=chunks.source, count=self.fault_count)
        if self.bad == self.count:
            refuse(self.first_faults, source=f"{chunks.source}: no row can be used", count=self.fault_count)

    def _find_columns(self, given: Sequence[str] | None) -> dict[str, str]:
        first = next(iter(self.chunks), [])
        # A row at fault has no columns to look at.
        rows = [row for _, row, faults in first if row and not faults]
        found = find_text_columns(
            self.task.text_columns, rows, source=self.chunks.source, given=given, others=self._labels()
        )
        if found and given is None:
            self.notes.append(columns_in_words(found, source=self.chunks.source))
        return found

    def _labels(self) -> tuple[str, ...]:
        if not self.task.text_columns:
            return ()
        columns = self.task.columns
        return columns.label_columns or (columns.label_column,)

    def _look_at(self, chunk: Sequence[Record]) -> None:
        for record in chunk:
            self.columns |= dict.fromkeys(record[1])
            _, faults = self.task.check_unlabelled(with_columns(record, self.renamed))
            self.count += 1
            self.bad += bool(faults)
            self.fault_count += len(faults)
            room = SHOWN - len(self.first_faults)
            self.first_faults += [fault.at(self.chunks.source, record[0]) for fault in faults[:room]]
        if self.with_schema and self.chunks.schema is None:
            self.schema = schema_of([_readable(row) for _, row, _ in chunk], before=self.schema)

    def __iter__(self) -> Iterator[list[Answered]]:
        """Yield the rows of one part of the file after another, those at fault among them."""
        start = 0
        for chunk in self.chunks:
            yield self._answered(chunk, start)
            start += len(chunk)

    def _answered(self, chunk: Sequence[Record], start: int) -> list[Answered]:
        checked = [self.task.check_unlabelled(with_columns(record, self.renamed)) for record in chunk]
        good = [place for place, (_, faults) in enumerate(checked) if not faults]
        rows = Rows(
            tuple(MappingProxyType(checked[place][0]) for place in good),
            self.chunks.source,
            tuple(chunk[place][0] for place in good),
            tuple(start + place for place in good),
        )
        said = dict(zip(good, self._answers(rows) if good else (), strict=True))
        for place, (_, faults) in enumerate(checked):
            if faults:
                said[place] = "; ".join(fault.at(self.chunks.source, chunk[place][0]) for fault in faults)
        return [Answered.of(start + place, record[1], said[place]) for place, record in enumerate(chunk)]

    def _answers(self, rows: Rows) -> list[dict[str, Any] | str]:
        """Return the answer to each row, or what is wrong with it that only the tokenizer finds."""
        try:
            answers, notices = self.task.answers(self.trained.inference, rows, max_length=self.trained.max_length)
        except DataError as error:
            if self.on_bad_row == "error":
                raise
            if len(rows) == 1:
                self._count_fault(str(error))
                return [str(error)]
            half = len(rows) // 2
            parts = (rows.select(range(half)), rows.select(range(half, len(rows))))
            return [said for part in parts for said in self._answers(part)]
        if any(finite_or_null(answer) != answer for answer in answers):
            raise DataError(
                f"the answers of the model with the adapter {self.trained.adapter / ADAPTER_FILE} are not finite: it "
                "is damaged, or does not fit its base model; copy it again"
            )
        for notice in notices:
            self._add(notice, len(rows))
        return list(answers)

    def _count_fault(self, fault: str) -> None:
        self.bad += 1
        self.fault_count += 1
        self.first_faults += [fault] if len(self.first_faults) < SHOWN else []

    def _add(self, notice: str, rows: int) -> None:
        # The parts of a file say the same with other numbers of rows, texts or tokens, which are added up. The name of
        # the file may hold numbers too.
        text = notice.replace(self.chunks.source, "\0").replace(f"of the {rows} rows", "of the \2 rows")
        counts = [int(number) for number in COUNT.findall(text)]
        template = COUNT.sub("\1", text)
        # A kind of task by a user may have numbers of other places in its notices.
        if template not in self._notices and len(self._notices) == MOST_NOTICES:
            return
        before = self._notices.setdefault(template, [0] * len(counts))
        self._notices[template] = [one + other for one, other in zip(before, counts, strict=True)]

    @property
    def notices(self) -> list[str]:
        """What a reader of the answers so far must know, of the whole file."""
        # Of the parts of which a notice says nothing the rows count too.
        marks = {"\0": self.chunks.source, "\2": str(self.count - self.bad)}
        texts = [
            "".join(chain(*zip_longest(template.split("\1"), map(str, counts), fillvalue="")))
            for template, counts in self._notices.items()
        ]
        return [re.sub("[\0\2]", lambda mark: marks[mark[0]], text) for text in texts]

    def warn(self) -> None:
        """Warn of the rows without an answer."""
        if self.bad:
            warn_of_unanswered(
                self.first_faults,
                rows=self.bad,
                of=self.count,
                source=self.chunks.source,
                count=self.fault_count,
                skipped=self.on_bad_row == "skip",
            )


# A number of rows, texts or tokens in a notice, and no limit.
COUNT = re.compile(r"^\d+(?= )|\d+(?= tokens are)")
MOST_NOTICES = 20


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, BadNumber) else value for name, value in row.items()}


class WholeFileAnswers:
    """The answers of a user's kind of task that reads its files by itself, without the columns of the file."""

    columns: Mapping[str, None] = MappingProxyType({})
    schema = None
    notes: Sequence[str] = ()
    bad = 0

    def __init__(self, trained: Trained, path: str) -> None:
        rows = trained.task.read_rows(path, labelled=False)
        self.count = len(rows)
        answers, notices = trained.task.answers(trained.inference, rows, max_length=trained.max_length)
        self.notices = list(notices)
        self._answered = [Answered.of(number, {}, answer) for number, answer in zip(rows.ids, answers, strict=True)]

    def __iter__(self) -> Iterator[list[Answered]]:
        """Yield all rows at once."""
        yield self._answered

    def warn(self) -> None:
        """Warn of nothing: a row at fault was refused."""
