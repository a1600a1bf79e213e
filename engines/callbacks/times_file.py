"""``times.jsonl``: when each step of a run was done."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.step_record import StepRecord, ValidationRecord
from bilora.files.stateful import check_keys

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine


class TimesFile(Callback):
    """Write the seconds since the start of the run after every step and every validation.

    They stand apart from ``metrics.jsonl``, which is the same byte for byte whenever a run is the same. A run that was
    cut off goes on with the time of its checkpoint, and of two lines of one step the later one counts.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._before = 0.0
        self._started = 0.0

    def on_run_start(self, engine: BilevelEngine) -> None:
        """Open the file and start to count."""
        whole = _whole_lines(self.path)
        self._file = self.path.open("w", encoding="utf-8", buffering=1)
        self._file.write(whole)
        self._started = time.perf_counter() - self._before

    def state(self) -> dict[str, Any]:
        """Return the seconds so far."""
        return {"seconds": time.perf_counter() - self._started}

    def load_state(self, state: Any) -> None:
        """Go on from the seconds of the checkpoint."""
        self._before = check_keys(state, ("seconds",), part="times file")["seconds"]

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        """Write a step."""
        self._write(record.step)

    def on_validation(self, engine: BilevelEngine, record: ValidationRecord) -> None:
        """Write the step again, now that its validation is done."""
        self._write(record.step)

    def on_close(self, engine: BilevelEngine) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, step: int) -> None:
        assert self._file is not None  # opened in on_run_start
        seconds = round(time.perf_counter() - self._started, 4)
        self._file.write(json.dumps({"step": step, "seconds": seconds}) + "\n")


def read_times(path: Path) -> dict[int, float]:
    """Return the seconds at which each step, and the validation after it, was done.

    Args:
        path: A ``times.jsonl``; one that is not there has no times, and a last line that was cut off does not count.

    Example:
        >>> read_times(Path("no-such-file"))
        {}
    """
    return {line["step"]: line["seconds"] for line in map(json.loads, _whole_lines(path).splitlines())}


def _whole_lines(path: Path) -> str:
    """Return what a file holds up to its last line end; nothing where there is no file."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text[: text.rfind("\n") + 1]
