"""Going on with the checkpoint of a run on another number of processes."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from bilora.engines.checkpoints.config_change import LEVELS
from bilora.engines.checkpoints.run_state import Rescaled
from bilora.engines.settings import FitSettings
from bilora.errors import CheckpointError
from bilora.files.state import Packed, pack, unpack
from bilora.processes.processes import Processes

PROCESSES = "processes"
"""The part that names the parts of each process."""


def gathered_parts(own: Mapping[str, Packed], processes: Processes) -> dict[str, Packed]:
    """Return the state of all processes, by part.

    Parameters and optimizers are equal everywhere; random states and the batches that the next upper step comes back
    to are not. What differs from the first process's stands under ``process-<rank>.<part>``.

    Args:
        own: The state of this process; that of one alone is returned as it is.
        processes: The processes.
    """
    if processes.count == 1:
        return dict(own)
    digests = {name: each.digest() for name, each in own.items()}
    known = processes.gathered(digests)
    differing = {name: each for name, each in own.items() if digests[name] != known[0].get(name)}
    found = dict(own) if processes.is_first else {}
    for rank, parts in enumerate(processes.gathered(differing)):
        found |= {_name(rank, name): each for name, each in parts.items()}
    return found | {PROCESSES: pack([list(each) for each in known], part=PROCESSES)}


def own_parts(parts: Mapping[str, Packed], processes: Processes) -> dict[str, Packed]:
    """Return what of :func:`gathered_parts` is the state of this process.

    Raises:
        CheckpointError: A part is missing.

    Example:
        >>> held = {"random": pack(7, part="random")}
        >>> own_parts(gathered_parts(held, Processes()), Processes()) == held
        True
    """
    return dict(parts) if processes.count == 1 else rank_part(parts, processes.rank)


def rank_part(parts: Mapping[str, Packed], rank: int) -> dict[str, Packed]:
    """Return what of the state of several processes is that of one of them.

    Raises:
        CheckpointError: A part is missing.
    """
    if PROCESSES not in parts:
        raise CheckpointError(f"checkpoint incomplete: {PROCESSES} is missing")
    names = unpack(parts[PROCESSES], part=PROCESSES)[rank]
    found = {name: parts.get(_name(rank, name), parts.get(name)) for name in names}
    missing = [name for name, each in found.items() if each is None]
    if missing:
        raise CheckpointError(f"checkpoint incomplete: process {rank}: {missing[0]} is missing")
    return {name: each for name, each in found.items() if each is not None}


def _name(rank: int, part: str) -> str:
    return f"process-{rank}.{part}"


RECORDED = ".recorded"
"""How the parts end that hold the lower steps which the next upper step comes back to."""


def parts_elsewhere(parts: Mapping[str, Packed], processes: Processes, *, saved: int) -> dict[str, Packed]:
    """Return the state that a process goes on from, where another number of them wrote it.

    What is equal in all is taken as it is, and what is a process's own from one of those that wrote it: the first one's
    by the first, which alone has what writes the files. The lower steps that the next upper step comes back to are
    taken from all: each process replays all their micro-batches, whose mean is what it was.

    Args:
        parts: What lies in the checkpoint.
        processes: Those of this run.
        saved: How many wrote it.

    Raises:
        CheckpointError: A part is missing.
    """
    states = [rank_part(parts, rank) if saved > 1 else dict(parts) for rank in range(saved)]
    rank = processes.rank
    own = states[0 if rank == 0 or saved == 1 else 1 + (rank - 1) % (saved - 1)]
    recorded = [name for name in own if name.endswith(RECORDED) and name != PROCESSES]
    return own | {name: _of_all([each[name] for each in states], part=name) for name in recorded}


def _of_all(recorded: list[Packed], *, part: str) -> Packed:
    """Return the recorded steps with the micro-batches of every process; all else in them is equal."""
    first, *others = [unpack(each, part=part) for each in recorded]
    if any(each["unfinished"] is not None for each in (first, *others)):
        raise CheckpointError(f"checkpoint does not fit: {part}: it was taken inside a step of several processes")
    steps = [
        {**step, "micro_batches": [batch for each in (step, *same) for batch in each["micro_batches"]]}
        for step, *same in zip(first["steps"], *(each["steps"] for each in others), strict=True)
    ]
    return pack({**first, "steps": steps}, part=part)


def rescaled_elsewhere(
    saved: Mapping[str, Any], settings: FitSettings, *, before: int, now: int
) -> tuple[dict[str, Any], dict[str, Rescaled]]:
    """Return saved settings with this run's batches where they fit, and how the counts of each level change.

    A level may keep its settings: with another number of processes its steps then take other numbers of rows. Or it
    takes the rows of a step in other pieces, a larger batch in fewer processes, or more accumulation.

    Args:
        saved: Settings of the run that wrote the checkpoint.
        settings: Those of this run.
        before: How many processes that run was on.
        now: How many this one is on.

    Example:
        >>> from bilora.engines.settings import LevelSettings
        >>> from bilora.settings.sections import resolved
        >>> larger = FitSettings(lower=LevelSettings(batch_size=32))
        >>> found, counts = rescaled_elsewhere(resolved(FitSettings()), larger, before=2, now=1)
        >>> found["lower"]["batch_size"], counts["lower"].batches, counts["upper"].batches
        (32, Fraction(1, 1), Fraction(2, 1))
    """
    found, counts = dict(saved), {}
    for level in LEVELS:
        old, own = saved[level], getattr(settings, level)
        batches = Fraction(old["batch_size"] * before, own.batch_size * now)
        same_rows = batches * old["accumulation"] == own.accumulation
        if same_rows and batches.denominator == 1:
            found[level] = {**old, "batch_size": own.batch_size, "accumulation": own.accumulation}
            counts[level] = Rescaled(micro_batches=int(batches), batches=batches)
        else:
            counts[level] = Rescaled(batches=batches)
    return found, counts


def notice(saved: Mapping[str, Any], settings: FitSettings, *, before: int, now: int) -> str:
    """Return what a user is told: what is kept, what begins anew, and which steps take another number of rows.

    Example:
        >>> from bilora.settings.sections import resolved
        >>> notice(resolved(FitSettings()), FitSettings(), before=2, now=1).partition("; ")[0]
        'the checkpoint is of a run on 2 processes, and this one is on 1'
    """
    told = [
        f"the checkpoint is of a run on {before} process{'es' if before > 1 else ''}, and this one is on {now}",
        "parameters, optimizers, schedules, steps and epochs go on, random states begin anew, so not to the same bits",
    ]
    for level in LEVELS:
        old, own = saved[level], getattr(settings, level)
        rows = old["batch_size"] * old["accumulation"] * before, own.batch_size * own.accumulation * now
        if rows[0] != rows[1]:
            told.append(
                f"a step of the {level} level takes {rows[1]} rows, and took {rows[0]}: {level}.batch_size times "
                "processes decides that"
            )
    return "; ".join(told)
