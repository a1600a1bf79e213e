"""What a step that is not finite leaves behind: where, on which batches, and what is still good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.records import StepRecord
from bilora.engines.checkpoints.files import checkpoints
from bilora.errors import DivergedError
from bilora.files.formats import dump_json, finite_or_null
from bilora.problems.levels.level import Level

NAME = "diverged.json"


@contextmanager
def divergence_told(engine: BilevelEngine, folder: Path | None) -> Iterator[None]:
    """Run the engine; where it diverges, write the batches it was at, and name the last checkpoint in the error.

    Of several processes, which diverge together, the first writes its own batches.
    """
    try:
        yield
    except DivergedError as error:
        if folder is None or not engine.processes.is_first:
            raise
        _write(folder / NAME, engine, error=str(error))
        saved = checkpoints(folder)
        last = f"the last checkpoint is {saved[0][1]}" if saved else "there is no checkpoint"
        whose = "" if engine.processes.count == 1 else ", those of process 0"
        raise DivergedError(f"{error}. The batches are in {folder / NAME}{whose}; {last}") from error


class SkippedBatches(Callback):
    """Write the batches of every step that was skipped, to ``skipped-<step>.json``.

    Args:
        folder: The folder of the run; the first of several processes writes its own batches there.
    """

    must_work = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        """Write them, if the step of a level was skipped."""
        skipped = (record.skipped, record.upper is not None and record.upper.skipped)
        if any(skipped) and engine.processes.is_first:
            names = [level.name for level, each in zip(engine.levels, skipped, strict=False) if each]
            _write(self.folder / f"skipped-{record.step}.json", engine, skipped=names)


def _write(path: Path, engine: BilevelEngine, **more: Any) -> None:
    batches = {level.name: _plain(_batch(level)) for level in engine.levels}
    found = {"step": engine.step, **more, "batches": batches}
    path.write_text(dump_json(finite_or_null(found)), encoding="utf-8")


def _batch(level: Level) -> Any:
    """Return the batch of a level's step; a list of them where the step has several micro-batches."""
    return level.step_batches if len(level.step_batches) > 1 else level.cur_batch


def _plain(value: Any) -> Any:
    """Return a batch as lists and numbers; what is neither, as its text."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
