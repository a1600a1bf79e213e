"""What the results of a study say: its rows, what they score and cost, and how they differ."""

import functools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study_jobs import Done, Line, best_cell, cell_job, random_cells
from study_protocol import Cell, Protocol, job_of, lora
from study_runs import POINTS, counted, resampled, unpack

from bilora.runs.statistics import Interval, mean_row_draws, middle, sign_p_value, wilcoxon

# The line of the grid whose cell D2 chooses.
GRID = "grid"


@dataclass(frozen=True)
class Row:
    """A line of the tables: its trainings, and what each of them cost."""

    label: str
    # By setting and seed; what is not done is not there.
    lines: Mapping[tuple[str, int], Line]
    # CPU seconds of the search that its settings came from, by setting and seed.
    search: Mapping[tuple[str, int], float]


class Findings:
    """The results of a protocol, line by line of its tables."""

    def __init__(self, protocol: Protocol, lines: Sequence[Line]) -> None:
        self.protocol = protocol
        self.done: Done = {line["job"]: line for line in lines if "job" in line}
        self.labels = {line["labels_of"]: line for line in lines if "labels_of" in line}
        # Where one went wrong it has no score; it is counted, and never left out without a word.
        self.diverged = [name for name, line in self.done.items() if line["failed"] is not None]

    @functools.cached_property
    def rows(self) -> dict[str, Row]:
        """The lines of the tables by label: the methods, and those that were searched for."""
        rows = [self._method(label) for label in self.protocol.methods]
        if grid := self.protocol.grid:
            rows += [
                self._searched(
                    "random search", lambda setting, seed: random_cells(grid, setting, seed), chosen_by=None
                ),
                self._searched(GRID, lambda *_: grid.cells),
                self._searched("oracle", lambda *_: grid.cells, part="test"),
            ]
        return {row.label: row for row in rows}

    def grid_of(self, size: int) -> Row:
        """Return the row of a grid of the first cells."""
        assert self.protocol.grid is not None
        cells = self.protocol.grid.cells[:size]
        return self._searched(f"grid of {size}", lambda *_: cells)

    def _method(self, label: str) -> Row:
        row = self.protocol.methods[label]
        names = [(setting, seed) for setting, seed in self._places() if label in self.protocol.methods_in(setting)]
        return self._row(label, {place: job_of(place[0], row, place[1]).name for place in names}, {})

    def _searched(
        self,
        label: str,
        cells_of: Callable[[str, int], Sequence[Cell]],
        *,
        part: str = "upper",
        chosen_by: int | None = 0,
    ) -> Row:
        """Return the row of a search; ``chosen_by`` is the place of the seed that chooses for all, None for each."""
        names, search = {}, {}
        for setting, seed in self._places():
            chooser = seed if chosen_by is None else self.protocol.seeds_of(setting)[chosen_by]
            cells = cells_of(setting, seed)
            cell = best_cell(self.protocol, setting, cells, self.done, part=part, seed=chooser)
            if cell is None:
                continue
            names[setting, seed] = job_of(setting, lora(cell), seed).name
            # A grid of one cell chooses nothing.
            tried = [] if len(cells) == 1 else [self.done[cell_job(setting, cell, chooser).name] for cell in cells]
            search[setting, seed] = sum(map(seconds, tried))
        return self._row(label, names, search)

    def _row(self, label: str, names: Mapping[tuple[str, int], str], search: Mapping[tuple[str, int], float]) -> Row:
        there = {place: self.done[name] for place, name in names.items() if name in self.done}
        return Row(label, {place: line for place, line in there.items() if line["failed"] is None}, search)

    def _places(self) -> Iterator[tuple[str, int]]:
        yield from ((name, seed) for name in self.protocol.settings for seed in self.protocol.seeds_of(name))

    @property
    def main_settings(self) -> list[str]:
        """The settings that enter the means: those of the embedded model."""
        return [name for name, setting in self.protocol.settings.items() if setting.model is None]

    def score(self, line: Line) -> float:
        """Return the headline metric of a training, in points."""
        value: float = line["test"]["metrics"][self.protocol.settings[line["setting"]].metrics[0]]
        return POINTS * value

    @functools.cache  # noqa: B019  # the findings live as long as the program
    def resampled(self, job: str) -> Any:
        """Return the headline metric on resamples of the test rows, the same for all trainings of a setting."""
        line = self.done[job]
        # Where the labels must not stand in a file, the line has what they would be asked for.
        if "resampled" in line["test"]:
            return unpack(line["test"]["resampled"])
        setting, known = self.protocol.settings[line["setting"]], self.labels[line["setting"]]
        answers, labels = unpack(line["test"]["answers"]), unpack(known["labels"])
        return resampled(answers, labels, setting.metrics[0], counted(setting, known["names"]))


