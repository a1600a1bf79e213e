"""From a mapping of settings to the object they belong to, with strict keys and checked types."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from bilora.errors import SettingsError, first_ten
from bilora.settings.lookup import did_you_mean
from bilora.settings.strict_yaml import STRICT

T = TypeVar("T")

# The first whole number that is no seed to numpy, no number of steps that ever end, and no size of anything.
BEYOND = 2**32

# Words that YAML reads as truth values.
WORDS = {"off": False, "no": False, "on": True, "yes": True}


def build_section(factory: Callable[..., T], settings: Mapping[str, Any], *, kind: str) -> T:
    """Return ``factory(**settings)`` with every key known and every value of the annotated type."""
    known = sorted(inspect.signature(factory).parameters)
    # Before jsonargparse does: it would tell of the key in the words of a command line, and without the known ones.
    for key in settings:
        if key not in known:
            raise SettingsError(
                f"{kind} has no setting {key!r}; known: {', '.join(known) or 'none'}.{did_you_mean(key, known)}"
            )
    refuse_nulls(factory, settings, what=kind)
    try:
        checked = _parser(factory).parse_object(_with_words(factory, settings), defaults=True)
    except ArgumentError as error:
        # Without the words that are about a parser, of which whoever wrote the settings knows nothing.
        line = one_line(str(error)).replace('Parser key "', "").replace('": ', ": ", 1).removeprefix("error: ")
        raise SettingsError(f"{kind}: {line}") from error
    return factory(**{key: checked[key] for key in known})


def _with_words(factory: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with ``off`` and the like as words again where such a word is among what is allowed."""
    # YAML reads them as truth values, and jsonargparse does so even with those in quotes where any value is allowed.
    try:
        hints = get_type_hints(factory)
    except NameError:
        return dict(settings)
    read = {
        name: next((word for word in get_args(hints.get(name)) if WORDS.get(word) is value), value)
        for name, value in settings.items()
        if isinstance(value, bool)
    }
    return {**settings, **read}


@functools.cache
def _parser(factory: Callable[..., Any]) -> ArgumentParser:
    """Return a parser of a factory's settings."""
    # Cached: to read a signature and a docstring takes longer than to check all values.
    parser = ArgumentParser(exit_on_error=False, parser_mode=STRICT)
    added = parser.add_function_arguments if inspect.isfunction(factory) else parser.add_class_arguments
    added(factory, None, as_group=False)
    return parser


def refuse_nulls(factory: Callable[..., Any], settings: Mapping[str, Any], *, what: str) -> None:
    """Raise SettingsError with the dotted names of all values that are empty texts, or None that may not be."""
    # An empty line of YAML (`steps:`) is None, which jsonargparse takes for "not given" and hands on. An empty text,
    # as of a variable of the shell that is not set, names nothing: no model, no folder.
    empty = _nulls(factory, settings)
    if empty:
        raise SettingsError(f"{what}: no value for {first_ten(empty)}; give one, or leave the line out")


def _nulls(factory: Callable[..., Any], settings: Mapping[str, Any]) -> list[str]:
    # The hints of a plain class are those of its attributes, not of its arguments; for a dataclass they are the same.
    is_plain = inspect.isclass(factory) and not dataclasses.is_dataclass(factory)
    try:
        hints = get_type_hints(factory.__init__ if is_plain else factory)
    except NameError:
        # An annotation that only a type checker can resolve: nothing is known of it.
        return []
    empty = []
    # What None stands for where it is the default, as of settings that a method may have its own value for.
    left_out = {name for name, argument in inspect.signature(factory).parameters.items() if argument.default is None}
    for key, hint in hints.items():
        value = settings.get(key, hint)
        not_given = value is None and hint is not Any and NoneType not in get_args(hint) and key not in left_out
        if not_given or value == "" or (isinstance(value, list) and "" in value):
            empty.append(key)
        elif dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
            empty += [f"{key}.{name}" for name in _nulls(hint, value)]
    return empty


def one_line(message: str) -> str:
    """Return a message of jsonargparse on one line, where a value fits none of several types in the words of one."""
    line = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: .*?Given value: ?",
        lambda match: f"Expected a {match[1]}. Got value: ".replace(", <class 'NoneType'>", ""),
        " ".join(message.split()),
    )
    # Of a setting that stands in a file itself, where nobody puts the word back as in build_section.
    for word, value in WORDS.items():
        if f"'{word}'" in line and line.endswith(f"Got value: {value}"):
            line += f"; in YAML {word} is a truth value unless it stands in quotes: '{word}'"
    return shortened(line)


def shortened(text: str, most: int = 2_000) -> str:
    """Return a text without the middle of words and lines that nobody would read to the end."""
    # A value of ten thousand letters may be quoted twice.
    words = re.sub(r"\S{301,}", lambda match: f"{match[0][:100]}...{match[0][-100:]}", text)
    return words if len(words) <= most else f"{words[: most // 2]} ... {words[-most // 2 :]}"


def refuse_plain_sections(kind: type, settings: Mapping[str, Any], *, what: str) -> None:
    """Raise SettingsError where a value stands in the place of a section of settings."""
    # jsonargparse would hand it on, or take a text for the name of another file.
    hints = get_type_hints(kind).items()
    wrong = [
        f"{name} is {settings[name]!r}, and holds settings by name, as {dataclasses.fields(hint)[0].name}: VALUE"
        for name, hint in hints
        if dataclasses.is_dataclass(hint) and not isinstance(settings.get(name), Mapping | NoneType)
    ]
    if wrong:
        raise SettingsError(f"{what}: {first_ten(wrong, '; ')}")


def refuse_faults(what: str, settings: Any, checks: tuple[tuple[str, str, bool], ...]) -> None:
    """Raise one SettingsError for all the checks ``(field, what is allowed, whether it holds)`` that do not hold."""
    # One for all: whoever corrects a file should not have to start the program once per mistake.
    faults = [f"{name} is {getattr(settings, name)!r}, {allowed}" for name, allowed, holds in checks if not holds]
    faults += [f"{name} is {value}, it must be below {BEYOND:,}" for name, value in _beyond(settings)]
    if faults:
        raise SettingsError(f"{what}: {first_ten(faults, '; ')}")


def _beyond(settings: Any) -> list[tuple[str, int]]:
    values = vars(settings).items()
    return [(name, value) for name, value in values if isinstance(value, int) and abs(value) >= BEYOND]


def resolved(settings: Any) -> Any:
    """Return settings as plain dicts, lists and numbers, for YAML and JSON."""
    # Not dataclasses.asdict, which leaves tuples, paths and keys that are numbers as they are.
    if dataclasses.is_dataclass(settings):
        return {field.name: resolved(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        return {str(key): resolved(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [resolved(value) for value in settings]
    return settings if settings is None or isinstance(settings, bool | int | float | str) else str(settings)
