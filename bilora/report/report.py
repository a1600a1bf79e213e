"""A report: from the folders of runs to one HTML page and a picture per figure."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import yaml

from bilora.errors import SettingsError
from bilora.files.formats import write_whole
from bilora.files.whole_folders import write_files
from bilora.report import figures
from bilora.report.figures import by_label
from bilora.report.outcomes import answers, costs, spectrum_map, value_map
from bilora.report.read_run import ReadRun, read_runs
from bilora.report.style import Drawing
from bilora.runs.table import summarise

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
    """Write the page and the pictures, and return the page's path."""
    # Everything is drawn before anything is written: runs that cannot be read leave an earlier page as it is.
    runs = read_runs([Path(folder) for folder in config.runs])
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
    timed = any(run.metrics["seconds"].notna().any() for run in runs)
    of_all_runs = (figures.gap_curves, figures.norm_curves, figures.cosine_curves, figures.rate_curves, costs, answers)
    drawings = [
        figures.loss_curves(runs),
        figures.loss_curves(runs, seconds=True) if timed else None,
        None if metric is None else figures.score_curves(runs, metric),
        *(figure(runs) for figure in of_all_runs),
        *(value_map(run) for run in mapped if len(run.values)),
        *(spectrum_map(run) for run in mapped if len(run.spectrum)),
    ]
    return [drawing for drawing in drawings if drawing is not None]


def page(runs: Sequence[ReadRun], drawings: Sequence[Drawing]) -> str:
    """Return the page, with every text in it escaped."""
    tasks = dict.fromkeys(str(run.results.get("task") or run.config.get("task") or "run") for run in runs)
    # The template escapes every text but the drawings; a name that it misspells is an error, not an empty place.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(PAGE.read_text(encoding="utf-8")).render(
        title=f"{', '.join(tasks)}: {', '.join(by_label(runs))}",
        results=summarise([{**run.results, "method": run.label} for run in runs if run.results]),
        drawings=drawings,
        runs=runs,
        quote=shlex.quote,
        settings=lambda run: yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
    )
