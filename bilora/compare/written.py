"""The lines of a comparison as text: for the terminal, for Markdown, as files."""

import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas

from bilora.compare.choice import Choice
from bilora.compare.config import ComparisonConfig
from bilora.compare.folders import Record
from bilora.compare.lines import Line
from bilora.files.formats import finite_or_null, write_whole
from bilora.runs.statistics import Interval, Wilcoxon
from bilora.runs.table import print_cells, spread_cell

_spread = partial(spread_cell, sign="±")


def cells(line: Line) -> dict[str, str]:
    """Return a line's cells by column."""
    reach = "never" if line.reach is None else f"{line.reach.mean:.0f} s ({line.reached}/{line.seeds})"
    return {
        "method": line.label,
        "seeds": str(line.seeds) + (f" ({line.failed} diverged)" if line.failed else ""),
        line.metric: _spread(line.score),
        "difference": "" if line.difference is None else f"{line.difference:+.3f}",
        "95% over seeds": _interval(line.interval),
        "over seeds and rows": _interval(line.row_interval),
        "Wilcoxon p": _p_value(line.test),
        "train loss": _spread(line.train_loss),
        "gap": _spread(line.gap),
        "seconds": _spread(line.seconds, digits=0),
        "to baseline's best": reach,
        "peak MB": _spread(line.peak_memory_mb, digits=0),
        "parameters": "" if line.parameters is None else f"{line.parameters:,}",
        "steps": "" if line.steps is None else str(line.steps),
        "chosen": in_words(line.candidate),
    }


def in_words(candidate: Mapping[str, object]) -> str:
    """Return the settings of a candidate as words."""
    words = [(name, f"{value:g}" if isinstance(value, float) else value) for name, value in candidate.items()]
    return ", ".join(f"{name} {value}" for name, value in words)


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def _p_value(test: Wilcoxon | None) -> str:
    return "" if test is None else f"{test.p_value:.3g}" + ("" if test.can_tell else " (too few seeds)")


def print_comparison(lines: Sequence[Line], *, title: str) -> None:
    """Print the lines to the standard output, without the columns that few readers ask for."""
    # A terminal is narrow, and all of them stand in the files.
    left_out = ("chosen", "parameters", "steps", "train loss")
    table = [{name: cell for name, cell in cells(line).items() if name not in left_out} for line in lines]
    print_cells(table, title=title)
    for note in notes(lines):
        print(note)


def notes(lines: Sequence[Line]) -> list[str]:
    """Return what a reader of the numbers must know, one sentence each."""
    sentences = []
    if weak := [line.test.smallest for line in lines if line.test is not None and not line.test.can_tell]:
        sentences.append(
            f"Wilcoxon: with so few differences no p-value can be below 0.05 (the smallest possible: {min(weak):.3g}); "
            "six seeds are the fewest that can."
        )
    if any(line.failed for line in lines):
        sentences.append("Runs that diverged have no score and are in no mean; they are counted beside the seeds.")
    return sentences


def markdown_table(lines: Sequence[Line], columns: Sequence[str]) -> str:
    """Return columns of the lines as a Markdown table."""
    rows = [columns, *([line_cells[name] for name in columns] for line_cells in map(cells, lines))]
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(columns), *body])


SCORES = ("method", "seeds", "difference", "95% over seeds", "over seeds and rows", "Wilcoxon p")
COSTS = ("method", "train loss", "gap", "seconds", "to baseline's best", "peak MB", "parameters", "steps", "chosen")


def section(
    config: ComparisonConfig,
    lines: Sequence[Line],
    choices: Mapping[str, Choice],
    *,
    versions: Mapping[str, str],
    command: str,
) -> str:
    """Return the section: how it was done, the scores, what they cost, what was chosen, and the command."""
    run, metric = config.run, lines[0].metric
    rows = "all" if run.train_rows is None else str(run.train_rows)
    # A document is for others, to whom the folders of this machine tell nothing.
    model = "the embedded MiniLM" if run.model is None else f"`{_elsewhere(run.model)}`"
    budget = f"{run.steps} lower steps" if config.budget == "steps" else f"the time of {run.steps} baseline steps"
    seeds = ", ".join(map(str, config.seed_list))
    parts = [
        f"## {run.task or Path(str(run.train_file)).name}",
        f"{rows} training rows, {model}, {budget} per run, seeds {seeds}; {metric} on the validation rows, mean ± "
        f"sample deviation. Differences are to `{config.baseline}`, paired by seed, with a 95% bootstrap interval.",
        markdown_table(lines, (*SCORES[:2], metric, *SCORES[2:])),
        *notes(lines),
        markdown_table(lines, COSTS),
        _choosing(config, choices),
        "Versions: " + ", ".join(f"{package} {version}" for package, version in versions.items()) + ".",
        f"```\n{shlex.join(map(_elsewhere, shlex.split(command)))}\n```",
    ]
    return "\n\n".join(part for part in parts if part)


