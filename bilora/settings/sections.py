"""From a mapping of settings to the object they belong to, with strict keys and checked types."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from bilora.errors import SettingsError
from bilora.settings.lookup import did_you_mean

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
    refuse_nulls(factory, settings, what=kind)
    try:
        checked = _parser(factory).parse_object(dict(settings), defaults=True)
    except ArgumentError as error:
        raise SettingsError(f"{kind}: {_first_words(str(error))}") from error
    return factory(**{key: checked[key] for key in known})


@functools.cache
def _parser(factory: Callable[..., Any]) -> ArgumentParser:
    """Return a parser of a factory's settings, once: to read its signature and docstring takes longer than to check."""
    parser = ArgumentParser(exit_on_error=False)
    added = parser.add_function_arguments if inspect.isfunction(factory) else parser.add_class_arguments
    added(factory, None, as_group=False)
    return parser


def refuse_nulls(factory: Callable[..., Any], settings: Mapping[str, Any], *, what: str) -> None:
    """Raise if a value is None where its annotation has no None.

    An empty line of YAML (``steps:``) is None, which jsonargparse takes for "not given" and hands on.

    Args:
        factory: A dataclass, a class or a function with annotated arguments.
        settings: Its values; those of an argument that is a dataclass, as a mapping, are looked into.
        what: What the settings are of, for the error text.

    Raises:
        SettingsError: With the dotted names of all such values.

    Example:
        >>> def move(steps: int, direction: str | None = None): ...
        >>> refuse_nulls(move, {"steps": None, "direction": None}, what="move")
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: move: no value for steps; give one, or leave the line out
    """
    empty = _nulls(factory, settings)
    if empty:
        raise SettingsError(f"{what}: no value for {', '.join(empty)}; give one, or leave the line out")


def _nulls(factory: Callable[..., Any], settings: Mapping[str, Any]) -> list[str]:
    found = []
    for key, hint in _annotations(factory).items():
        value = settings.get(key, hint)
        if value is None and hint is not Any and NoneType not in get_args(hint):
            found.append(key)
        elif dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
            found += [f"{key}.{name}" for name in _nulls(hint, value)]
    return found


def _annotations(factory: Callable[..., Any]) -> dict[str, Any]:
    own = factory.__init__ if inspect.isclass(factory) and not dataclasses.is_dataclass(factory) else factory
    try:
        return get_type_hints(own)
    except NameError:  # an annotation that only a type checker can resolve: nothing is known of it
        return {}


def one_line(message: str) -> str:
    """Return a message of jsonargparse on one line, where a value fits none of several types in the words of one."""
    line = " ".join(message.split())
    return re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: .*?Given value: ",
        lambda match: f"Expected a {match[1]}. Got value: ".replace(", <class 'NoneType'>", ""),
        line,
    )


def _first_words(message: str) -> str:
    """Return jsonargparse's message on one line, without its parser vocabulary."""
    line = one_line(message)
    return line.replace('Parser key "', "").replace('": ', ": ", 1).removeprefix("error: ")


def refuse_faults(what: str, settings: Any, checks: tuple[tuple[str, str, bool], ...]) -> None:
    """Raise one error for all the checks ``(field, what is allowed, whether it holds)`` that do not hold.

    Raises:
        SettingsError: With field, value and what is allowed of each.

    Example:
        >>> from types import SimpleNamespace
        >>> refuse_faults("level", SimpleNamespace(rate=-1), (("rate", "it must not be negative", False),))
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: level: rate is -1, it must not be negative
    """
    faults = [f"{name} is {getattr(settings, name)!r}, {allowed}" for name, allowed, holds in checks if not holds]
    if faults:
        raise SettingsError(f"{what}: " + "; ".join(faults))


def resolved(settings: Any) -> Any:
    """Return settings as plain dicts, lists and numbers, for YAML and JSON.

    Example:
        >>> from bilora.engines.settings import FitSettings
        >>> resolved(FitSettings())["lower"]["batch_size"]
        16
    """
    if dataclasses.is_dataclass(settings):
        return {field.name: resolved(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        return {str(key): resolved(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [resolved(each) for each in settings]
    return settings if settings is None or isinstance(settings, bool | int | float | str) else str(settings)
