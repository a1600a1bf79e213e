"""The lines of a comparison as text: for the terminal, for Markdown."""

from __future__ import annotations

import csv
import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bilora.compare.choice import Choice, Record
from bilora.compare.config import ComparisonConfig
from bilora.compare.lines import Line, Spread
from bilora.compare.statistics import Wilcoxon
from bilora.files.formats import finite_or_null
from bilora.runs.table import print_cells


def cells(line: Line) -> dict[str, str]:
    """Return a line's cells by column.

    Example:
        >>> cells(Line("lora", "accuracy", 1, 0, Spread(0.5, None), *[None] * 8, 0, None, 1000, 10, {}))["accuracy"]
        '0.500'
    """
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
        "to baseline's best": "never"
        if line.reach is None
        else f"{line.reach.mean:.0f} s ({line.reached}/{line.seeds})",
        "peak MB": _spread(line.peak_memory_mb, digits=0),
        "parameters": "" if line.parameters is None else f"{line.parameters:,}",
        "steps": "" if line.steps is None else str(line.steps),
        "chosen": in_words(line.candidate),
    }


def in_words(candidate: Mapping[str, object]) -> str:
    """Return the settings of a candidate as words.

    Example:
        >>> in_words({"lower.learning_rate": 0.001, "refresh": 1})
        'lower.learning_rate 0.001, refresh 1'
    """
    words = [(name, f"{value:g}" if isinstance(value, float) else value) for name, value in candidate.items()]
    return ", ".join(f"{name} {value}" for name, value in words)


def print_comparison(lines: Sequence[Line], *, title: str) -> None:
    """Print the lines to the standard output, what is the same for many readers first."""
    shown = ("chosen", "parameters", "steps", "train loss")
    print_cells(
        [{name: each for name, each in cells(line).items() if name not in shown} for line in lines], title=title
    )
    for note in notes(lines):
        print(note)


def notes(lines: Sequence[Line]) -> list[str]:
    """Return what a reader of the numbers must know, one sentence each."""
    found = []
    weak = {line.test.smallest for line in lines if line.test is not None and not line.test.can_tell}
    if weak:
        found.append(
            f"Wilcoxon: with so few differences no p-value can be below 0.05 (the smallest possible: {min(weak):.3g}); "
            "six seeds are the fewest that can."
        )
    if any(line.failed for line in lines):
        found.append("Runs that diverged have no score and are in no mean; they are counted beside the seeds.")
    return found


def markdown_table(lines: Sequence[Line], columns: Sequence[str] | None = None) -> str:
    """Return the lines as a Markdown table.

    Args:
        lines: The lines.
        columns: Which columns; None for all.

    Example:
        >>> line = Line("a|b", "f1", 1, 0, Spread(0.5, None), *[None] * 8, 0, None, 10, 10, {})
        >>> print(markdown_table([line], ["method", "f1"]))
        | method | f1 |
        |---|---|
        | a\\|b | 0.500 |
    """
    table = [cells(line) for line in lines]
    names = list(table[0]) if columns is None else list(columns)
    rows = [names, *([line[name] for name in names] for line in table)]
    written = ["| " + " | ".join(each.replace("|", "\\|") for each in row) + " |" for row in rows]
    return "\n".join([written[0], "|" + "---|" * len(names), *written[1:]])


def _spread(found: Spread | None, *, digits: int = 3) -> str:
    if found is None:
        return "undefined"
    mean = f"{found.mean:.{digits}f}"
    return mean if found.deviation is None else f"{mean} ± {found.deviation:.{digits}f}"


def _interval(found: tuple[float, float] | None) -> str:
    return "" if found is None else f"{found[0]:+.3f} to {found[1]:+.3f}"


def _p_value(test: Wilcoxon | None) -> str:
    if test is None:
        return ""
    return f"{test.p_value:.3g}" + ("" if test.can_tell else " (too few seeds)")


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
    name = run.task or Path(str(run.train_file)).name
    rows = "all" if run.train_rows is None else str(run.train_rows)
    model = "the embedded MiniLM" if run.model is None else f"`{_elsewhere(run.model)}`"
    budget = f"{run.steps} lower steps" if config.budget == "steps" else f"the time of {run.steps} baseline steps"
    seeds = ", ".join(map(str, config.seed_list))
    parts = [
        f"## {name}",
        f"{rows} training rows, {model}, {budget} a run, seeds {seeds}; {metric} on the validation rows, mean ± sample "
        f"deviation. Differences are to `{config.baseline}`, paired by seed, with a 95% bootstrap interval.",
        markdown_table(lines, (*SCORES[:2], metric, *SCORES[2:])),
        *notes(lines),
        markdown_table(lines, COSTS),
        _choosing(config, choices),
        "Versions: " + ", ".join(f"{package} {version}" for package, version in versions.items()) + ".",
        f"```\n{shlex.join(map(_elsewhere, shlex.split(command)))}\n```",
    ]
    return "\n\n".join(part for part in parts if part)


