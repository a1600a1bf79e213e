"""The inputs of small comparisons."""

from pathlib import Path

import pytest
from small_comparisons import write_inputs


@pytest.fixture(scope="package")
def inputs(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, 60 training rows and 20 validation rows."""
    return write_inputs(tmp_path_factory.mktemp("inputs"), tiny_encoder)
