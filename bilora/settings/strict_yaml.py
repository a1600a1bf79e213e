"""YAML without what is not plain settings: keys given twice, aliases that stand for a billion values, endless depth."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

# With every alias replaced by what it names: a kilobyte of YAML can stand for a billion values, and a text that is
# nested deep enough ends the process without a word.
MOST_VALUES, DEEPEST, MOST_DIGITS = 100_000, 100, 1_000

# By which parsers of jsonargparse read files and words with these rules.
STRICT = "strict_yaml"


class TooMuchError(yaml.YAMLError):
    """A text stands for more than anybody writes by hand."""


def strict_yaml(text: str, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Return what YAML holds; raise YAMLError where it cannot be read, has a key twice, or stands for far too much."""
    _refuse_odd(text)
    try:
        return load(text)
    # What PyYAML lets through, such as of `!!bool maybe`, and of whole numbers beyond Python's limit.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise yaml.YAMLError(f"a value cannot be read: {error}") from error


# Beside the reader that other programs of the process have.
set_loader(STRICT, lambda text: strict_yaml(text, get_loader("yaml")), exceptions=(yaml.YAMLError,))


@dataclass
class _Collection:
    """A mapping or a sequence that has begun; of a mapping, every second child is a key."""

    anchor: str | None
    before: int
    is_mapping: bool
    children: int = 0
    lines: dict[str, int] = field(default_factory=dict)


def _refuse_odd(text: str) -> None:
    # By the events, before any value is made: what makes the values calls itself for each level.
    sizes: dict[str, int] = {}
    within, values = list[_Collection](), 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionEndEvent):
            ended = within.pop()
            if ended.anchor is not None:
                sizes[ended.anchor] = values - ended.before
        if not isinstance(event, yaml.NodeEvent):
            continue
        if within:
            _refuse_double(event, within[-1])
        values += 1
        if isinstance(event, yaml.AliasEvent):
            # One that stands inside of what it names has no size yet.
            values += sizes.get(event.anchor or "", MOST_VALUES)
        elif isinstance(event, yaml.CollectionStartEvent):
            within.append(_Collection(event.anchor, values, isinstance(event, yaml.MappingStartEvent)))
        elif isinstance(event, yaml.ScalarEvent):
            _refuse_scalar(event)
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if values > MOST_VALUES or len(within) > DEEPEST:
            raise TooMuchError(
                f"line {_line(event)}: this stands for more than {MOST_VALUES:,} values or {DEEPEST} "
                "levels; write plain settings"
            )


def _line(event: yaml.Event) -> int:
    return 0 if event.start_mark is None else event.start_mark.line + 1


def _refuse_scalar(event: yaml.ScalarEvent) -> None:
    # Here, where its line is known. Python refuses more than 4,300 digits; between quotes it is a text.
    if len(event.value) > MOST_DIGITS and not event.style and event.value.lstrip("+-").isdigit():
        raise yaml.YAMLError(f"line {_line(event)}: a number of {len(event.value):,} digits")
    if event.style:
        refuse_too_much(event.value)


def refuse_too_much(text: str) -> None:
    """Raise TooMuchError where a text would be far too much if it were YAML, which it need not be."""
    # jsonargparse reads texts as YAML too, by a reader of its own, where a setting may be something else than a text.
    if any(sign in text for sign in "[{*"):
        try:
            _refuse_odd(text)
        except TooMuchError:
            raise
        except yaml.YAMLError:
            return


def _refuse_double(event: yaml.NodeEvent, around: _Collection) -> None:
    around.children += 1
    if not (around.is_mapping and around.children % 2 and isinstance(event, yaml.ScalarEvent)):
        return
    line = _line(event)
    # PyYAML keeps the last of two; which one was meant nobody knows.
    if (first := around.lines.get(event.value)) is not None:
        raise yaml.YAMLError(f"{event.value!r} is given on line {first} and again on line {line}; leave one out")
    around.lines[event.value] = line
