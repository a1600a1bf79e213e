"""A file that a test fills with bytes, and a process without torch."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import bilora

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, request: pytest.FixtureRequest) -> Write:
    """Write the bytes of a file, by default the module's NAME, and return its path."""

    def write_bytes(content: bytes, name: str = request.module.NAME) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write_bytes


@pytest.fixture
def output_without_torch() -> Callable[..., str]:
    """Run Python code in a new process, and return what it prints."""
    # A bare package stands in for bilora, whose __init__ brings in the adapters and with them torch.
    bare = "import sys, types; sys.modules['bilora'] = package = types.ModuleType('bilora'); "
    bare += f"package.__path__ = [{str(Path(bilora.__file__).parent)!r}]; "

    def output(code: str, **environment: str) -> str:
        words = [sys.executable, "-c", bare + code]
        return subprocess.run(words, capture_output=True, text=True, check=True, env=environment or None).stdout.strip()

    return output
