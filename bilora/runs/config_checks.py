"""What is checked of the settings of a run that stand beside each other; each part checks its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.engines.hypergradients.implicit import ProductSettings

if TYPE_CHECKING:
    from bilora.runs.config import RunConfig

Check = tuple[str, str, bool]
"""A setting, what it must be, and whether it is."""


def config_checks(config: RunConfig) -> tuple[Check, ...]:
    """Return the checks, for :func:`~bilora.settings.checked.refuse_faults`.

    Example:
        >>> from bilora.runs.config import RunConfig
        >>> all(holds for _, _, holds in config_checks(RunConfig()))
        True
    """
    return (
        ("method", "give at least one", bool(config.method)),
        ("method", "each may stand once", len(set(config.method)) == len(config.method)),
        ("seeds", "give at least one", bool(config.seeds)),
        ("seeds", "each may stand once, and none may be negative", _are_seeds(config.seeds)),
        ("train_rows", "it must be at least 2, or none for all", config.train_rows is None or config.train_rows > 1),
        ("max_length", "it must be at least 1", config.max_length >= 1),
        ("overwrite", "it belongs to output, which is not given", config.output is not None or not config.overwrite),
        ("overwrite", "resume goes on with what it removes; take one", config.resume is None or not config.overwrite),
        (
            "shard_base",
            "a sharded model has no second derivative, and is not compiled; use products: finite_difference, no meter "
            "and torch_compile: off",
            not config.shard_base or _is_first_order(config),
        ),
        *_file_checks(config),
    )


def _file_checks(config: RunConfig) -> tuple[Check, ...]:
    given = config.train_file is not None
    with_file = "it belongs to train_file, which is not given"
    return (
        ("task", "it stands beside train_file; leave one of them out", not given or not config.task),
        ("data_dir", "it belongs to task; leave it or train_file out", not given or not config.data_dir),
        ("text_columns", with_file, given or config.text_columns is None),
        ("validation_file", with_file, given or config.validation_file is None),
        ("task_type", with_file, given or config.task_type is None),
        ("on_bad_row", with_file, given or config.on_bad_row == "error"),
    )


def _is_first_order(config: RunConfig) -> bool:
    """Return whether nothing is asked for that needs a second backward pass or a compiled model."""
    built = build_hypergradient(config.hypergradient)
    second = isinstance(built, ProductSettings) and built.products == "exact"
    return not (second or config.meter or config.torch_compile != "off")


def _are_seeds(seeds: list[int]) -> bool:
    return len(set(seeds)) == len(seeds) and all(each >= 0 for each in seeds)
