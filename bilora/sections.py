"""From a mapping of settings to the object they belong to, with strict keys and checked types."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser

from bilora.errors import SettingsError
from bilora.lookup import did_you_mean

T = TypeVar("T")


def build_section(factory: Callable[..., T], settings: Mapping[str, Any], *, kind: str) -> T:
    """Return ``factory(**settings)`` with every key known and every value of the annotated type.

    Args:
        factory: A dataclass, a class or a function with annotated arguments.
        settings: Values as they come from YAML or a command line.
        kind: What is being built, for the error text.

    Returns:
        What the factory makes.

    Raises:
        SettingsError: A key is unknown, or a value has the wrong type or is not allowed.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Point:
        ...     x: float = 0.0
        >>> build_section(Point, {"x": 2}, kind="point")
        Point(x=2.0)
        >>> build_section(Point, {"x": "far"}, kind="point")
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: point: x: Expected a <class 'float'>. Got value: far
    """
    known = sorted(inspect.signature(factory).parameters)
    for key in settings:
        if key not in known:
            raise SettingsError(
                f"{kind} has no setting {key!r}; known: {', '.join(known) or 'none'}.{did_you_mean(key, known)}"
            )
    parser = ArgumentParser(exit_on_error=False)
    added = parser.add_function_arguments if inspect.isfunction(factory) else parser.add_class_arguments
    added(factory, None, as_group=False)
    try:
        checked = parser.parse_object(dict(settings), defaults=True)
    except ArgumentError as error:
        raise SettingsError(f"{kind}: {_first_words(str(error))}") from error
    return factory(**{key: checked[key] for key in known})


def _first_words(message: str) -> str:
    """Return jsonargparse's message on one line, without its parser vocabulary."""
    line = " ".join(message.split())
    return line.replace('Parser key "', "").replace('": ', ": ", 1).removeprefix("error: ")
