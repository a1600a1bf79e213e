"""How answers stand beside the columns of the file that they are for."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tqdm

from bilora.files.formats import written_whole
from bilora.files.row_writers import TEXT_WRITERS, Parquet, RowWriter, schema_of, settled
from bilora.runs.answered_rows import Answered, FileAnswers, WholeFileAnswers

# What an answer repeats of its row: not said again where the file has such a column.
REPEATED = ("tokens", "source")


def write_answers(answers: FileAnswers | WholeFileAnswers, output: Path | None, *, skip: bool) -> tuple[int, list[str]]:
    """Write each row with its answer, and return how many rows were written, and notes for who reads them.

    Args:
        answers: Of the rows of a file.
        output: A file that is not there yet, whose name says its form; None prints JSON lines.
        skip: Whether rows without an answer are left out.
    """
    suffix = ".jsonl" if output is None else output.suffix or ".jsonl"
    layout = Layout(answers.columns, nested=suffix == ".jsonl")
    written, untold, writer, waiting = 0, 0, None, list[Answered]()
    with ExitStack() as stack:
        unfinished = None if output is None else stack.enter_context(written_whole(output))
        for part in _with_bar(answers, stack):
            waiting += [row for row in part if not (skip and row.answer is None)]
            # Until a first answer is there its fields are not known.
            first = next((row.answer for row in waiting if row.answer is not None), None)
            if writer is None and first is None:
                continue
            if writer is None:
                writer = _settled(layout, answers, waiting, first or {}, unfinished, suffix, skip, stack)
            untold += 0 if layout.tells_errors else sum(row.fault is not None for row in waiting)
            rows, waiting = [layout.whole(row) for row in waiting], []
            writer.write(rows)
            written += len(rows)
        if writer is None and waiting:
            # No row has an answer.
            writer = _settled(layout, answers, waiting, {}, unfinished, suffix, skip, stack)
            writer.write([layout.whole(row) for row in waiting])
            written += len(waiting)
        if writer is not None:
            writer.close()
    notes = [f"the file has {theirs!r} already; ours is called {ours!r}" for theirs, ours in layout.renamed.items()]
    if untold:
        notes.append(
            f"rows without a prediction whose fault only the tokenizer found, and for which {suffix} had no column by "
            f"then: {untold:,}; write .jsonl to see what is wrong with each"
        )
    if writer is not None and writer.mended:
        cells = "1 cell has" if writer.mended == 1 else f"{writer.mended:,} cells have"
        notes.append(f"{cells} spaces for tabs and line ends, which .tsv cannot hold")
    return written, notes


def _with_bar(answers: FileAnswers | WholeFileAnswers, stack: ExitStack) -> Iterator[list[Answered]]:
    # None: silent where the errors are not shown on a terminal.
    bar = stack.enter_context(tqdm.tqdm(total=answers.count, unit=" rows", file=sys.stderr, disable=None, leave=False))
    for part in answers:
        yield part
        bar.update(len(part))


def _settled(
    layout: "Layout",
    answers: FileAnswers | WholeFileAnswers,
    rows: Sequence[Answered],
    answer: Mapping[str, Any],
    path: Path | None,
    suffix: str,
    skip: bool,
    stack: ExitStack,
) -> RowWriter:
    """Return the writer of rows such as these, whose answers are such as this one."""
    layout.settle(answer, with_errors=bool(answers.bad) and not skip)
    return _writer(path, suffix, layout, answers.schema, [layout.beside(row) for row in rows], stack)


def _writer(
    path: Path | None, suffix: str, layout: "Layout", schema: Any, ours: list[dict[str, Any]], stack: ExitStack
) -> RowWriter:
    if suffix == ".parquet":
        import pyarrow

        assert path is not None
        added = schema_of([dict.fromkeys(layout.added), *ours])
        whole = pyarrow.schema([*(schema or ()), *(added.field(name) for name in layout.added)])
        return Parquet(path, settled(whole))
    # Lines of the same form on all systems.
    file = sys.stdout if path is None else stack.enter_context(path.open("w", encoding="utf-8", newline=""))
    return TEXT_WRITERS[suffix](file, [*layout.columns, *layout.added])


class Layout:
    """The columns of a file, and ours behind them, under names that the file does not have."""

    def __init__(self, columns: Mapping[str, Any], *, nested: bool) -> None:
        self.columns, self.nested = list(columns), nested
        self.fields = dict[str, str]()  # of an answer, with our name for it
        self.added, self.renamed = list[str](), dict[str, str]()
        self.error = "error"

    def settle(self, answer: Mapping[str, Any], *, with_errors: bool) -> None:
        """Give names to the fields of an answer such as this, and to the error of a row."""
        self.tells_errors = with_errors or self.nested
        fields = [name for name in self._flat(answer) if not (name in REPEATED and name in self.columns)]
        # In the lines of before, which programs read.
        number = ["row"] if self.nested else []
        names = {name: self._free(name) for name in (*number, *fields, "error")}
        self.error = names["error"]
        self.fields = {name: names[name] for name in fields}
        self.number = names["row"] if self.nested else None
        used = [*number, *fields, *(["error"] if with_errors else [])]
        self.added = [names[name] for name in used]
        self.renamed = {name: names[name] for name in used if names[name] != name}

    def _free(self, name: str) -> str:
        taken, free, count = set(self.columns), name, 1
        while free in taken:
            count += 1
            free = f"{name}_{count}"
        return free

    def _flat(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Return an answer with a column for the probability of each class, where it is one of a table."""
        chances = answer.get("probabilities")
        if self.nested or not isinstance(chances, Mapping):
            return dict(answer)
        flat = {name: value for name, value in answer.items() if name != "probabilities"}
        return flat | {f"probability_{name}": chance for name, chance in chances.items()}

    def beside(self, row: Answered) -> dict[str, Any]:
        """Return what stands beside the columns of the file."""
        flat = self._flat(row.answer or {})
        ours: dict[str, Any] = {self.number: row.number} if self.number else {}
        ours |= {name: flat.get(field) for field, name in self.fields.items()}
        return ours | ({} if row.fault is None else {self.error: row.fault})

    def whole(self, row: Answered) -> dict[str, Any]:
        """Return a row of the file with what stands beside it."""
        return {**row.row, **self.beside(row)}
