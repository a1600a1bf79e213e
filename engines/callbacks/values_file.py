"""``values.jsonl``: the pseudo singular values of every layer as they change over a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import torch
from peft import PeftModel

from bilora.adapter.spectrum import adapted_layers
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.step_record import StepRecord

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine

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
