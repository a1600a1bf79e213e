"""The versions and the command that a result was produced with."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys

PACKAGES = ("bilora", "torch", "transformers", "peft", "betty-ml")


def versions() -> dict[str, str]:
    """Return the version of Python and of every package that can change a number.

    Example:
        >>> sorted(versions())
        ['betty-ml', 'bilora', 'peft', 'python', 'torch', 'transformers']
    """
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def command() -> str:
    """Return the words with which this process was started, as a shell takes them.

    Example:
        >>> bool(command())
        True
    """
    return shlex.join(sys.orig_argv)
