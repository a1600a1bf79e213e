"""Words that make a run small, and small pieces of the real data."""

import gzip
import itertools
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def small(tiny_encoder: Path) -> list[str]:
    """The words that make any run of the program a run of a second."""
    words = f"--model {tiny_encoder} --train-rows 40 --steps 4 --unroll-steps 2 --max-length 32 --device cpu"
    batches = "--lower.batch-size 8 --upper.batch-size 8 --lower.learning-rate 0.05"
    return [*words.split(), *batches.split()]


@pytest.fixture
def in_tmp_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start in an empty folder, where default output folders would be."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few_rows(real_data: Path, tmp_path: Path) -> Any:
    """Copy the first 60 rows of each set of a real task to a folder for ``--data-dir``."""

    def copy(family: str, task: str) -> Path:
        target = tmp_path / family / task
        target.mkdir(parents=True)
        for path in sorted((real_data / family / task).iterdir()):
            if path.name.startswith(("train", "validation")):
                opened: Any = gzip.open if path.suffix == ".gz" else open
                with opened(path, "rt", encoding="utf-8") as file:
                    rows = "".join(itertools.islice(file, 60))
                (target / path.name.removesuffix(".gz")).write_text(rows, encoding="utf-8")
        return target.parent

    return copy
