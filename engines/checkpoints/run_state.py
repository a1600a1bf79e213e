"""The state of a whole run, by part: what a checkpoint holds and a resume gives back."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.records import ValidationRecord
from bilora.engines.hypergradients.quality_meter import QualityMeter
from bilora.errors import CheckpointError
from bilora.files.state import Stateful, check_keys
from bilora.problems.levels.betty_problem import number_of_batches
from bilora.problems.levels.level_state import level_state, load_level_state
from bilora.problems.replay.buffers import ChangedBuffers
from bilora.problems.replay.random_state import RandomState

if TYPE_CHECKING:
    from bilora.engines.training.split_loaders import SplitLoaders

CALLBACK = "callback."


class RunState:
    """The state of an engine with its levels and callbacks, of the loaders of D1 and D2, and of changed buffers."""

    def __init__(self, engine: BilevelEngine, loaders: SplitLoaders | None, buffers: ChangedBuffers) -> None:
        self.engine = engine
        self._more: dict[str, Stateful] = {"buffers": buffers}
        if loaders is not None:
            self._more["split"] = loaders
        # It keeps its own count of upper steps, by which the next reading is due.
        meter = None if engine.upper_level is None else engine.upper_level.hypergradient
        if isinstance(meter, QualityMeter):
            self._more["meter"] = meter
        self._more |= _named(engine.callbacks)

    def collect(self) -> dict[str, Any]:
        """Return the state of every part, by its name; nothing changes, the random state included."""
        engine, last = self.engine, self.engine.last_validation
        state = {
            "micro_batches": engine.global_step,
            "stop_reason": engine.stop_reason,
            "ends_run": engine.ends_run,
            "last_validation": None if last is None else {"step": last.step, "metrics": dict(last.metrics)},
        }
        parts: dict[str, Any] = {"engine": state, "random": RandomState.take(engine.device).to_tree()}
        for level in engine.levels:
            parts |= {f"{level.name}.{name}": state for name, state in level_state(level).items()}
        return parts | {name: part.state() for name, part in self._more.items()}

    def restore(self, parts: Mapping[str, Any], *, keep_rates: bool = False) -> None:
        """Give a run that was built from the same settings what :meth:`collect` returned; or keep its rates."""
        engine = self.engine
        # A level is called as the user likes, "random" too: the dot keeps its parts apart from the others.
        prefixes = {level.name: f"{level.name}." for level in engine.levels}
        levels = {
            name: {key.removeprefix(prefix): state for key, state in parts.items() if key.startswith(prefix)}
            for name, prefix in prefixes.items()
        }
        rest = {key: state for key, state in parts.items() if not key.startswith(tuple(prefixes.values()))}
        states = check_keys(rest, ("engine", "random", *self._more), part="run")
        # The split first: the loaders of the levels come back to positions in its rows.
        for name, part in self._more.items():
            part.load_state(states[name])
        for level in engine.levels:
            load_level_state(level, levels[level.name], keep_rates=keep_rates)
        self._load_engine(states["engine"])
        # Last: what was loaded before may have drawn numbers.
        RandomState.from_tree(states["random"], device=engine.device, part="random").put_back()

    def without_foreign_callbacks(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parts without those of callbacks that this run does not have."""
        # Of several processes the first alone has files to write, and so more callbacks than the others.
        return {name: state for name, state in parts.items() if not name.startswith(CALLBACK) or name in self._more}

    def _load_engine(self, state: Any) -> None:
        check_keys(state, ("micro_batches", "stop_reason", "ends_run", "last_validation"), part="engine")
        last = state["last_validation"]
        self.engine.global_step = state["micro_batches"]
        self.engine.stop_reason, self.engine.ends_run = state["stop_reason"], state["ends_run"]
        self.engine.last_validation = None if last is None else ValidationRecord(**last)
        # They count the same thing: a state in which they differ was put together of two.
        if state["micro_batches"] != self.engine.lower_level.count:
            raise CheckpointError("checkpoint does not fit: engine: it counts other micro-batches than the lower level")


def _named(callbacks: tuple[Callback, ...]) -> dict[str, Stateful]:
    # A class that has left the base's ``state`` alone has nothing to save.
    stateful = [callback for callback in callbacks if type(callback).state is not Callback.state]
    names = [f"{CALLBACK}{type(callback).__name__}" for callback in stateful]
    # By their order among those of a class: a resumed run makes them in the same one.
    numbers = [names[: index + 1].count(name) for index, name in enumerate(names)]
    numbered = [name if number == 1 else f"{name}-{number}" for name, number in zip(names, numbers, strict=True)]
    return dict(zip(numbered, stateful, strict=True))


@dataclass(frozen=True)
class Rescaled:
    """How many micro-batches, and batches of a loader by their rows, make one of the run that saved the state."""

    micro_batches: Fraction = Fraction(1)
    batches: Fraction = Fraction(1)

    def count(self, made: int, *, level: str) -> int:
        """Return how many micro-batches of this run those are that a level has made."""
        count = made * self.micro_batches
        if count.denominator > 1:
            raise CheckpointError(
                f"checkpoint does not fit: {level}: it was taken inside a step of several micro-batches"
            )
        return int(count)


def reset_count(parts: Mapping[str, Any], engine: BilevelEngine, counts: Mapping[str, Rescaled]) -> dict[str, Any]:
    """Return a state with every count of micro-batches and of batches in terms of this run's."""
    counted = dict(parts)
    for level in engine.levels:
        if level.section not in counts:
            continue
        change = counts[level.section]
        progress, loaders = counted[f"{level.name}.progress"], counted[f"{level.name}.loaders"]
        counted[f"{level.name}.progress"] = {**progress, "count": change.count(progress["count"], level=level.name)}
        counted[f"{level.name}.loaders"] = [
            # Whole batches, which hold all the rows that have been read; the last batch of an epoch may have been too
            # short to become as many smaller ones.
            {**state, "read": min(math.ceil(state["read"] * change.batches), number_of_batches(loader) or sys.maxsize)}
            for state, loader in zip(loaders, level.train_data_loader, strict=True)
        ]
        # The engine counts the lower level's micro-batches a second time.
        if level is engine.lower_level:
            made = change.count(counted["engine"]["micro_batches"], level=level.name)
            counted["engine"] = {**counted["engine"], "micro_batches": made}
    return counted
