"""Arguments of a call, and fields of settings, held against their annotations, so that an error names the argument."""

import inspect
import numbers
import re
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bilora.errors import SettingsError

# Of a list all that a call is usually given; of rows enough to see that they are none.
LOOKED_AT = 10


def check_arguments(call: Callable[..., Any], given: Mapping[str, Any], **instead: Any) -> None:
    """Refuse arguments that are not of the annotated types, all of them together.

    Args:
        call: The function, or the class whose ``__init__`` it is.
        given: The arguments by name, such as ``locals()`` on the first line; other names are passed over.
        instead: Types to hold arguments against in place of the annotated ones.

    Raises:
        SettingsError: An argument is of another type.

    Example:
        >>> def wait(seconds: float, *, tell: Callable[[], None] | None = None) -> None: ...
        >>> check_arguments(wait, {"seconds": "3", "tell": True})
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: wait: seconds is '3' (str), allowed: float; tell is True (bool), allowed: \
Callable[[], None] | None
    """
    hints = {**hints_of(call), **instead}
    faults = type_faults({name: value for name, value in given.items() if name in hints}, hints)
    if faults:
        raise SettingsError(f"{call.__name__}: " + "; ".join(faults))


def check_fields(settings: Any, what: str, *, leave_out: Collection[str] = ()) -> None:
    """Refuse a dataclass with fields that are not of the annotated types; ``leave_out`` names some not to look at."""
    values = {name: value for name, value in vars(settings).items() if name not in leave_out}
    kind: Any = type(settings)
    if faults := type_faults(values, hints_of(kind)):
        raise SettingsError(f"{what}: " + "; ".join(faults))


def type_faults(values: Mapping[str, Any], hints: Mapping[str, Any]) -> list[str]:
    """Return one sentence per value that does not fit its annotation."""
    wrong = {name: value for name, value in values.items() if name in hints and not fits(value, hints[name])}
    return [
        f"{name} is {_short(value)} ({type(value).__name__}), allowed: {_spoken(hints[name])}"
        for name, value in wrong.items()
    ]


@cache
def hints_of(call: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a call's arguments, or of a dataclass's fields, by name."""
    # Those of a dataclass are its fields'; those of another class are of its attributes, not of its arguments.
    plain = inspect.isclass(call) and not hasattr(call, "__dataclass_fields__")
    hints = get_type_hints(call.__init__ if plain else call)
    return {name: hint for name, hint in hints.items() if name != "return"}


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of an annotated type; of what a collection holds the first few are looked at.

    Example:
        >>> fits([1, 2], Sequence[int]), fits("ab", Sequence[str]), fits(True, int), fits(1, float)
        (True, False, False, True)
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    # Which words a Literal allows is told by the check of its own, in its own words.
    if hint is Any or origin is Literal:
        return True
    if hint in (int, float):
        # True is a whole number to Python.
        return isinstance(value, numbers.Integral if hint is int else numbers.Real) and not isinstance(value, bool)
    if origin is Callable or hint is Callable:
        return callable(value)
    if origin is type:
        return isinstance(value, type)
    if origin is Iterable:
        # torch's data sets have no __iter__, and can be iterated all the same.
        return not isinstance(value, str) and (hasattr(value, "__iter__") or hasattr(value, "__getitem__"))
    if origin in (Sequence, list):
        return _is_sequence(value) and all(fits(value[place], parts[0]) for place in range(min(len(value), LOOKED_AT)))
    kind = origin or hint
    return not isinstance(kind, type) or isinstance(value, kind)


def _is_sequence(value: Any) -> bool:
    # By what it can do: data sets are no Sequence by name. A mapping has its values under keys.
    has_both = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    return has_both and not isinstance(value, str | bytes | Mapping | type)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _spoken(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text).replace("NoneType", "None")