@dataclass(frozen=True)
class Comparison:
    """The differences of one row to another, in points, over the pairs of one setting and seed that both have."""

    pairs: int
    mean: float
    interval: Interval | None
    p_value: float | None
    better: int
    worst: tuple[str, float]
    # The smallest that so many pairs could give.
    least_p_value: float | None = None
    # Of the resampled means, over seeds and test rows.
    row_p_value: float | None = None


def compare(
    findings: Findings,
    first: Row,
    second: Row,
    settings: Sequence[str],
    measured: Callable[[Line], float] | None = None,
) -> Comparison | None:
    """Return how two rows differ: the mean over settings of the means over seeds; None without a pair."""
    value = measured or findings.score
    by_setting: dict[str, list[float]] = {}
    draws = []
    for setting in settings:
        seeds = [seed for name, seed in first.lines if name == setting and (name, seed) in second.lines]
        pairs = [(first.lines[setting, seed], second.lines[setting, seed]) for seed in seeds]
        if pairs:
            by_setting[setting] = [value(one) - value(other) for one, other in pairs]
            # The rows are resampled for the headline metric alone.
            if measured is None:
                scores = [[findings.resampled(line["job"]) for line in pair] for pair in pairs]
                draws.append([one - other for one, other in scores])
    if not by_setting:
        return None
    differences = [difference for some in by_setting.values() for difference in some]
    means = {setting: statistics.mean(some) for setting, some in by_setting.items()}
    test = wilcoxon(differences)
    # One seed alone cannot be resampled.
    whole = bool(draws) and all(len(some) > 1 for some in draws)
    means_drawn = mean_row_draws(draws) if whole else None
    return Comparison(
        pairs=len(differences),
        mean=statistics.mean(means.values()),
        interval=None if means_drawn is None else middle(means_drawn),
        p_value=None if test is None else test.p_value,
        better=sum(difference > 0 for difference in differences),
        worst=min(means.items(), key=lambda item: item[1]),
        least_p_value=None if test is None else test.smallest,
        row_p_value=None if means_drawn is None else sign_p_value(means_drawn),
    )


def lines_of(row: Row, setting: str) -> list[Line]:
    """Return the trainings of a row in a setting."""
    return [line for (name, _), line in row.lines.items() if name == setting]


def seconds(line: Line) -> float:
    """Return the CPU time of a training; NaN where its machine had no instructions for bf16, and took longer."""
    return math.nan if line.get("bf16") == "in fp32" else float(line["cpu"]["fit"])


def cost(findings: Findings, row: Row) -> float | None:
    """Return the CPU time of a row's trainings, their search included, in LoRA runs of the same setting."""
    unit = findings.rows.get(findings.protocol.unit) or findings.rows[findings.protocol.main]
    ratios = []
    for setting in findings.main_settings:
        ones = [seconds(line) for line in lines_of(unit, setting)]
        own = [
            seconds(line) + row.search.get((name, seed), 0.0)
            for (name, seed), line in row.lines.items()
            if name == setting
        ]
        ones, own = [one for one in ones if not math.isnan(one)], [one for one in own if not math.isnan(one)]
        if ones and own:
            ratios.append(statistics.mean(own) / statistics.mean(ones))
    return statistics.mean(ratios) if ratios else None
