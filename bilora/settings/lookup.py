"""From a name to an object: a row of a table, or ``package.module:NAME`` for a user's own."""

import difflib
import importlib
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, TypeVar

from bilora.errors import SettingsError

T = TypeVar("T")

TRUST = "--trust-code"
"""The word by which a command line lets files name code, and send data away."""

# The words of the command line; None in a program of the user's own. A context variable, since settings are looked up
# far below the place that knows where they came from.
_WORDS: ContextVar[Sequence[str] | None] = ContextVar("words", default=None)


@contextmanager
def told_by(words: Sequence[str]) -> Iterator[None]:
    """Import in the block only what the words name: a config or a folder may come from somebody else.

    Inside another such block, the words of that one count.
    """
    token = _WORDS.set(words if _WORDS.get() is None else _WORDS.get())
    try:
        yield
    finally:
        _WORDS.reset(token)


def is_told(option: str) -> bool:
    """Return whether the user has given an option on this command line, or trusts all files."""
    words = _WORDS.get()
    # Options may be written with underscores.
    given = None if words is None else {word.partition("=")[0].replace("_", "-") for word in words}
    return given is None or TRUST in given or option in given


def names_code(settings: Any) -> bool:
    """Return whether any text among settings has the form ``package.module:NAME``."""
    return re.search(r"(?<![\w/.-])[A-Za-z_][\w.]*:[A-Za-z_]\w*", repr(settings)) is not None


def may_import(name: str) -> bool:
    """Return whether code of that name may be imported."""
    return is_told(TRUST) or any(name in word for word in _WORDS.get() or ())


def find(table: Mapping[str, T], name: str, *, kind: str) -> T:
    """Return the row of ``table`` called ``name``, or the object that ``package.module:NAME`` points to."""
    if name in table:
        return table[name]
    if ":" in name:
        if not may_import(name):
            raise SettingsError(
                f"{kind} {name!r} is code that a file names, and is imported only where the command line names it: "
                f"give the option for it, or {TRUST} if you trust the file"
            )
        imported: T = _import(name, kind)
        return imported
    raise SettingsError(
        f"{kind} {name!r} is unknown; known: {', '.join(sorted(table))}; "
        f"or give 'package.module:NAME'.{did_you_mean(name, table)}"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known name, or an empty string."""
    # Of a file with a column for every word of a language the first ones do.
    near = difflib.get_close_matches(name, list(itertools.islice(known, 1_000)), n=1)
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
