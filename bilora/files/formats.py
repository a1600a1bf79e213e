"""JSON as the standard has it (no NaN, no infinity, no key twice), lines of it, and YAML."""

import json
import os
from pathlib import Path
from typing import Any, NoReturn

import yaml

from bilora.errors import CheckpointError, DataError


def dump_json(value: Any) -> str:
    """Return strict JSON with a line end; raise ValueError where a number is not finite."""
    return json.dumps(value, allow_nan=False) + "\n"


def load_json(path: Path) -> Any:
    """Return the content of a file; raise ValueError where it is not strict JSON."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_doubles)


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
    unfinished = unfinished_name(path)
    # What a killed process left, or what somebody else has put there: a link.
    unfinished.unlink(missing_ok=True)
    unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(unfinished, path)


def unfinished_name(path: Path) -> Path:
    """Return where a file is written before it gets its name; a killed process leaves it there."""
    return path.with_name(f".{path.name}.tmp")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file, without a last line that a kill cut off; none where there is no file."""
    if not path.is_file():
        return []
    # Not splitlines: a text may hold other line separators, which end no line in JSON.
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [parse_json(line, f"{path}:{number}", kind=dict) for number, line in enumerate(lines, start=1) if line]


def parse_json(text: str, where: str, *, kind: type) -> Any:
    """Return the value of a JSON text, of the type ``kind``; raise DataError, with ``where``, if it is none."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise DataError(f"{where}: holds {type(value).__name__}, and must hold {kind.__name__}")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, an empty one without a file; raise CheckpointError where it is none."""
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict | None):
        raise CheckpointError(f"{path} holds no settings")
    return content or {}


def write_yaml(path: Path, value: Any) -> None:
    """Write YAML with the keys in the order given."""
    write_whole(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
