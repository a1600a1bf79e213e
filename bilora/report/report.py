"""A report: from the folders of runs to one HTML page and a picture a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bilora.errors import SettingsError
from bilora.report.figure_style import Drawing
from bilora.report.figures_levels import cosine_curves, norm_curves, rate_curves
from bilora.report.figures_losses import gap_curves, loss_curves, score_curves
from bilora.report.figures_results import answers, costs
from bilora.report.figures_values import spectrum_map, value_map
from bilora.report.page import page
from bilora.report.read_run import ReadRun, read_runs
from bilora.runs.table import summarise

ALL_MAPS = 8
"""Runs of which singular values are drawn; of more runs, the first seed of each method is taken."""


@dataclass(frozen=True)
class ReportConfig:
    """What a report shows and where it goes.

    Args:
        runs: Folders of runs, of comparisons, or of programs that compare methods.
        output: The HTML file; None takes ``report.html`` in the first of the folders. The pictures go to a folder
            beside it that is called as the file is, with ``-figures``.

    Raises:
        SettingsError: There is no folder, or the file is not an HTML one.

    Example:
        >>> ReportConfig(["runs/mrpc-1"]).target.as_posix()
        'runs/mrpc-1/report.html'
    """

    runs: list[str]
    output: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.runs:
            raise SettingsError("report: no folder is given; give that of a run, or of a comparison")
        if self.target.suffix != ".html":
            raise SettingsError(f"report: output is {self.output!r}; it must end in .html")

    @property
    def target(self) -> Path:
        """The HTML file."""
        return Path(self.runs[0]) / "report.html" if self.output is None else Path(self.output)


def write_report(config: ReportConfig) -> Path:
    """Write the page and the pictures, and return the page's path.

    Raises:
        DataError: A folder holds no run, or a file in it cannot be read.
        SettingsError: The report cannot be written there.
    """
    found = read_runs([Path(each) for each in config.runs])
    drawings = draw(found)
    target = config.target
    pictures = target.with_name(f"{target.stem}-figures")
    try:
        pictures.mkdir(parents=True, exist_ok=True)
        target.write_text(
            page(_title(found), table=_table(found), drawings=drawings, runs=found), encoding="utf-8", newline="\n"
        )
    except OSError as error:
        raise SettingsError(f"report: {target} cannot be written: {error}; give --output") from error
    for each in drawings:
        each.write_png(pictures)
    return target


def draw(found: Sequence[ReadRun]) -> list[Drawing]:
    """Return all figures for which the runs hold numbers.

    Args:
        found: One run or more.
    """
    runs = by_label(found)
    metric = next((run.metric for run in found if run.metric), None)
    drawn = [
        loss_curves(runs, seconds=False),
        loss_curves(runs, seconds=True) if any(run.times for run in found) else None,
        None if metric is None else score_curves(runs, metric),
        gap_curves(runs),
        norm_curves(runs),
        cosine_curves(runs),
        rate_curves(runs),
        costs(runs),
        answers(runs),
        *_maps(found),
    ]
    return [each for each in drawn if each is not None]


def by_label(found: Sequence[ReadRun]) -> Mapping[str, list[ReadRun]]:
    """Return the runs of each label, in the order in which labels first appear."""
    labels = dict.fromkeys(run.label for run in found)
    return {label: [run for run in found if run.label == label] for label in labels}


def _maps(found: Sequence[ReadRun]) -> list[Drawing]:
    chosen = list(found) if len(found) <= ALL_MAPS else [own[0] for own in by_label(found).values()]
    return [
        *(value_map(run) for run in chosen if run.values),
        *(spectrum_map(run) for run in chosen if run.spectrum),
    ]


def _table(found: Sequence[ReadRun]) -> list[dict[str, str]]:
    return summarise([{**run.results, "method": run.label} for run in found if run.results])


def _title(found: Sequence[ReadRun]) -> str:
    tasks = dict.fromkeys(str(run.results.get("task") or run.config.get("task") or "run") for run in found)
    return f"{', '.join(tasks)}: {', '.join(by_label(found))}"
