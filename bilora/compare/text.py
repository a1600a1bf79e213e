"""A comparison as a section of a Markdown document."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from bilora.compare.choice import Choice
from bilora.compare.config import ComparisonConfig
from bilora.compare.lines import Line
from bilora.compare.table import in_words, markdown_table, notes

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
