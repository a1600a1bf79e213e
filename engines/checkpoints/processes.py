"""The checkpoint of several processes: what each of them has to hold, and how another number goes on from it."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from bilora.engines.checkpoints.config_change import LEVELS
from bilora.engines.checkpoints.run_state import Rescaled
from bilora.engines.settings import FitSettings
from bilora.errors import CheckpointError
from bilora.files.state import Packed, pack, unpack
from bilora.processes.processes import Processes

# The part that lists the parts of each process.
PROCESSES = "processes"
# How the parts end that hold the lower steps which the next upper step comes back to.
RECORDED = ".recorded"


def gathered_parts(parts: Mapping[str, Packed], processes: Processes) -> dict[str, Packed]:
    """Return the state of all processes in the first one, by part; that of one process alone as it is."""
    if processes.count == 1:
        return dict(parts)
    digests = {name: packed.digest() for name, packed in parts.items()}
    every = processes.gathered(digests)
    # Parameters and optimizers are equal everywhere, and stand once; random states and recorded batches are not.
    # Compared by their digests, so that only parts that differ are sent.
    differing = {name: packed for name, packed in parts.items() if digests[name] != every[0].get(name)}
    gathered = dict(parts) if processes.is_first else {}
    for rank, foreign in enumerate(processes.gathered(differing)):
        gathered |= {f"process-{rank}.{name}": packed for name, packed in foreign.items()}
    return gathered | {PROCESSES: pack([list(names) for names in every], part=PROCESSES)}


def parts_for(parts: Mapping[str, Packed], processes: Processes, *, saved: int) -> dict[str, Packed]:
    """Return the state that this process goes on from, of a checkpoint that ``saved`` processes wrote."""
    states = [_of_rank(parts, rank) if saved > 1 else dict(parts) for rank in range(saved)]
    rank = processes.rank
    if saved == processes.count:
        return states[rank]
    # Equal parts are the same in all. The first alone has the files, and so takes the parts of the first; the others go
    # round those that have none.
    state = states[0 if rank == 0 or saved == 1 else 1 + (rank - 1) % (saved - 1)]
    # Of all: each process replays all their micro-batches, whose mean is what it was.
    recorded = [name for name in state if name.endswith(RECORDED)]
    return state | {name: _recorded_by_all([other[name] for other in states], part=name) for name in recorded}


def _of_rank(parts: Mapping[str, Packed], rank: int) -> dict[str, Packed]:
    if PROCESSES not in parts:
        raise CheckpointError(f"checkpoint incomplete: {PROCESSES} is missing")
    names = unpack(parts[PROCESSES], part=PROCESSES)[rank]
    state = {name: parts.get(f"process-{rank}.{name}", parts.get(name)) for name in names}
    missing = [name for name, packed in state.items() if packed is None]
    if missing:
        raise CheckpointError(f"checkpoint incomplete: process {rank}: {missing[0]} is missing")
    return {name: packed for name, packed in state.items() if packed is not None}


def _recorded_by_all(recorded: list[Packed], *, part: str) -> Packed:
    # All but the micro-batches is equal in all of them.
    first, *others = [unpack(packed, part=part) for packed in recorded]
    # The gradients of half a step are of one process's rows, and cannot be divided among others.
    if any(state["unfinished"] is not None for state in (first, *others)):
        raise CheckpointError(f"checkpoint does not fit: {part}: it was taken inside a step of several processes")
    steps = [
        {**step, "micro_batches": [batch for other in (step, *same) for batch in other["micro_batches"]], "terms": 0.0}
        for step, *same in zip(first["steps"], *(state["steps"] for state in others), strict=True)
    ]
    return pack({**first, "steps": steps}, part=part)


def rescaled(
    saved: Mapping[str, Any], settings: FitSettings, *, before: int, now: int
) -> tuple[dict[str, Any], dict[str, Rescaled]]:
    """Return saved settings with this run's batches where they fit, and how the counts of each level change."""
    fitting, counts = dict(saved), {}
    for level in LEVELS:
        old, new = saved[level], getattr(settings, level)
        # Of this run, per batch of the saved one, by their rows; a fraction, since a quotient in floats is not exact.
        batches = Fraction(old["batch_size"] * before, new.batch_size * now)
        # The rows of a step may come in other pieces: a larger batch in fewer processes, or more accumulation, or less.
        # With settings as they were, a step takes another number of rows.
        fits = batches * old["accumulation"] == new.accumulation
        if fits:
            fitting[level] = {**old, "batch_size": new.batch_size, "accumulation": new.accumulation}
        counts[level] = Rescaled(micro_batches=batches if fits else Fraction(1), batches=batches)
    return fitting, counts


def notice(saved: Mapping[str, Any], settings: FitSettings, *, before: int, now: int) -> str:
    """Return for the user what is kept, what begins anew, and which steps take another number of rows."""
    clauses = [
        f"the checkpoint is of a run on {before} process{'es' if before > 1 else ''}, and this one is on {now}",
        "parameters, optimizers, schedules, steps and epochs go on, random states begin anew, so not to the same bits",
    ]
    for level in LEVELS:
        old, new = saved[level], getattr(settings, level)
        rows = old["batch_size"] * old["accumulation"] * before, new.batch_size * new.accumulation * now
        if rows[0] != rows[1]:
            clauses.append(
                f"a step of the {level} level takes {rows[1]} rows, and took {rows[0]}: {level}.batch_size times "
                "processes decides that"
            )
    return "; ".join(clauses)
