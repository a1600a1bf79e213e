"""``metrics.jsonl``: every number of a run, one strict JSON object a line."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
from peft import PeftModel

from bilora.adapter.spectrum import adapted_layers
from bilora.artifacts.scored_on import VALIDATION
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.records import StepRecord, ValidationRecord
from bilora.errors import CheckpointError
from bilora.files.formats import finite_or_null
from bilora.files.state import check_keys

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine


class MetricsFile(Callback):
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
        self.path = path
        self.every = every
        self.scored_on = scored_on
        self._file: TextIO | None = None
        self._goes_on = False
        self._size = 0
        self._sha256 = hashlib.sha256()

    def on_run_start(self, engine: BilevelEngine) -> None:
        """Open the file, line by line so that a killed run leaves whole lines."""
        if self._goes_on:
            os.truncate(self.path, self._size)
        self._file = self.path.open("a" if self._goes_on else "x", encoding="utf-8", buffering=1, newline="\n")

    def state(self) -> dict[str, Any]:
        """Return how long the file is, and its hash; by then it is on the disk."""
        if self._file is not None and not self._file.closed:
            os.fsync(self._file.fileno())
        return {"size": self._size, "sha256": self._sha256.hexdigest()}

    def load_state(self, state: Any) -> None:
        """Go on behind the lines that were written by then, which must still be there."""
        found = check_keys(state, ("size", "sha256"), part="metrics file")
        self._size, self._goes_on = found["size"], self.path.exists()
        written = self.path.read_bytes()[: self._size] if self.path.exists() else b""
        self._sha256 = hashlib.sha256(written)
        if self._sha256.hexdigest() != found["sha256"]:
            raise CheckpointError(
                f"checkpoint does not fit: metrics file: {self.path} does not begin with the {self._size} bytes that "
                "it had when the checkpoint was written; put it back"
            )

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        """Write a step."""
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
        """Write a validation."""
        self._write({"stage": engine.place.name, "step": record.step, self.scored_on: record.metrics})

    def on_close(self, engine: BilevelEngine) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        assert self._file is not None  # opened in on_run_start
        text = _json_line(line)
        self._file.write(text)
        self._size += len(text)  # plain ASCII: json escapes the rest
        self._sha256.update(text.encode())


_STRICT = json.JSONEncoder(allow_nan=False)


def _json_line(line: dict[str, Any]) -> str:
    try:
        return _STRICT.encode(line) + "\n"
    except ValueError:  # a number that is not finite, which is rare: only then is every number looked at
        return _STRICT.encode(finite_or_null(line)) + "\n"


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
        # A run that goes on, and has not opened the file yet, is where its checkpoint was.
        return {"seconds": self._before if self._file is None else time.perf_counter() - self._started}

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


READINGS = 40
"""About how many readings of a run are enough for a picture."""


class ValuesFile(Callback):
    """Write the values s of every adapted layer every few steps, and at the start and the end of each stage.

    Between two readings nothing is read, so that no step waits for it. Where the file is there already, a run that was
    cut off goes on: of two lines of one step the later one counts.

    Args:
        path: The file.
        model: A model with a BiLoRA adapter.
        every: Lower steps between two readings; None takes as many as give about forty of a stage.
    """

    def __init__(self, path: Path, model: PeftModel, *, every: int | None = None) -> None:
        self.path = path
        self.model = model
        self.every = every
        self._file: TextIO | None = None

    def on_run_start(self, engine: BilevelEngine) -> None:
        """Open the file, line by line so that a killed run leaves whole lines."""
        if self.path.is_file():
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)  # a line that was cut off goes
        self._file = self.path.open("a", encoding="utf-8", buffering=1)

    def on_stage_start(self, engine: BilevelEngine) -> None:
        """Write what the stage starts from."""
        self._write(engine)

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        """Write, if it is time."""
        if record.step % (self.every or max(1, engine.steps // READINGS)) == 0:
            self._write(engine)

    def on_stage_end(self, engine: BilevelEngine) -> None:
        """Write what the stage ends with."""
        self._write(engine)

    def on_close(self, engine: BilevelEngine) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    @torch.no_grad()
    def _write(self, engine: BilevelEngine) -> None:
        assert self._file is not None  # opened in on_run_start
        adapter = str(self.model.active_adapter)
        layers = adapted_layers(self.model, adapter)
        # One copy to the host for all layers together.
        values = torch.cat([layer.singular_values(adapter).float() for layer in layers.values()]).tolist()
        sizes = [len(layer.singular_values(adapter)) for layer in layers.values()]
        parts = (values[sum(sizes[:index]) : sum(sizes[: index + 1])] for index in range(len(sizes)))
        line = {"stage": engine.place.name, "step": engine.step, "layers": dict(zip(layers, parts, strict=True))}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
