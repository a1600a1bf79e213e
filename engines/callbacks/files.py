"""The files that grow while a run trains: ``metrics.jsonl``, ``times.jsonl`` and ``values.jsonl``."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import torch
from peft import PeftModel

from bilora.adapter.spectrum import adapted_layers
from bilora.artifacts.scored_on import VALIDATION
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.records import StepRecord, ValidationRecord
from bilora.errors import CheckpointError
from bilora.files.formats import dump_json, finite_or_null, read_lines
from bilora.files.state import check_keys

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine

# About how many readings of the singular values a stage has by default: enough for a smooth curve in the report.
READINGS = 40


class LinesFile(Callback):
    """A callback that writes JSON lines; a run that goes on writes behind the whole lines that are there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def on_run_start(self, engine: BilevelEngine) -> None:
        # A killed run may have left its last line unfinished.
        if self.path.is_file():
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
        self._open("a")

    def on_close(self, engine: BilevelEngine) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self, mode: Literal["a", "x"]) -> None:
        # Buffered by the line, so that a killed run leaves whole lines; with the same line ends on every system.
        self._file = self.path.open(mode, encoding="utf-8", buffering=1, newline="\n")

    def _write(self, line: dict[str, Any]) -> str:
        assert self._file is not None  # opened in on_run_start
        text = dump_json(line)
        self._file.write(text)
        return text


class MetricsFile(LinesFile):
    """Write losses, norms and learning rates of every step, and every validation, with the stage they belong to.

    No line holds a time or anything else that differs between two runs of the same command, so that two
    such files can be compared byte by byte. A number that is not finite is written as null.

    Args:
        path: The file; one that exists is refused, never overwritten, unless the run is resumed: then what was
            written after the checkpoint is cut off.
        every: Lower steps between two step lines; a step with an upper step is always written.
        scored_on: What the rows of a validation are, see :mod:`bilora.artifacts.scored_on`: the key of its numbers.
    """

    must_work = True

    def __init__(self, path: Path, *, every: int = 1, scored_on: str = VALIDATION) -> None:
        super().__init__(path)
        self.every = every
        self.scored_on = scored_on
        self._goes_on = False
        self._size = 0
        self._sha256 = hashlib.sha256()

    def on_run_start(self, engine: BilevelEngine) -> None:
        # What was written after the checkpoint is written again.
        if self._goes_on:
            os.truncate(self.path, self._size)
        self._open("a" if self._goes_on else "x")

    def state(self) -> dict[str, Any]:
        # On the disk before the checkpoint that counts on it is, whatever order the system would write them in.
        if self._file is not None and not self._file.closed:
            os.fsync(self._file.fileno())
        return {"size": self._size, "sha256": self._sha256.hexdigest()}

    def load_state(self, state: Any) -> None:
        state = check_keys(state, ("size", "sha256"), part="metrics file")
        self._size, self._goes_on = state["size"], self.path.exists()
        # Read again, since a hash that is half computed cannot be stored.
        written = self.path.read_bytes()[: self._size] if self._goes_on else b""
        self._sha256 = hashlib.sha256(written)
        if self._sha256.hexdigest() != state["sha256"]:
            raise CheckpointError(
                f"checkpoint does not fit: metrics file: {self.path} does not begin with the {self._size} bytes that "
                "it had when the checkpoint was written; put it back"
            )

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        # Upper steps are few, and each is a point of its own curve.
        if record.upper is None and record.step % self.every != 0:
            return
        line: dict[str, Any] = {
            "stage": engine.place.name,
            "step": record.step,
            "lower_loss": record.loss,
            **{f"lower_{name}": value for name, value in record.parts.items()},
            "lower_gradient_norm": record.gradient_norm,
            "lower_learning_rates": list(record.learning_rates),
            **({"lower_skipped": True} if record.skipped else {}),
        }
        if record.upper is not None:
            line |= {
                "upper_step": record.upper.step,
                "upper_loss": record.upper.loss,
                **{f"upper_{name}": value for name, value in record.upper.parts.items()},
                "hypergradient_norm": record.upper.hypergradient_norm,
                "direct_norm": record.upper.direct_norm,
                "implicit_norm": record.upper.implicit_norm,
                "upper_learning_rates": list(record.upper.learning_rates),
                **({"upper_skipped": True} if record.upper.skipped else {}),
            }
            if record.upper.meter is not None:
                line |= {"meter_cosine": record.upper.meter.cosine, "meter_norm_ratio": record.upper.meter.norm_ratio}
        self._write(line)

    def on_validation(self, engine: BilevelEngine, record: ValidationRecord) -> None:
        self._write({"stage": engine.place.name, "step": record.step, self.scored_on: record.metrics})

    def _write(self, line: dict[str, Any]) -> str:
        try:
            text = super()._write(line)
        except ValueError:  # a number that is not finite, which is rare: only then is every number looked at
            text = super()._write(finite_or_null(line))
        self._size += len(text)  # plain ASCII: json escapes the rest
        self._sha256.update(text.encode())
        return text


class TimesFile(LinesFile):
    """Write the seconds since the start of the run after every step, and once more after its validation."""

    # Apart from metrics.jsonl, which is the same byte for byte whenever a run is the same.
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._before = 0.0
        self._started = 0.0

    def on_run_start(self, engine: BilevelEngine) -> None:
        super().on_run_start(engine)
        # As if the run had started that much earlier: time between two processes does not count.
        self._started = time.perf_counter() - self._before

    def state(self) -> dict[str, Any]:
        # A run that goes on, and has not opened the file yet, is where its checkpoint was.
        return {"seconds": self._before if self._file is None else time.perf_counter() - self._started}

    def load_state(self, state: Any) -> None:
        self._before = check_keys(state, ("seconds",), part="times file")["seconds"]

    def on_step(self, engine: BilevelEngine, record: StepRecord | ValidationRecord) -> None:
        self._write({"step": record.step, "seconds": round(time.perf_counter() - self._started, 4)})

    on_validation = on_step


def read_times(path: Path) -> dict[int, float]:
    """Return the seconds of each step in a ``times.jsonl``, its validation included; none where there is no file."""
    # Of two lines of one step the later one counts: after the validation, or written again after a resume.
    return {line["step"]: line["seconds"] for line in read_lines(path)}


class ValuesFile(LinesFile):
    """Write the values s of every adapted layer every ``every`` steps, and at the start and the end of each stage."""

    def __init__(self, path: Path, model: PeftModel, *, every: int | None = None) -> None:
        super().__init__(path)
        self.model = model
        self.every = every

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        # Not at every step, which would wait for the device each time.
        if record.step % (self.every or max(1, engine.steps // READINGS)) == 0:
            self._write_values(engine)

    @torch.no_grad()
    def _write_values(self, engine: BilevelEngine) -> None:
        adapter = str(self.model.active_adapter)
        values = {
            name: layer.singular_values(adapter).float() for name, layer in adapted_layers(self.model, adapter).items()
        }
        # One copy to the host for all layers together: each would wait for the device.
        numbers = iter(torch.cat(list(values.values())).tolist())
        layers = {name: [next(numbers) for _ in range(len(layer))] for name, layer in values.items()}
        self._write({"stage": engine.place.name, "step": engine.step, "layers": layers})

    on_stage_start = on_stage_end = _write_values
