"""The lines of a comparison as text: for the terminal, for Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bilora.compare.lines import Line, Spread
from bilora.compare.paired_statistics import Wilcoxon
from bilora.runs.results_table import print_cells


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
