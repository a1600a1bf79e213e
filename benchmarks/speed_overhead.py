"""The engine's own Python time: our single-level road less the bare loop, on a model that costs next to nothing.

The bare loop has the fused AdamW that the engine has, so that the optimizer is not in the difference.
"""

import cProfile
import pstats
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from speed_bench import Bench, Clock, Shape
from speed_roads import FUSED, ROADS

SHAPE = Shape(2, 8)
WARM = 10
PROFILED = 100


@dataclass(frozen=True)
class Overhead:
    """What the engine adds to a lower step, in milliseconds."""

    wall_ms: float  # the median over the turns of the difference
    cpu_ms: float
    bare_ms: float  # CPU time of the bare loop's step
    top: list[tuple[str, float]]  # the functions that cost most in calls that the bare loop does not make


def measure_overhead(*, turns: int, steps: int, device: torch.device, lines: int = 10) -> Overhead:
    """Alternate the bare loop and our single-level road in many short turns, then profile both once."""
    # Short, since the difference is small beside what a machine varies by.
    bench = Bench("toy", SHAPE, "fp32", device)
    bare: list[Clock] = []
    engine: list[Clock] = []
    roads = [(FUSED, bare), ("lora", engine)]
    for number in range(turns):
        for road, clocks in roads if number % 2 == 0 else reversed(roads):
            clock = Clock(WARM, steps, device)
            ROADS[road].run(bench, clock)
            clocks.append(clock)
    pairs = list(zip(engine, bare, strict=True))
    return Overhead(
        wall_ms=1e3 * statistics.median(ours.wall - plain.wall for ours, plain in pairs),
        cpu_ms=1e3 * statistics.median(ours.cpu - plain.cpu for ours, plain in pairs),
        bare_ms=1e3 * statistics.median(plain.cpu for plain in bare),
        top=_top(bench, steps=PROFILED, lines=lines),
    )


def _top(bench: Bench, *, steps: int, lines: int) -> list[tuple[str, float]]:
    """Return where the engine's time goes: the own time of calls that the bare loop does not make."""
    # A profile makes every call dearer, so the sum is above the overhead. The calls that both make, such as those of
    # the model's forward pass, are left out: their difference is noise.
    engine, bare = (_profiled(bench, road, steps=steps) for road in ("lora", FUSED))
    more = {where: own * (1 - min(1.0, bare.get(where, (0, 0.0))[0] / calls)) for where, (calls, own) in engine.items()}
    order = sorted(more, key=lambda where: -more[where])
    return [(where, more[where]) for where in order[:lines]]


def _profiled(bench: Bench, road: str, *, steps: int) -> dict[str, tuple[int, float]]:
    """Return calls and own time, in milliseconds a step, of every function; setting up is left out."""
    # CPU time: what other processes take would be booked on whichever function was interrupted.
    profiler = cProfile.Profile(time.thread_time)
    ROADS[road].run(bench, _ProfilingClock(profiler, steps=steps, device=bench.device))
    stats = pstats.Stats(profiler)
    times: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = stats.stats  # type: ignore[attr-defined]
    return {_place(*where): (calls, 1e3 * own / steps) for where, (_, calls, own, _, _) in times.items()}


class _ProfilingClock(Clock):
    """Profiles the timed steps alone."""

    def __init__(self, profiler: cProfile.Profile, *, steps: int, device: torch.device) -> None:
        super().__init__(WARM, steps, device)
        self.profiler = profiler

    def tick(self) -> None:
        """Note that a step is over."""
        super().tick()
        if self.ticks == self.warm:
            self.profiler.enable()
        elif self.ticks == self.total:
            self.profiler.disable()


def _place(file: str, line: int, function: str) -> str:
    return function if file == "~" else f"{'/'.join(Path(file).parts[-2:])}:{line} {function}"
