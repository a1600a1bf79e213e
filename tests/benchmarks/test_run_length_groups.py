"""The benchmark of batches of nearly one length: it reads the rows it says, and counts what it says."""

import json
from pathlib import Path

import pytest
from programs import imported

run_length_groups = imported("run_length_groups")


@pytest.mark.slow
def test_grouping_saves_padding_and_is_written_down(tmp_path: Path) -> None:
    output = tmp_path / "found.jsonl"
    # One whole pass over D1 and one over D2: the longest batches come first.
    words = ["--rows", "40", "--batch-size", "4", "--steps", "8", "--rounds", "1", "--output", str(output)]
    assert run_length_groups.main(words) == 0
    (found,) = map(json.loads, output.read_text(encoding="utf-8").splitlines())
    assert found["token_ratio"] < 1.0
    assert found["ratio"] > 0.0
    assert found["command"] == "python benchmarks/run_length_groups.py " + " ".join(words)
    assert found["versions"]["torch"]
