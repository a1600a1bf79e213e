"""A report: from the folders of runs to one HTML page and a picture per figure."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from bilora.errors import SettingsError
from bilora.files.formats import write_whole
from bilora.files.whole_folders import write_files
from bilora.report import figures
from bilora.report.figures import by_label
from bilora.report.findings import class_rows, error_rows, findings
from bilora.report.learned import learned_numbers, learned_words
from bilora.report.measured import Measured, measured
from bilora.report.next_steps import next_steps
from bilora.report.outcomes import answers, costs, reliability, spectrum_map, value_map
from bilora.report.read_run import ReadRun, read_runs, without_texts
from bilora.report.style import Drawing
from bilora.report.tables import class_cells, loss_rows, metric_rows, score_rows, settings_rows
from bilora.report.verdict import to_take, verdict

PAGE = Path(__file__).with_name("page.html")
# Runs of which singular values are drawn; of more runs, the first seed of each method is taken.
ALL_MAPS = 8


@dataclass(frozen=True)
class ReportConfig:
    """What a report shows and where it goes.

    Args:
        runs: Folders of runs, of comparisons, or of programs that compare methods.
        output: The HTML file; None takes ``report.html`` in the first of the folders. The pictures go to a folder
            beside it that is called as the file is, with ``-figures``.
        no_texts: Leave the texts of rows out of the page, as for readers who must not see them; row numbers, labels
            and names of classes stay.
    """

    runs: list[str]
    output: str | None = None
    no_texts: bool = False

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
    """Write the page and the pictures, and return the page's path."""
    # Everything is drawn before anything is written: runs that cannot be read leave an earlier page as it is.
    runs = read_runs([Path(folder) for folder in config.runs])
    if config.no_texts:
        runs = [without_texts(run) for run in runs]
    drawings = draw(runs)
    target, text = config.target, page(runs, drawings)
    pictures = target.with_name(f"{target.stem}-figures")
    try:
        for path in (target, pictures, *pictures.glob("*")):
            if path.is_symlink():
                raise SettingsError(f"report: {path} is a link, and nothing is written through links; give --output")
        pictures.mkdir(parents=True, exist_ok=True)
        # The page, which shows the figures itself, comes last: with no room for all, an earlier one is left whole.
        write_files(pictures, lambda scratch: _write_pictures(scratch, drawings))
        write_whole(target, text)
    except OSError as error:
        raise SettingsError(f"report: {target} cannot be written: {error}; give --output") from error
    return target


def _write_pictures(folder: Path, drawings: Sequence[Drawing]) -> None:
    for drawing in drawings:
        drawing.write_png(folder / f"{drawing.name}.png")


def draw(runs: Sequence[ReadRun]) -> list[Drawing]:
    """Return all figures for which the runs hold numbers."""
    metric = next((run.results["metric"] for run in runs if run.results), None)
    mapped = runs if len(runs) <= ALL_MAPS else [same[0] for same in by_label(runs).values()]
    of_answers = (answers, reliability, costs)
    of_training = (figures.gap_curves, figures.norm_curves, figures.cosine_curves, figures.rate_curves)
    drawings = [
        *(figure(runs) for figure in of_answers),
        *(learned_numbers(run) for run in mapped),
        *(value_map(run) for run in mapped if len(run.values)),
        *(spectrum_map(run) for run in mapped if len(run.spectrum)),
        None if metric is None else figures.score_curves(runs, metric),
        figures.loss_curves(runs),
        *(figure(runs) for figure in of_training),
    ]
    return [drawing for drawing in drawings if drawing is not None]


def page(runs: Sequence[ReadRun], drawings: Sequence[Drawing]) -> str:
    """Return the page, with every text in it escaped."""
    tasks = dict.fromkeys(run.task_name for run in runs)
    groups, methods = by_label(runs), measured(runs)
    taken = to_take(methods)
    # The template escapes every text but the drawings; a name that it misspells is an error, not an empty place.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["cells"] = class_cells
    return environment.from_string(PAGE.read_text(encoding="utf-8")).render(
        title=f"{', '.join(tasks)}: {', '.join(groups)}",
        verdict=verdict(methods),
        next_steps=[] if taken is None else next_steps(methods, findings(groups[taken.label])),
        adapter=taken.label if taken is not None and len(methods) > 1 else None,
        scores=score_rows(runs, methods),
        about_scores=_about_scores(methods),
        other_scores=metric_rows(runs),
        losses=loss_rows(runs),
        classes=_classes(groups),
        **_errors(runs),
        drawings=drawings,
        learned={run.folder: learned_words(run) for run in runs},
        runs=runs,
        settings_rows=settings_rows(runs),
        # Columns beside the first one whose cells may be long.
        names={"label", "answer", "given", "likely", "mostly taken for"},
        quote=shlex.quote,
        settings=lambda run: yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
    )


def _about_scores(methods: Sequence[Measured]) -> str:
    words = (
        "Mean over seeds and sample deviation. Intervals are percentiles of bootstraps of the rows, and of the seeds "
    )
    words += "where there are several; where no answers were kept, of the seeds alone. "
    if len(methods) > 1:
        words += (
            "Differences are to the baseline, in pairs of one seed and the same rows. p is that of Wilcoxon's "
            "signed-rank test over seeds where six or more differ, else of exchanging the answers of both, row by row."
        )
    return words


def _classes(groups: dict[str, list[ReadRun]]) -> dict[str, list[dict[str, str]]]:
    found = {label: [class_cells(row) for row in class_rows(same)] for label, same in groups.items()}
    return {label: rows for label, rows in found.items() if rows}


def _errors(runs: Sequence[ReadRun]) -> dict[str, Any]:
    """Return the table of the most confident errors, its title and what is said of it."""
    rows = error_rows(runs)
    source = next((run.source for run in runs if run.source and run.answers), None)
    where = f"row: its line in {source}, counted from 1" if source else "row: its line in the file, counted from 1"
    if rows and "off by" in rows[0]:
        title, order = "Answers furthest from their label", "the mean answer of all runs, the furthest first"
    else:
        title = "Most confident errors"
        order = "the surest first; with several runs, the mean confidence, where a run that is right counts as 0"
    about = f"Candidates for wrong labels: {order}; {where}."
    shown = [{name: cell for name, cell in row.items() if name != "text" or cell is not None} for row in rows]
    return {"errors": [class_cells(row) for row in shown], "errors_title": title, "about_errors": about}
