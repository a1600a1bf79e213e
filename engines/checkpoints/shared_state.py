"""The state of a run on several processes: what is equal in all of them once, and the rest by process."""

from __future__ import annotations

from collections.abc import Mapping

from bilora.errors import CheckpointError
from bilora.files.state_tree import Packed, pack, unpack
from bilora.processes.alone import Processes

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
