"""Smaller batches with more accumulation, where memory is too small: the same rows a step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from bilora.engines.settings import FitSettings, LevelSettings
from bilora.problems.levels.betty_problem import number_of_batches

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine

LEVELS = ("lower", "upper")


@dataclass(frozen=True)
class Rescaled:
    """How the counts of a level in a saved state change, where its batches have another size.

    Args:
        micro_batches: How many micro-batches one of then has become.
        batches: How many batches of a loader one of then has become, by its rows.
    """

    micro_batches: int = 1
    batches: Fraction = Fraction(1)


def halved(settings: FitSettings, level: str) -> FitSettings | None:
    """Return the settings with half the batch and twice the accumulation of a level, None if it cannot be halved.

    Example:
        >>> halved(FitSettings(), "lower").lower.accumulation
        2
        >>> halved(FitSettings(lower=LevelSettings(batch_size=1)), "lower") is None
        True
    """
    own = getattr(settings, level)
    if own.batch_size % 2:
        return None
    smaller = dataclasses.replace(own, batch_size=own.batch_size // 2, accumulation=own.accumulation * 2)
    return dataclasses.replace(settings, **{level: smaller})


def continued_from(settings: FitSettings, saved: Mapping[str, Any]) -> FitSettings:
    """Return the settings with the smaller batches of a run that had to halve them, where halving is asked for."""
    if settings.on_out_of_memory != "halve":
        return settings
    for level in LEVELS:
        own, before = getattr(settings, level), saved[level]
        if before["batch_size"] < own.batch_size and _rows(before) == own.batch_size * own.accumulation:
            smaller = {name: before[name] for name in ("batch_size", "accumulation")}
            settings = dataclasses.replace(settings, **{level: dataclasses.replace(own, **smaller)})
    return settings


def with_batches_of(saved: Mapping[str, Any], settings: FitSettings) -> tuple[dict[str, Any], dict[str, Rescaled]]:
    """Return saved settings with this run's smaller batches, and how many there are of them, by level.

    A state that was saved with larger batches still fits, once its micro-batches are counted anew; see
    :func:`reset_count`.
    """
    found, counts = dict(saved), dict[str, Rescaled]()
    if settings.on_out_of_memory != "halve":
        return found, counts
    for level in LEVELS:
        own: LevelSettings = getattr(settings, level)
        factor, rest = divmod(saved[level]["batch_size"], own.batch_size)
        if factor > 1 and not rest and _rows(saved[level]) == own.batch_size * own.accumulation:
            found[level] = {**saved[level], "batch_size": own.batch_size, "accumulation": own.accumulation}
            counts[level] = Rescaled(factor, Fraction(factor))
    return found, counts


def reset_count(parts: Mapping[str, Any], engine: BilevelEngine, counts: Mapping[str, Rescaled]) -> dict[str, Any]:
    """Return a state with every count of micro-batches and of batches in terms of this run's."""
    found = dict(parts)
    for level in engine.levels:
        if level.name not in counts:
            continue
        own = counts[level.name]
        progress, loaders = found[f"{level.name}.progress"], found[f"{level.name}.loaders"]
        found[f"{level.name}.progress"] = {**progress, "count": progress["count"] * own.micro_batches}
        found[f"{level.name}.loaders"] = [
            {**state, "read": _read(state["read"] * own.batches, number_of_batches(loader))}
            for state, loader in zip(loaders, level.train_data_loader, strict=True)
        ]
        if level is engine.lower_level:
            counted = found["engine"]["micro_batches"] * own.micro_batches
            found["engine"] = {**found["engine"], "micro_batches": counted}
    return found


def _read(batches: Fraction, all_of_them: int | None) -> int:
    """Return whole batches that hold all the rows which have been read, no more than an epoch has."""
    whole = math.ceil(batches)
    # The last batch of an epoch may have been too short to become as many smaller ones.
    return whole if all_of_them is None else min(whole, all_of_them)


def _rows(level: Mapping[str, Any]) -> int:
    return int(level["batch_size"] * level["accumulation"])
