"""A config as YAML with a comment above every setting, which reads back as the same config."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from typing import Any

import yaml

from bilora.settings.sections import resolved

WIDTH = 110


def commented_yaml(config: Any, *, sections: dict[str, Any] | None = None) -> str:
    """Return every field of a dataclass as YAML, with what its docstring says of it as a comment.

    Args:
        config: The dataclass; those among its values become sections with comments of their own.
        sections: What explains a mapping of settings, by dotted name: the object whose class has the docstring.

    Example:
        >>> from bilora.engines.settings import LevelSettings
        >>> print(commented_yaml(LevelSettings(batch_size=8)).splitlines()[5])
        # Rows per micro-batch.
    """
    return "\n".join(_lines(config, prefix="", known=sections or {}, depth=0)) + "\n"


def setting_texts(kind: type) -> dict[str, str]:
    """Return what the docstrings of a dataclass and of those above it say of each setting.

    Example:
        >>> from bilora.engines.settings import LevelSettings
        >>> setting_texts(LevelSettings)["batch_size"]
        'Rows per micro-batch.'
    """
    texts: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        found = re.search(
            r"^Args:\n((?:    .*\n|\n)+)", inspect.cleandoc(each.__doc__ or "") + "\n", flags=re.MULTILINE
        )
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", found[1] if found else "", flags=re.MULTILINE):
            texts[name] = " ".join(text.replace("``", "").split())
    return texts


def _lines(config: Any, *, prefix: str, known: dict[str, Any], depth: int) -> list[str]:
    texts, lines, indent = setting_texts(type(config)), [], "  " * depth
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        comment = textwrap.wrap(texts.get(field.name, ""), WIDTH - len(indent))
        lines += [f"{indent}# {line}" for line in comment]
        lines += _value(field.name, value, name, known, depth)
    return lines


def _value(key: str, value: Any, name: str, known: dict[str, Any], depth: int) -> list[str]:
    indent = "  " * depth
    if dataclasses.is_dataclass(value):
        return [f"{indent}{key}:", *_lines(value, prefix=f"{name}.", known=known, depth=depth + 1)]
    if isinstance(value, dict) and any(f"{name}.{each}" in known for each in value):
        inside = [_value(each, known[f"{name}.{each}"], f"{name}.{each}", known, depth + 1) for each in value]
        return [f"{indent}{key}:", *(line for lines in inside for line in lines)]
    return [f"{indent}{_scalar({key: resolved(value)})}"]


def _scalar(pair: dict[str, Any]) -> str:
    """Return a key and its value on one line."""
    [(key, value)] = pair.items()
    said = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip()
    return f"{key}: {said.removesuffix('...').strip()}"
