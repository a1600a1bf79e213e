"""Several processes as one: who is first, what is shared, what is taken in turn."""

from bilora.processes.group import join_processes
from bilora.processes.sharded import shard_base

__all__ = ["join_processes", "shard_base"]
