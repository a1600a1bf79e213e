"""The peak memory of one run."""

from __future__ import annotations

import contextlib
import gc
import re
import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


class PeakMemory:
    """Peak memory from the moment this is made: of the GPU on CUDA, else of the whole process.

    On Linux the process's own high-water mark is set back first. Elsewhere it cannot be, and the number is
    the peak since the process began.

    Args:
        device: Where the run takes place.

    Example:
        >>> PeakMemory(torch.device("cpu")).megabytes() > 0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif RESET.exists():
            # Some containers show the file and refuse the writing.
            with contextlib.suppress(OSError):
                # 5 sets the peak of the resident memory back to what it is now (Linux, proc(5)).
                RESET.write_text("5")

    def megabytes(self) -> float:
        """Return the peak so far, in MiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        if STATUS.exists():
            found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
            if found:
                return int(found.group(1)) / 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
