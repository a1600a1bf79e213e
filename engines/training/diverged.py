"""The files that a step which is not finite leaves behind: the step, its batches, and the error."""

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
from bilora.files.formats import dump_json, finite_or_null, write_whole

NAME = "diverged.json"


@contextmanager
def divergence_told(engine: BilevelEngine, folder: Path | None) -> Iterator[None]:
    """Run the engine; where it diverges, write its batches, of the first process, and name the last checkpoint."""
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
    """Write the batches of every step that was skipped, of the first process, to ``skipped-<step>.json``."""

    must_work = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        """Write them, if the step of a level was skipped."""
        skipped = (record.skipped, record.upper is not None and record.upper.skipped)
        if any(skipped) and engine.processes.is_first:
            names = [level.name for level, was_skipped in zip(engine.levels, skipped, strict=False) if was_skipped]
            _write(self.folder / f"skipped-{record.step}.json", engine, skipped=names)


def _write(path: Path, engine: BilevelEngine, **more: Any) -> None:
    # A list of them where the step has several micro-batches.
    batches = {
        level.name: level.step_batches if len(level.step_batches) > 1 else level.cur_batch for level in engine.levels
    }
    content = {"step": engine.step, **more, "batches": _plain(batches)}
    write_whole(path, dump_json(finite_or_null(content)))


def _plain(value: Any) -> Any:
    """Return a batch as lists and numbers, and anything else in it as text."""
    # A user's collate may put any object beside the tensors.
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