def _choosing(config: ComparisonConfig, choices: Mapping[str, Choice]) -> str:
    tried = {label: choice.tried for label, choice in choices.items() if choice.tried}
    if not tried:
        return ""
    count = len(next(iter(tried.values())))
    return (
        f"Every method chose among {count} candidates by its score on {config.choose_share:.0%} of the training rows, "
        f"held out, with {config.choose_seeds} of the seeds:\n\n"
    ) + "\n".join(f"- `{label}`: {'; '.join(map(_trial, trials))}" for label, trials in tried.items())


def _trial(trial: Mapping[str, Any]) -> str:
    score = "undefined" if trial["score"] is None else f"{trial['score']:.3f}"
    return f"{in_words(trial['candidate'])}: {score}"


def _elsewhere(word: str) -> str:
    """Return a word of a command without the folders of this machine."""
    return f"DIR/{Path(word).name}" if Path(word).is_absolute() else word


def write_section(path: Path, text: str, *, name: str) -> None:
    """Write a section into a Markdown file, in place of the one between comments of its name, or behind the rest."""
    first, last = f"<!-- comparison {name} -->", f"<!-- end of comparison {name} -->"
    block = f"{first}\n{text}\n{last}\n"
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    head, tail = before + ("\n" if before else ""), ""
    if first in before and last in before:
        head, tail = before.split(first)[0], before.split(last, 1)[1].removeprefix("\n")
    # A document of the user's own may be a link, and shall stay one.
    write_whole(path.resolve(), head + block + tail)


def write_comparison(
    folder: Path,
    config: ComparisonConfig,
    *,
    records: Sequence[Record],
    lines: Sequence[Line],
    choices: Mapping[str, Choice],
    command: str,
) -> None:
    """Write ``results.*`` (a line per run), ``summary.*`` (a line per method), ``comparison.md`` and the document."""
    write_rows(folder / "results", [_run_row(record) for record in records])
    write_rows(folder / "summary", [dataclasses.asdict(line) for line in lines])
    # Of any run: a comparison that was gone on with after an upgrade has several, and every row has its own.
    versions: dict[str, str] = next((record["row"]["versions"] for record in records if record["row"] is not None), {})
    text = section(config, lines, choices, versions=versions, command=command)
    name = config.run.task or Path(str(config.run.train_file)).stem
    write_section(folder / "comparison.md", text, name=name)
    if config.document is not None:
        write_section(Path(config.document), text, name=name)


def _run_row(record: Record) -> dict[str, Any]:
    # A run that diverged has no row, and is a line all the same.
    row = record["row"] or {name: record[name] for name in ("method", "seed", "metric")}
    return {"label": record["label"], **row, **{name: record[name] for name in ("candidate", "failed", "folder")}}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as ``path.jsonl`` and, with dotted columns in place of what is nested, as ``path.csv``."""
    finite = [finite_or_null(row) for row in rows]
    # Not pandas' to_json, which cuts numbers to 15 digits.
    lines = [json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in finite]
    write_whole(path.with_suffix(".jsonl"), "".join(lines))
    # Objects, so that an int stays one beside None.
    table = pandas.DataFrame([dict(_flat(row)) for row in finite], dtype=object)
    # What is nested in some rows and None in others has columns of its own already.
    empty = [name for name in table if any(str(other).startswith(f"{name}.") for other in table)]
    write_whole(path.with_suffix(".csv"), table.drop(columns=empty).to_csv(index=False, lineterminator="\n"))


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, json.dumps(value) if isinstance(value, list) else value
