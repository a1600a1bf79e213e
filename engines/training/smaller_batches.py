"""Half the batch, twice the accumulation where memory is too small: the same rows per step, in a stage begun anew."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from bilora.engines.callbacks.callback import Callback
from bilora.engines.checkpoints.config_change import LEVELS
from bilora.engines.checkpoints.run_state import Rescaled
from bilora.engines.settings import FitSettings
from bilora.engines.training.stage_state import Resumed, staged_state
from bilora.files.state import Packed, pack, unpack
from bilora.problems.levels.level import Level
from bilora.problems.levels.out_of_memory import OutOfMemory, explaining_out_of_memory
from bilora.problems.replay.random_state import RandomState

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine
    from bilora.engines.training.staged_run import StagedRun


def halved(settings: FitSettings, level: str) -> FitSettings | None:
    """Return the settings with half the batch and twice the accumulation of a level, None if it cannot be halved."""
    before = getattr(settings, level)
    if before.batch_size % 2:
        return None
    smaller = dataclasses.replace(before, batch_size=before.batch_size // 2, accumulation=before.accumulation * 2)
    return dataclasses.replace(settings, **{level: smaller})


def continued_from(settings: FitSettings, saved: Mapping[str, Any]) -> FitSettings:
    """Return the settings with the smaller batches of the saved run, if it had to halve them and this one may."""
    if settings.on_out_of_memory != "halve":
        return settings
    for level in LEVELS:
        # Only ever halved, never made larger, and with the same rows per step.
        now, before = getattr(settings, level), saved[level]
        same_rows = before["batch_size"] * before["accumulation"] == now.batch_size * now.accumulation
        if same_rows and before["batch_size"] < now.batch_size:
            smaller = {name: before[name] for name in ("batch_size", "accumulation")}
            settings = dataclasses.replace(settings, **{level: dataclasses.replace(now, **smaller)})
    return settings


def try_longest_rows(engine: BilevelEngine) -> None:
    """Take a batch of the longest rows of each level through one pass."""
    # So that memory runs out before the first step; the products of second derivatives may still run out later. Only
    # where batches may be halved: with `stop` it could end a run whose longest rows never come together in a batch.
    engine.train()
    # Of both levels: the pass of an upper step, and of a lower step that is recorded, ends in the parameters of both.
    parameters = [weight for level in engine.levels for weight in level.trainable_parameters()]
    for level in engine.levels:
        [loader] = level.train_data_loader
        batch = loader.collate_fn(heapq.nlargest(loader.batch_size, loader.dataset, key=_size))
        what, section = "the trial of the longest rows", level.section
        explained = explaining_out_of_memory(level.name, what, lambda: batch, section=section)  # noqa: B023
        # Afterwards everything is as before: gradients are returned and not kept.
        with explained, RandomState.take(engine.device).replayed(), buffers_kept(level.module):
            level.scaled_gradients(level.loss_and_parts(batch)[0], parameters)


def _size(row: Mapping[str, Any]) -> int:
    """Return how much a row holds."""
    # Its tokens, their mask, and their labels where each token has one.
    return sum(len(value) for value in row.values() if isinstance(value, list | tuple))


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Run the block with the buffers of a module put back afterwards."""
    held = [
        (owner, name, buffer, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        # Not the weights of a quantised base, which are buffers of integers, and large.
        if buffer is not None and (buffer.is_floating_point() or buffer.numel() == 1)
    ]
    try:
        yield
    finally:
        for owner, name, buffer, value in held:
            owner._buffers[name] = buffer
            # A copy of what has not changed would count as a change in every checkpoint, see ChangedBuffers.
            if not torch.equal(buffer, value):
                buffer.copy_(value)


class Point(NamedTuple):
    """A state of a stage in memory, with the settings that it was taken under."""

    settings: FitSettings
    step: int
    parts: Mapping[str, Packed]

    def states(self) -> dict[str, Any]:
        """Return the state by part, in copies: what loads them may go on to change them."""
        return {
            name: unpack(Packed({key: tensor.clone() for key, tensor in part.tensors.items()}, part.tree), part=name)
            for name, part in self.parts.items()
        }


class Points(Callback):
    """Keep the start of a stage, and the state of its newest checkpoint, in memory, on the CPU."""

    # In memory: a run without a folder has no checkpoints, and the start of a stage is in none.
    must_work = True

    def __init__(self, run: StagedRun) -> None:
        self.run = run
        self.kept: tuple[Point, ...] = ()

    def on_stage_start(self, engine: BilevelEngine) -> None:
        """Keep the start of the run's first stage, now that the other callbacks have opened their files."""
        if not self.kept:
            self.take()

    def on_step_end(self, engine: BilevelEngine) -> None:
        """Keep what a checkpoint of this step holds."""
        every = self.run.settings.save_every
        if every and engine.step % every == 0:
            self.take()

    def take(self) -> None:
        """Keep the state as it is now, beside that of the start."""
        assert self.run.engine is not None  # in a stage
        parts = {name: pack(state, part=name) for name, state in staged_state(self.run).items()}
        self.kept = (*self.kept[:1], Point(self.run.settings, self.run.engine.step, parts))


class Restart(NamedTuple):
    """How a stage starts again: with which settings, from which step and state, and what the user reads."""

    settings: FitSettings
    step: int
    # None where the run had not begun.
    resumed: Resumed | None
    notice: str


def restart(run: StagedRun, error: OutOfMemory) -> Restart:
    """Return how the stage starts again with half the batch of the level that ran out of memory, or raise the error."""
    assert run.engine is not None  # of the attempt that failed
    # Of the error's text the fact alone, without the advice to halve the batch by hand.
    fault, place, section = error.args[0].split(". ")[0], run.engine.place, error.section
    smaller = halved(run.settings, section)
    if smaller is None:
        size = getattr(run.settings, section).batch_size
        words = f"{fault}. {section}.batch_size {size} cannot be halved; lower max_length, or take a smaller model"
        raise OutOfMemory(words, section=section) from error
    batches = getattr(smaller, section)
    words = f"{section}.batch_size {batches.batch_size} and {section}.accumulation {batches.accumulation}"
    again = f"{fault}; stage {place.name!r} starts again with {words}"
    if not run.points.kept:
        return Restart(smaller, place.steps_before, None, again)
    hindrance = ""
    # The newest first: it loses the fewest steps.
    for point in reversed(run.points.kept):
        states = point.states()
        hindrance, counts = _recounted(run, point, states, smaller)
        if not hindrance:
            onward = f"{fault}; stage {place.name!r} goes on from step {point.step} with {words}"
            notice = again if point.step == place.steps_before else onward
            return Restart(smaller, point.step, Resumed(states, counts), notice)
    raise OutOfMemory(
        f"{fault}. This process went on from a checkpoint inside stage {place.name!r}, which smaller batches cannot "
        f"take over exactly, since {hindrance}; begin the run anew with {words}",
        section=section,
    ) from error


def _recounted(
    run: StagedRun, point: Point, states: Mapping[str, Any], settings: FitSettings
) -> tuple[str, dict[str, Rescaled]]:
    """Return why a state cannot be taken over exactly, empty if it can, and how its counts change."""
    assert run.engine is not None  # of the attempt that failed, on the same rows
    counts: dict[str, Rescaled] = {}
    for level in run.engine.levels:
        section = level.section
        factor = getattr(point.settings, section).batch_size // getattr(settings, section).batch_size
        if factor == 1:
            continue
        hindrance = _hindrance(states, level, point.settings)
        if hindrance:
            return hindrance, {}
        counts[section] = Rescaled(factor, Fraction(factor))
    return "", counts


def _hindrance(states: Mapping[str, Any], level: Level, settings: FitSettings) -> str:
    """Return why a level that stepped with larger batches is not where smaller ones would be; empty if it is."""
    # It is there if each step took the rows that it would have taken, and if no larger batch is left to be replayed.
    progress, [loader] = states[f"{level.name}.progress"], states[f"{level.name}.loaders"]
    rows, size = len(level.train_data_loader[0].dataset), settings.lower.batch_size
    if progress["count"] == 0:
        return ""
    if level.section == "upper":
        return "the upper level has stepped with its larger batches"
    if settings.group_by_length:
        return "the order of rows that are grouped by length depends on the size of a batch"
    if states["lower.recorded"]["steps"] and not progress["at_unroll_start"]:
        return "the next upper step comes back to the larger batches"
    # The rows of a last, smaller batch divide into other means; a new split may have another number of rows.
    if loader["read"] * size > rows or (loader["epoch"] and (rows % size or settings.refresh)):
        return "an epoch of D1 may have ended with a batch that does not divide"
    return ""
