"""JSON as the standard has it: no NaN, no infinity, no key twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import yaml

from bilora.errors import CheckpointError


def dump_json(value: Any) -> str:
    """Return strict JSON of a value, one line at the end.

    Raises:
        ValueError: A number is not finite.

    Example:
        >>> dump_json({"step": 3})
        '{"step": 3}\\n'
    """
    return json.dumps(value, allow_nan=False) + "\n"


def load_json(path: Path) -> Any:
    """Return what a file of strict JSON holds.

    Raises:
        ValueError: It is not strict JSON.
        OSError: It cannot be read.
    """
    return json.loads(
        path.read_text(encoding="utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_without_doubles
    )


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def finite_or_null(value: Any) -> Any:
    """Return ``value`` with every float that JSON cannot hold replaced by None.

    Example:
        >>> finite_or_null({"a": float("nan"), "b": [1.0, float("inf")]})
        {'a': None, 'b': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: finite_or_null(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(each) for each in value]
    if isinstance(value, float) and not (-float("inf") < value < float("inf")):
        return None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON; numbers that it cannot hold become null."""
    path.write_text(json.dumps(finite_or_null(value), allow_nan=False, indent=2) + "\n", encoding="utf-8")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, an empty one where there is none.

    Raises:
        CheckpointError: The file is not YAML, or no mapping.
    """
    if not path.exists():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no settings")
    return found


def write_yaml(path: Path, value: Any) -> None:
    """Write YAML with the keys in the order given."""
    path.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")