def write_section(path: Path, text: str, *, name: str) -> None:
    """Write a section into a Markdown file, in place of the one of the same name, or behind all that is there.

    Args:
        path: The file; made where there is none.
        text: The section.
        name: It stands in the comments before and after the section, by which it is found again.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "results.md"
        >>> for text in ("old", "new"):
        ...     write_section(path, text, name="mrpc")
        >>> "old" in path.read_text(), "new" in path.read_text()
        (False, True)
    """
    first, last = f"<!-- comparison {name} -->", f"<!-- end of comparison {name} -->"
    block = f"{first}\n{text}\n{last}\n"
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    if first in before and last in before:
        head, tail = before.split(first)[0], before.split(last, 1)[1].removeprefix("\n")
        path.write_text(head + block + tail, encoding="utf-8")
    else:
        path.write_text(before + ("\n" if before else "") + block, encoding="utf-8")


def _choosing(config: ComparisonConfig, choices: Mapping[str, Choice]) -> str:
    tried = {label: each.tried for label, each in choices.items() if each.tried}
    if not tried:
        return ""
    said = [
        f"- `{label}`: " + "; ".join(f"{in_words(each['candidate'])}: {_number(each['score'])}" for each in found)
        for label, found in tried.items()
    ]
    count = len(next(iter(tried.values())))
    return (
        f"Every method chose among {count} candidates by its score on {config.choose_share:.0%} of the training rows, "
        f"held out, with {config.choose_seeds} of the seeds:\n\n" + "\n".join(said)
    )


def _elsewhere(word: str) -> str:
    """Return a word of a command as others can read it: where a file lies on this machine tells them nothing."""
    return f"DIR/{Path(word).name}" if Path(word).is_absolute() else word


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def write_comparison(
    folder: Path,
    config: ComparisonConfig,
    *,
    records: Sequence[Record],
    lines: Sequence[Line],
    choices: Mapping[str, Choice],
    command: str,
) -> None:
    """Write ``results.*`` (a run a line), ``summary.*`` (a method a line) and ``comparison.md``.

    Args:
        folder: The comparison's folder.
        config: The comparison; its ``document`` gets the same section as ``comparison.md``.
        records: Of the reported runs.
        lines: One a method.
        choices: What was chosen for each method, and among what.
        command: The words that started the comparison.
    """
    write_rows(folder / "results", [_flat_run(each) for each in records])
    write_rows(folder / "summary", [dataclasses.asdict(line) for line in lines])
    text = section(config, lines, choices, versions=_versions(records), command=command)
    name = config.run.task or Path(str(config.run.train_file)).stem
    write_section(folder / "comparison.md", text, name=name)
    if config.document is not None:
        write_section(Path(config.document), text, name=name)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as ``path.jsonl`` and, with dotted columns in place of what is nested, as ``path.csv``.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rows"
        >>> write_rows(path, [{"label": "lora", "score": {"mean": 0.5}}])
        >>> path.with_suffix(".csv").read_text().split()
        ['label,score.mean', 'lora,0.5']
    """
    text = "".join(json.dumps(finite_or_null(row), allow_nan=False, ensure_ascii=False) + "\n" for row in rows)
    path.with_suffix(".jsonl").write_text(text, encoding="utf-8")
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    # What is nested in some rows and None in others has columns of its own already.
    columns = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            found[prefix + name] = json.dumps(value)
        else:
            found[prefix + name] = value
    return found


def _flat_run(record: Record) -> dict[str, Any]:
    """Return a run as a row of results, with the label first."""
    about = {name: record[name] for name in ("label", "candidate", "failed", "folder")}
    row = record["row"] or {"method": record["method"], "seed": record["seed"], "metric": record["metric"]}
    return {"label": about.pop("label"), **row, **about}


def _versions(records: Sequence[Record]) -> dict[str, str]:
    return next((dict(each["row"]["versions"]) for each in records if each["row"] is not None), {})
