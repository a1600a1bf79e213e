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

# The one name that may be imported, and a cure; None outside of no_code_but. A context variable, since settings are
# looked up far below the place that knows whose folder they came from.
_REFUSAL: ContextVar[tuple[str | None, str] | None] = ContextVar("refusal", default=None)


@contextmanager
def no_code_but(name: str | None, *, cure: str) -> Iterator[None]:
    """Let :func:`find` import nothing but ``name``: a folder of somebody else is data, and names no code."""
    token = _REFUSAL.set((name, cure))
    try:
        yield
    finally:
        _REFUSAL.reset(token)


def find(table: Mapping[str, T], name: str, *, kind: str) -> T:
    """Return the row of ``table`` called ``name``, or the object that ``package.module:NAME`` points to."""
    if name in table:
        return table[name]
    if ":" in name:
        refusal = _REFUSAL.get()
        if refusal is not None and name != refusal[0]:
            raise SettingsError(f"{kind} {name!r} is code that a file names, which is not imported; {refusal[1]}")
        imported: T = _import(name, kind)
        return imported
    raise SettingsError(
        f"{kind} {name!r} is unknown; known: {', '.join(sorted(table))}; "
        f"or give 'package.module:NAME'.{did_you_mean(name, table)}"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _import(path: str, kind: str) -> Any:
    module_name, _, attribute = path.partition(":")
    # A path of Windows has a colon too, and a relative import would be one from nowhere.
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
        public = [name for name in vars(module) if not name.startswith("_")]
        raise SettingsError(
            f"{kind} {path!r}: module {module_name!r} has no {attribute!r}.{did_you_mean(attribute, public)}"
        ) from error


def import_extra(module: str, *, extra: str) -> ModuleType:
    """Return a module of an optional package, which the given extra of this library brings."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        # Of another name: the package is there, and something that it needs itself is not.
        if error.name != package:
            raise
        raise SettingsError(
            f"this needs the package {package}, which is not installed; pip install 'bilora[{extra}]'"
        ) from error
