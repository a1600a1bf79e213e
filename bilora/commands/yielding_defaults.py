"""Defaults that give way: what a user did not say must not contradict what the user says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bilora.engines.endings import build_ending
from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.errors import BiloraError

NAMED: dict[str, Callable[[Mapping[str, Any]], object]] = {"hypergradient": build_hypergradient, "ending": build_ending}
"""Settings that are a name with settings of its own, and what builds one of a mapping."""

MAPPINGS = (*NAMED, "method_settings")
"""Settings that are mappings, of which a default may give way in part."""


def given_way(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of which a part of the default has to go, with what is left of it.

    A dotted option changes one entry of a mapping, and the others stay. Those that the user has not given, and that do
    not fit what the user gave, go; what the user gave is never changed, and is refused later if it does not fit.

    Args:
        defaults: Every setting as it is without the user's words.
        given: The settings that the user gave, in files or in words; of :data:`MAPPINGS` those entries alone.

    Example:
        >>> default = {"hypergradient": {"name": "darts", "finite_difference": "forward"}}
        >>> given_way(default, {"hypergradient": {"products": "exact"}})
        {'hypergradient': {'name': 'darts'}}
        >>> given_way(default, {"hypergradient": {"name": "neumann"}})
        {}
    """
    changed = {}
    for name, build in NAMED.items():
        default, own = defaults.get(name), given.get(name)
        if isinstance(default, Mapping) and isinstance(own, Mapping):
            changed[name] = _fitting(default, own, build)
    if given.get("formulation") is not None:
        changed["method_settings"] = _without_formulation(
            defaults.get("method_settings", {}), given.get("method_settings", {})
        )
    return {name: left for name, left in changed.items() if left != defaults[name]}


def _fitting(
    default: Mapping[str, Any], own: Mapping[str, Any], build: Callable[[Mapping[str, Any]], object]
) -> dict[str, Any]:
    """Return the entries of the default that can stand beside the user's; the name is there until another is given."""
    chosen = {"name": default.get("name"), **own}
    return {
        key: value
        for key, value in default.items()
        if key == "name" or key in own or _builds(build, chosen, key, value)
    }


def _builds(build: Callable[[Mapping[str, Any]], object], chosen: Mapping[str, Any], key: str, value: Any) -> bool:
    try:
        build({**chosen, key: value})
    except BiloraError:
        return False
    return True


def _without_formulation(default: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the methods' settings without formulations that only the default says: one was given for all methods."""
    return {
        method: {key: value for key, value in settings.items() if key != "formulation" or key in own.get(method, {})}
        for method, settings in default.items()
    }
