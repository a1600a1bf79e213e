"""From a name to an object: a row of a table, or ``package.module:NAME`` for a user's own."""

import difflib
import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, TypeVar

from bilora.errors import SettingsError

T = TypeVar("T")

_REFUSAL: ContextVar[tuple[str | None, str] | None] = ContextVar(
    "the name that may be imported, and a cure", default=None
)


@contextmanager
def no_code_but(name: str | None, *, cure: str) -> Iterator[None]:
    """Let :func:`find` import nothing but ``name``: a folder of somebody else is data, and names no code."""
    token = _REFUSAL.set((name, cure))
    try:
        yield
    finally:
        _REFUSAL.reset(token)


def find(table: Mapping[str, T], name: str, *, kind: str) -> T:
    """Return the row of ``table`` called ``name``, or the object that ``package.module:NAME`` points to.

    Args:
        table: The known rows.
        name: A key of ``table``, or a dotted path, a colon and an attribute; a module may also lie in the folder that
            the program was started from.
        kind: What the table holds, for the error text (``"formulation"``).

    Returns:
        The row or the imported object.

    Raises:
        SettingsError: The name is in neither place.

    Example:
        >>> find({"real": 1, "softmax": 2}, "softmax", kind="formulation")
        2
        >>> find({"real": 1, "softmax": 2}, "sofmax", kind="formulation")
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: formulation 'sofmax' is unknown; known: real, softmax; or give \
'package.module:NAME'. Did you mean 'softmax'?
    """
    if name in table:
        return table[name]
    if ":" in name:
        refusal = _REFUSAL.get()
        if refusal is not None and name != refusal[0]:
            raise SettingsError(f"{kind} {name!r} is code that a file names, which is not imported; {refusal[1]}")
        found: T = _import(name, kind)
        return found
    raise SettingsError(
        f"{kind} {name!r} is unknown; known: {', '.join(sorted(table))}; "
        f"or give 'package.module:NAME'.{did_you_mean(name, table)}"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known name, or an empty string.

    Example:
        >>> did_you_mean("radiuss", ["radius", "scale"])
        " Did you mean 'radius'?"
        >>> did_you_mean("zzz", ["radius", "scale"])
        ''
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _import(path: str, kind: str) -> Any:
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise SettingsError(f"{kind} {path!r} is not of the form 'package.module:NAME'")
    # Where a script is run from is no place that Python looks in: that is the folder of the script. Last, so that
    # nothing of the user's hides a library.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SettingsError(f"{kind} {path!r}: cannot import module {module_name!r}: {error}") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        public = [each for each in vars(module) if not each.startswith("_")]
        raise SettingsError(
            f"{kind} {path!r}: module {module_name!r} has no {attribute!r}.{did_you_mean(attribute, public)}"
        ) from error


def import_extra(module: str, *, extra: str) -> ModuleType:
    """Return a module of an optional package.

    Args:
        module: Its dotted name.
        extra: The extra of this library that brings it.

    Raises:
        SettingsError: The package is not installed; says how to install it.

    Example:
        >>> import_extra("no_such_package", extra="nlg")
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: this needs the package no_such_package, which is not installed; \
pip install 'bilora[nlg]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise  # it is there; what it needs itself is not
        raise SettingsError(
            f"this needs the package {package}, which is not installed; pip install 'bilora[{extra}]'"
        ) from error
