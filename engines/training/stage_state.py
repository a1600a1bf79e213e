"""The state of a run between and within its stages, and the way back to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from bilora.adapter.level_parameters import trainable_parameters
from bilora.data.split import Split
from bilora.engines.checkpoints.run_state import Rescaled, RunState, reset_count
from bilora.engines.training.result import StageResult
from bilora.errors import CheckpointError
from bilora.files.state import check_keys
from bilora.problems.levels.level_state import load_parameters

if TYPE_CHECKING:
    from bilora.engines.training.staged_run import StagedRun

KEYS = ("stage", "done", "splits", "seconds", "start", "entries", "companion")


@dataclass(frozen=True)
class Resumed:
    """A state to go on from, by part."""

    parts: Mapping[str, Any]
    # How the counts of a level change whose batches have another size since, by section of the settings.
    counts: Mapping[str, Rescaled] = field(default_factory=dict)
    # Learning rates and weight decay are those of the settings, not of the state.
    keep_rates: bool = False
    # Another number of processes wrote it.
    elsewhere: bool = False


def trained_values(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of everything trainable, on the CPU."""
    return {name: weight.detach().to("cpu", copy=True) for name, weight in trainable_parameters(model).items()}


def staged_state(run: StagedRun) -> dict[str, Any]:
    """Return the state of every part of a run in the middle of a stage, by name."""
    assert run.levels is not None and run.engine is not None  # noqa: PT018  # there is a stage to be in the middle of
    companion = run.companion
    return {
        # What lies between the stages; the parts of the stage itself follow.
        "stages": {
            "stage": run.engine.place.index,
            "done": [dataclasses.asdict(result) for result in run.done],
            "splits": [dataclasses.asdict(split) for split in run.splits],
            "seconds": run.processes.first_only(run.seconds),
            "start": run.start,
            "entries": run.entries,
            "companion": None if companion is None else dict(companion.state_dict()),
        },
        **RunState(run.engine, run.levels.loaders, run.buffers).collect(),
    }


def restore_staged(run: StagedRun, resumed: Resumed) -> int:
    """Bring a run that has not begun to where the state was taken, and return the index of its stage."""
    state = check_keys(resumed.parts.get("stages"), KEYS, part="stages")
    index = state["stage"]
    if not 0 <= index < len(run.stages) or len(state["entries"]) != index:
        raise CheckpointError(f"checkpoint does not fit: stages: it is in stage {index} of another row of stages")
    # A stage that starts anew needs the start's values, and only such a run has them.
    if _both(run.start, state["start"], "start") and run.start is not None:
        run.start = dict(check_keys(state["start"], list(run.start), part="stages: start"))
    # Before the stages are prepared: what they start from may be for it to say.
    _load_companion(run, state["companion"])
    # Earlier stages are not run again; their cuts are made again, from the parameters that each of them ended with.
    for entry, values in enumerate(state["entries"], start=1):
        load_parameters(trainable_parameters(run.model), values, part="stages: entries")
        # The stage itself is prepared when it is entered.
        if entry < index:
            run.prepare(entry)
    run.done = [StageResult(**_fields(StageResult, held, part="stages: done")) for held in state["done"]]
    run.splits = tuple(Split(**_fields(Split, held, part="stages: splits")) for held in state["splits"])
    run.seconds_before = state["seconds"]
    run.enter(index)
    restore_stage(run, resumed)
    return int(index)


def restore_stage(run: StagedRun, resumed: Resumed) -> None:
    """Give the stage that a run has just built, and not begun, the state of another attempt at it."""
    engine, levels = run.engine, run.levels
    assert engine is not None and levels is not None  # noqa: PT018  # built by the caller
    _load_companion(run, resumed.parts["stages"]["companion"])
    parts = {name: state for name, state in resumed.parts.items() if name != "stages"}
    counted = reset_count(parts, engine, resumed.counts)
    state = RunState(engine, levels.loaders, run.buffers)
    if resumed.elsewhere and not run.processes.is_first:
        # What writes files hangs on the first process alone.
        counted = state.without_foreign_callbacks(counted)
    state.restore(counted, keep_rates=resumed.keep_rates)
    # The random states saved are of other processes, so that each draws its own anew.
    if resumed.elsewhere:
        run.processes.fork_random_state(run.settings.seed, engine.step)
    # Callbacks open their files again, behind what was written by then.
    engine.begins_run = True


def _load_companion(run: StagedRun, values: Any) -> None:
    companion = run.companion
    if _both(companion, values, "companion") and companion is not None:
        companion.load_state_dict(check_keys(values, list(companion.state_dict()), part="stages: companion"))


def _both(part: Any, values: Any, name: str) -> bool:
    """Return whether run and state both have a part; refuse one without the other."""
    if (part is None) != (values is None):
        raise CheckpointError(f"checkpoint incomplete: stages: {name} is missing")
    return part is not None


def _fields(kind: Any, held: Any, *, part: str) -> Mapping[str, Any]:
    return check_keys(held, [field.name for field in dataclasses.fields(kind)], part=part)
