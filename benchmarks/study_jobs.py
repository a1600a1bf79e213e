"""Which trainings a study needs, the most telling first: some are known only when others are done."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from study_protocol import Cell, Grid, Job, Protocol, job_of, lora

Line = Mapping[str, Any]
Done = Mapping[str, Line]


def jobs(protocol: Protocol, done: Done) -> list[Job]:
    """Return every job that can be named by now, each once, in the order in which they are to be run."""
    return list({job.name: job for job in _in_order(protocol, done)}.values())


def _in_order(protocol: Protocol, done: Done) -> Iterator[Job]:
    # Models beside the embedded one take ten times as long: what they need comes behind everything else.
    for model in sorted({setting.model is not None for setting in protocol.settings.values()}):
        names = [name for name, setting in protocol.settings.items() if (setting.model is not None) is model]
        first = {name: protocol.seeds_of(name)[:1] for name in names}
        others = {name: protocol.seeds_of(name)[1:] for name in names}
        for name in names:
            yield from _cells(protocol, name)
            yield from _lines(protocol, name, first[name])
            yield from _chosen(protocol, name, first[name], done)
        for name in names:
            yield from _chosen(protocol, name, others[name], done)
            yield from _lines(protocol, name, others[name], only=protocol.main)
        for name in names:
            yield from _lines(protocol, name, others[name])
        for name in names:
            yield from _random_search(protocol, name, done)
        for name in names:
            yield from _smaller_grids(protocol, name, done)


def _cells(protocol: Protocol, setting: str) -> Iterator[Job]:
    seed = protocol.seeds_of(setting)[0]
    yield from (cell_job(setting, cell, seed) for cell in (protocol.grid.cells if protocol.grid else ()))


def _lines(protocol: Protocol, setting: str, seeds: Sequence[int], only: str | None = None) -> Iterator[Job]:
    methods = [name for name in protocol.methods_in(setting) if only in (None, name)]
    yield from (job_of(setting, protocol.methods[name], seed) for seed in seeds for name in methods)


def _chosen(protocol: Protocol, setting: str, seeds: Sequence[int], done: Done) -> Iterator[Job]:
    """Yield the retrainings of the cell that D2 chose, and of the oracle's."""
    if (grid := protocol.grid) is None:
        return
    cells = [best_cell(protocol, setting, grid.cells, done, part=part) for part in ("upper", "test")]
    yield from (job_of(setting, lora(cell), seed) for cell in cells if cell is not None for seed in seeds)


def _random_search(protocol: Protocol, setting: str, done: Done) -> Iterator[Job]:
    if (grid := protocol.grid) is None:
        return
    for seed in protocol.seeds_of(setting):
        cells = random_cells(grid, setting, seed)
        yield from (cell_job(setting, cell, seed) for cell in cells)
        if (cell := best_cell(protocol, setting, cells, done, part="upper", seed=seed)) is not None:
            yield job_of(setting, lora(cell), seed)


def _smaller_grids(protocol: Protocol, setting: str, done: Done) -> Iterator[Job]:
    if (grid := protocol.grid) is None:
        return
    for size in grid.sizes:
        if (cell := best_cell(protocol, setting, grid.cells[:size], done, part="upper")) is not None:
            yield from (job_of(setting, lora(cell), seed) for seed in protocol.seeds_of(setting))


def cell_job(setting: str, cell: Cell, seed: int) -> Job:
    """Return the training of a cell on D1."""
    return job_of(setting, lora(cell, method="lora_d1"), seed)


def random_cells(grid: Grid, setting: str, seed: int) -> list[Cell]:
    """Return the cells that a random search tries."""
    # Of Python's random numbers only random() is promised to be the same in every version.
    draw = random.Random(f"cells {setting} {seed}")
    ranks = [draw.random() for _ in grid.cells]
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    return [grid.cells[position] for position in order[: grid.random_cells]]


def best_cell(
    protocol: Protocol, setting: str, cells: Sequence[Cell], done: Done, *, part: str, seed: int | None = None
) -> Cell | None:
    """Return the best cell on D2 (``upper``) or on the ``test`` rows, which only the oracle looks at.

    It is None while one of them has not been trained. Of equal ones that with the smaller loss is taken.
    """
    if len(cells) == 1:
        return cells[0]
    seed = protocol.seeds_of(setting)[0] if seed is None else seed
    lines = [done.get(cell_job(setting, cell, seed).name) for cell in cells]
    ranked = []
    for cell, line in zip(cells, lines, strict=True):
        if line is None:
            return None
        if line["failed"] is None:
            metric = protocol.settings[setting].metrics[0]
            ranked.append((line[part]["metrics"][metric], -line[part]["loss"], cell))
    return max(ranked, key=lambda row: row[:2])[2] if ranked else None
