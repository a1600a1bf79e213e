"""JSON as the standard has it (no NaN, no infinity, no key twice), lines of it, and YAML."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from bilora.errors import CheckpointError, DataError
from bilora.settings.strict_yaml import strict_yaml


def dump_json(value: Any) -> str:
    """Return strict JSON with a line end; raise ValueError where a number is not finite."""
    return json.dumps(value, allow_nan=False) + "\n"


def read_text(path: Path) -> str:
    """Return the text of a file; raise OSError or ValueError where it has none."""
    if what := _no_plain_file(path):
        raise ValueError(f"it {what}")
    return path.read_text(encoding="utf-8")


def plain_file(path: Path) -> Path:
    """Return the path; raise DataError where it is a folder, a pipe or a device."""
    if what := _no_plain_file(path):
        raise DataError(f"{path} {what}")
    return path


def _no_plain_file(path: Path) -> str | None:
    # A pipe would be waited for, and a device may have no end.
    if not path.exists() or path.is_file():
        return None
    return f"is a {'folder' if path.is_dir() else 'pipe or a device'}; give a plain file"


def load_json(path: Path) -> Any:
    """Return the content of a file; raise OSError or ValueError where it is not strict JSON."""
    return _strict_json(read_text(path))


def load_yaml(path: Path) -> Any:
    """Return the content of a file; raise OSError or ValueError, in one line, where it is not YAML."""
    try:
        return without_halves(strict_yaml(read_text(path)))
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(in_one_line(error)) from error


def load_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raise DataError where there is none."""
    try:
        content = load_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; copy it again, or make it anew") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {type(content).__name__}, and must hold an object; copy it again")
    return content


def _strict_json(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise ValueError(in_one_line(error)) from error
    return without_halves(value) if _HALF.search(text) else value


def in_one_line(error: Exception) -> str:
    """Return what a reader of JSON or YAML says, without line breaks and advice to programmers."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    # Of a number of more than 4,300 digits.
    return " ".join(str(error).split()).removesuffix("; use sys.set_int_max_str_digits() to increase the limit")


# The escape of one half of a pair of UTF-16, which alone is no character.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def without_halves(value: Any) -> Any:
    """Return a value; raise ValueError where a text in it holds half a character, which no file can be written of."""
    left, seen = [value], set[int]()
    while left:
        item = left.pop()
        if isinstance(item, str) and (half := re.search("[\ud800-\udfff]", item)):
            raise ValueError(f"a text in it holds half a character (U+{ord(half[0]):04X} alone)")
        # Once each: aliases of YAML stand for the same object any number of times.
        if isinstance(item, dict | list) and id(item) not in seen:
            seen.add(id(item))
            left += [*item, *item.values()] if isinstance(item, dict) else item
    return value


def _refuse_constant(constant: str) -> NoReturn:
    # Python reads NaN and Infinity, which other tools refuse.
    raise ValueError(f"{constant} is not JSON")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python keeps the last of two; which one was meant nobody knows.
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return mapping


def finite_or_null(value: Any) -> Any:
    """Return ``value`` with None in place of every float that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(item) for item in value]
    if isinstance(value, float) and not (-float("inf") < value < float("inf")):
        return None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON, with null in place of numbers that it cannot hold."""
    write_whole(path, json.dumps(finite_or_null(value), allow_nan=False, indent=2) + "\n")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, texts as UTF-8, and in the place of a link, not through it."""
    with written_whole(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give the path of a new file, which gets the name ``path`` once it is written, and goes where that fails."""
    unfinished = unfinished_name(path)
    # What a killed process left, or what somebody else has put there: a link.
    unfinished.unlink(missing_ok=True)
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        # What a full disk has left of it takes room.
        unfinished.unlink(missing_ok=True)


def unfinished_name(path: Path) -> Path:
    """Return where a file is written before it gets its name; a killed process leaves it there."""
    return path.with_name(f".{path.name[:200]}.tmp")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file, without a last line that a kill cut off; none where there is no file."""
    if not path.exists():
        return []
    try:
        # Not splitlines: a text may hold other line separators, which end no line in JSON.
        *lines, _ = read_text(path).split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return [parse_json(line, f"{path}:{number}", kind=dict) for number, line in enumerate(lines, start=1) if line]


def parse_json(text: str, where: str, *, kind: type) -> Any:
    """Return the value of a JSON text, of the type ``kind``; raise DataError, with ``where``, if it is none."""
    try:
        value = _strict_json(text)
    except ValueError as error:
        raise DataError(f"{where}: is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise DataError(f"{where}: holds {type(value).__name__}, and must hold {kind.__name__}")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, an empty one without a file; raise CheckpointError where it is none."""
    if not path.exists():
        return {}
    try:
        content = load_yaml(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict | None):
        raise CheckpointError(f"{path} holds no settings by name, but a {type(content).__name__}")
    return content or {}


def write_yaml(path: Path, value: Any) -> None:
    """Write YAML with the keys in the order given."""
    write_whole(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
