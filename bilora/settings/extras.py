"""Packages that only some uses need: imported when they are used, named with their cure when they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from bilora.errors import SettingsError


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
