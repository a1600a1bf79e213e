"""Pseudo singular values over time, and the spectra that a run ends with."""

from __future__ import annotations

from typing import Any

import numpy
from matplotlib.figure import Figure

from bilora.report.figure_style import Drawing, style
from bilora.report.read_run import ReadRun
from bilora.runs.folder import plain_name

Matrix = numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.float64]]
ROW = 0.055
"""Height of a value's row, in inches."""


def value_map(run: ReadRun) -> Drawing:
    """Draw every value of every layer over the steps of a run, which must have readings, as a heat map."""
    layers = list(run.values[0][1])
    rank = max(len(values) for _, layer_values in run.values for values in layer_values.values())
    table = numpy.full((len(layers) * rank, len(run.values)), numpy.nan)
    for column, (_, by_layer) in enumerate(run.values):
        for index, layer in enumerate(layers):
            values = by_layer[layer]
            table[index * rank : index * rank + len(values), column] = values
    with style():
        figure = Figure(figsize=(7.6, max(2.6, 0.9 + ROW * len(table))), layout="constrained")
        axes = figure.subplots()
        mesh = _mesh(axes, _edges([step for step, _ in run.values]), numpy.arange(len(table) + 1.0), table)
        _name_layers(axes, layers, rank)
        axes.set_xlabel("lower step")
        figure.colorbar(mesh, ax=axes, label="value s", shrink=min(1.0, 2.2 / figure.get_figheight()))
    caption = (
        f"{run.name}: the {rank} pseudo singular values of each adapted layer, a row each, over the steps. White rows "
        "were cut or, in a map of both signs, are zero."
    )
    return Drawing(f"values-{plain_name(run.label)}-seed{run.seed}", "Pseudo singular values", caption, figure)


def spectrum_map(run: ReadRun) -> Drawing:
    """Draw the magnitudes of each layer's terms, the largest first, and how many of them are kept."""
    rank = max(len(each["values"]) for each in run.spectrum)
    table = numpy.full((len(run.spectrum), rank), numpy.nan)
    for index, each in enumerate(run.spectrum):
        table[index, : len(each["values"])] = each["values"]
    with style():
        figure = Figure(figsize=(7.6, max(2.2, 0.9 + 0.24 * len(table))), layout="constrained")
        axes = figure.subplots()
        mesh = _mesh(axes, numpy.arange(rank + 1.0) + 0.5, numpy.arange(len(table) + 1.0), table)
        for index, each in enumerate(run.spectrum):
            axes.plot([each["kept"] + 0.5] * 2, [index, index + 1], color="#D55E00", linewidth=2.2)
        names = [f"{short(each['layer'])}  {each['kept']}/{len(each['values'])}" for each in run.spectrum]
        axes.set_yticks(numpy.arange(len(table)) + 0.5, names, fontsize=7.5)
        axes.set_xticks(range(1, rank + 1))
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_xlabel("rank-one term, the largest first")
        figure.colorbar(mesh, ax=axes, label="magnitude |c| |P| |Q|", shrink=min(1.0, 2.2 / figure.get_figheight()))
    caption = (
        f"{run.name}: the size of each rank-one term at the end, a row a layer; the line stands behind those kept."
    )
    return Drawing(f"spectrum-{plain_name(run.label)}-seed{run.seed}", "Spectra and kept ranks", caption, figure)


def short(layer: str) -> str:
    """Return a layer's name without what all names of an encoder have in common.

    Example:
        >>> short("bert.encoder.layer.3.attention.self.query")
        '3.attention.query'
    """
    parts = [part for part in layer.split(".") if part not in ("model", "encoder", "layer", "layers", "self", "h")]
    return ".".join(parts[-3:])


def _mesh(axes: Any, across: Matrix, down: Matrix, table: Matrix) -> Any:
    """Draw a table in colours: around zero where there are values of both signs, else from zero or the smallest up."""
    low, high = float(numpy.nanmin(table)), float(numpy.nanmax(table))
    limit = max(abs(low), abs(high)) or 1.0
    both = low < 0.0
    # Values that all stay near their start, as those of softmax near one, would all have the same colour.
    bottom = -limit if both else low if limit / 2.0 < low < limit else 0.0
    limits = {"cmap": "RdBu_r" if both else "viridis", "vmin": bottom, "vmax": limit}
    return axes.pcolormesh(across, down, table, rasterized=True, **limits)


def _edges(steps: list[int]) -> Matrix:
    """Return the borders between readings, half way between their steps."""
    if len(steps) == 1:
        return numpy.array([steps[0] - 0.5, steps[0] + 0.5])
    places = numpy.asarray(steps, dtype=numpy.float64)
    middles = (places[1:] + places[:-1]) / 2.0
    return numpy.concatenate([[places[0]], middles, [places[-1]]])


def _name_layers(axes: Any, layers: list[str], rank: int) -> None:
    axes.set_yticks(
        [(index + 0.5) * rank for index in range(len(layers))], [short(each) for each in layers], fontsize=7
    )
    for index in range(1, len(layers)):
        axes.axhline(index * rank, color="0.3", linewidth=0.6)
    axes.invert_yaxis()
    axes.grid(visible=False)
