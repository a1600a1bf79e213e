"""A file that a test fills with bytes."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Write the bytes of a file, by default the module's NAME, and return its path."""

    def write_bytes(content: bytes, name: str = request.module.NAME) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write_bytes
