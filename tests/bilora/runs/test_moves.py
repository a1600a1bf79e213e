"""How far the code of ``bilora train`` goes before its first step: moves between files, and what is done how often."""

import csv
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from bilora.commands.train import TRAIN

SPEC = importlib.util.spec_from_file_location("moves", Path(__file__).with_name("moves.py"))

FIXED, PER_ROW = 400, 3
"""The most moves that do not depend on the rows, and those per row."""

MOST = {
    "a file read": 1,
    "a split drawn": 1,
    "a loader built": 2,  # one per level
    # The command's config is that of a run, which is settings of a fit; the plan has the two below it once each.
    "settings of a fit built": 3,
    "a config of a run built": 2,
    "a hypergradient built": 1,
    "the stages worked out": 1,
    "a parser of settings built": 2,  # of the command's config and of the method's section
    "a parser of words built": 1,
}


def counted(rows: int, folder: Path, model: Path) -> Any:
    """Return what is counted of a run on a csv of that many rows."""
    assert SPEC is not None and SPEC.loader is not None
    moves = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(moves)
    path = folder / f"{rows}.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        lines = [(f"film {row} is {('dull', 'fine')[row % 2]}", ("bad", "good")[row % 2]) for row in range(rows)]
        csv.writer(stream).writerows([("text", "label"), *lines])
    words = ["--model", str(model), "--train-file", str(path), "--output", str(folder / f"run-{rows}")]
    config = [*words, "--max-length", "32", "--device", "cpu"]
    return moves.moves_of(lambda: TRAIN.work(TRAIN.parse(config)))


def test_the_way_to_the_first_step_is_short(
    tmp_path: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, many = counted(200, tmp_path, tiny_encoder), counted(400, tmp_path, tiny_encoder)
    assert few.watched["a config of a run built"] > 0  # it has counted
    per_row = (many.moves - few.moves) / 200
    assert per_row <= PER_ROW
    assert few.moves - 200 * per_row <= FIXED
    assert {name: count for name, count in few.watched.items() if count > MOST[name]} == {}
