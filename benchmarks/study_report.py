"""What a study found as tables: scores, differences, costs and calibration; and the curve of score against cost."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas
import seaborn
from matplotlib.figure import Figure
from study_findings import GRID, Findings, Row, compare, cost, lines_of
from study_jobs import best_cell, jobs

from bilora.report.style import COLOURS, Drawing, style

NOT_DONE = "–"


def section(findings: Findings, command: str) -> str:
    """Return the section of the document."""
    protocol = findings.protocol
    named = [job.name for job in jobs(protocol, findings.done)]
    missing = sum(name not in findings.done for name in named)
    about = list(findings.done.values())[-1:]
    parts = [
        f"## The {protocol.name.replace('_', ' ')}",
        f"Protocol sha256 `{protocol.sha256}`, fixed before the runs. {len(findings.done)} trainings are done, and "
        f"{missing} of those that can be named by now are not; {len(findings.diverged)} diverged"
        + (f" ({', '.join(findings.diverged)})." if findings.diverged else "."),
        _scores(findings),
        *_comparisons(findings),
        *([_wanted(findings), _choices(findings)] if protocol.grid else []),
        _qualities(findings),
        *("Versions: " + ", ".join(f"{name} {of}" for name, of in line["versions"].items()) + "." for line in about),
        f"```\n{command}\n```",
    ]
    return "\n\n".join(part for part in parts if part)


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return cells as a Markdown table; a cell that a row lacks was not run."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([row.get(name, NOT_DONE) for name in columns] for row in rows)]
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(columns), *body])


def _scores(findings: Findings) -> str:
    rows = []
    for setting in findings.protocol.settings:
        cells = {"setting (metric)": f"{setting} ({findings.protocol.settings[setting].metrics[0]})"}
        for label, row in findings.rows.items():
            wanted = len(findings.protocol.seeds_of(setting))
            cells[label] = mean_cell([findings.score(line) for line in lines_of(row, setting)], wanted)
        rows.append(cells)
    text = (
        "Scores on the test rows in points, mean over seeds ± standard error; behind it how many of the seeds are "
        f"there where some are missing, and {NOT_DONE} where none is."
    )
    return f"{text}\n\n{table([*rows, _means(findings)])}"


def _means(findings: Findings) -> dict[str, str]:
    """Return the means over the settings of the embedded model, of rows that have all of them."""
    cells = {"setting (metric)": f"mean of {len(findings.main_settings)}"}
    for label, row in findings.rows.items():
        scores = [[findings.score(line) for line in lines_of(row, setting)] for setting in findings.main_settings]
        if all(scores):
            cells[label] = f"{statistics.mean(map(statistics.mean, scores)):.1f}"
    return cells


def mean_cell(values: Sequence[float], wanted: int) -> str:
    """Return the mean with its standard error, and how many there are where some are missing."""
    if not values:
        return NOT_DONE
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{error}" + (f" ({len(values)}/{wanted})" if len(values) < wanted else "")


def _comparisons(findings: Findings) -> list[str]:
    main = findings.rows[findings.protocol.main]
    rows = []
    for label, row in findings.rows.items():
        compared = None if row is main else compare(findings, main, row, findings.main_settings)
        if compared is not None:
            rows.append(
                {
                    f"{main.label} less": label,
                    "mean": f"{compared.mean:+.2f}",
                    "95% over seeds and rows": ""
                    if compared.interval is None
                    else "{:+.2f} to {:+.2f}".format(*compared.interval),
                    "Wilcoxon p": "" if compared.p_value is None else f"{compared.p_value:.2g}",
                    "better in": f"{compared.better} of {compared.pairs}",
                    "worst setting": f"{compared.worst[0]} {compared.worst[1]:+.1f}",
                    "CPU time in LoRA runs": cost_cell(findings, row),
                }
            )
    if not rows:
        return [f"No training of {main.label} is done that another can be paired with."]
    text = (
        f"Differences of `{main.label}` to each other line in points, paired by setting and seed, with a 95% bootstrap "
        f"interval over seeds and test rows; `{main.label}` itself costs {cost_cell(findings, main)} LoRA runs of the "
        "same steps on all rows, a search the CPU time of its cells and of one retraining."
    )
    return [f"{text}\n\n{table(rows)}"]


def cost_cell(findings: Findings, row: Row) -> str:
    """Return the cost in LoRA runs."""
    value = cost(findings, row)
    return NOT_DONE if value is None else f"{value:.1f}"


# What was asked for: of the main method to a row, over which settings, the least mean, the least of the worst setting,
# and whether Wilcoxon's p must be below 0.01.
WANTED: tuple[tuple[str, bool, float | None, float | None, bool], ...] = (
    (GRID, False, 0.0, -1.5, False),
    ("oracle", False, -0.5, None, False),
    ("lora_1e-3", False, 2.0, None, True),
    ("lora_3e-3", False, 2.0, None, True),
    ("lora_3e-3", True, 5.0, None, False),
    ("random search", False, 0.0, None, True),
)


def _wanted(findings: Findings) -> str:
    main, rows = findings.rows[findings.protocol.main], []
    for label, noisy, least, worst, significant in WANTED:
        settings = [name for name in findings.main_settings if findings.protocol.settings[name].noisy or not noisy]
        compared = compare(findings, main, findings.rows[label], settings)
        said = [f"mean at least {least:+.1f}"] + ([f"no setting below {worst:+.1f}"] if worst is not None else [])
        said += ["p < 0.01"] if significant else []
        cells = {"against": label + (", noisy settings" if noisy else ""), "wanted": ", ".join(said)}
        if compared is not None:
            holds = (
                compared.mean >= (least or 0.0)
                and (worst is None or compared.worst[1] >= worst)
                and (not significant or (compared.p_value is not None and compared.p_value < 0.01))
            )
            p_value = "" if compared.p_value is None or not significant else f", p {compared.p_value:.2g}"
            lowest = f", {compared.worst[0]} {compared.worst[1]:+.1f}" if worst is not None else ""
            cells |= {
                "found": f"{compared.mean:+.2f}{lowest}{p_value} ({compared.pairs} pairs)",
                "met": "yes" if holds else "no",
            }
        rows.append(cells)
    for key, name in (("loss", "test loss"), ("calibration", "calibration error")):
        classified = [n for n in findings.main_settings if findings.protocol.settings[n].metrics[0] != "pearson"]
        compared = compare(findings, main, findings.rows[GRID], classified, lambda line, key=key: line["test"][key])  # type: ignore[misc]
        cells = {"against": f"{GRID}, {name}", "wanted": "mean below 0"}
        if compared is not None:
            cells |= {
                "found": f"{compared.mean:+.4f} ({compared.pairs} pairs)",
                "met": "yes" if compared.mean < 0 else "no",
            }
        rows.append(cells)
    return f"What was asked for before the runs, and what came:\n\n{table(rows)}"


def _choices(findings: Findings) -> str:
    grid = findings.protocol.grid
    assert grid is not None
    rows = []
    for setting in findings.protocol.settings:
        best = {
            part: best_cell(findings.protocol, setting, grid.cells, findings.done, part=part)
            for part in ("upper", "test")
        }
        cells = [f"{cell[0]:g}, {cell[1]:g}" if cell else NOT_DONE for cell in best.values()]
        rows.append({"setting": setting, "cell that D2 chose": cells[0], "cell of the oracle": cells[1]})
    return f"Cells of the grid (learning rate, decay), chosen with the first seed:\n\n{table(rows)}"


def _qualities(findings: Findings) -> str:
    rows = []
    for label, row in findings.rows.items():
        settings = [name for name in findings.main_settings if findings.protocol.settings[name].metrics[0] != "pearson"]
        lines = [lines_of(row, setting) for setting in settings]
        # The mean of some settings is no mean of all.
        if not all(lines):
            continue
        cells = {"line": label}
        for key, name in (("loss", "test loss"), ("calibration", "calibration error")):
            cells[name] = (
                f"{statistics.mean(statistics.mean(line['test'][key] for line in some) for some in lines):.3f}"
            )
        rows.append(cells)
    if not rows:
        return ""
    return (
        "Loss and expected calibration error on the test rows, means over the settings with classes; of lines that "
        f"have all of them:\n\n{table(rows)}"
    )


def curve(findings: Findings) -> Drawing | None:
    """Return the mean score against the CPU time, of grids of several sizes and of ours; None without either."""
    grid, main = findings.protocol.grid, findings.rows[findings.protocol.main]
    if grid is None:
        return None
    rows = [(findings.grid_of(size), "grids") for size in grid.sizes] + [(main, main.label)]
    rows += [(findings.rows["random search"], "random search")]
    # Settings that all of them have, or the points would be means of different things.
    settings = [name for name in findings.main_settings if all(lines_of(row, name) for row, _ in rows)]
    if not settings:
        return None
    points = pandas.DataFrame(
        {
            "cost": cost(findings, row),
            "score": statistics.mean(statistics.mean(map(findings.score, lines_of(row, name))) for name in settings),
            "line": line,
        }
        for row, line in rows
    )
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    with style():
        seaborn.lineplot(
            points,
            x="cost",
            y="score",
            hue="line",
            style="line",
            markers=True,
            dashes=False,
            palette=list(COLOURS[:3]),
            ax=axes,
        )
    axes.set(xscale="log", xlabel="CPU time in LoRA runs", ylabel=f"mean score of {len(settings)} settings")
    axes.set_xticks([1, 2, 4, 8, 13], labels=["1", "2", "4", "8", "13"])
    return Drawing("study", "Score against cost", f"Grids of {', '.join(map(str, grid.sizes))} cells.", figure)


def write_curve(findings: Findings, path: Path) -> bool:
    """Write the figure; nothing where too little is done."""
    drawing = curve(findings)
    if drawing is not None:
        drawing.write_png(path)
    return drawing is not None
