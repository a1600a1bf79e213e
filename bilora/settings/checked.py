"""Settings that are checked together, and told as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bilora.errors import SettingsError


def refuse_faults(what: str, settings: Any, checks: tuple[tuple[str, str, bool], ...]) -> None:
    """Raise one error for all the checks ``(field, what is allowed, whether it holds)`` that do not hold.

    Raises:
        SettingsError: With field, value and what is allowed of each.

    Example:
        >>> from types import SimpleNamespace
        >>> refuse_faults("level", SimpleNamespace(rate=-1), (("rate", "it must not be negative", False),))
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: level: rate is -1, it must not be negative
    """
    faults = [f"{name} is {getattr(settings, name)!r}, {allowed}" for name, allowed, holds in checks if not holds]
    if faults:
        raise SettingsError(f"{what}: " + "; ".join(faults))


def resolved(settings: Any) -> Any:
    """Return settings as plain dicts, lists and numbers, for YAML and JSON.

    Example:
        >>> from bilora.engines.settings import FitSettings
        >>> resolved(FitSettings())["lower"]["batch_size"]
        16
    """
    if hasattr(settings, "__dataclass_fields__"):
        return {name: resolved(getattr(settings, name)) for name in settings.__dataclass_fields__}
    if isinstance(settings, Mapping):
        return {str(key): resolved(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [resolved(each) for each in settings]
    return settings if settings is None or isinstance(settings, bool | int | float | str) else str(settings)
