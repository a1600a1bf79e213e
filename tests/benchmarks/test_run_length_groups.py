"""The benchmark of batches of nearly one length: it reads the rows it says, and counts what it says."""

import json
from pathlib import Path
from typing import Any

import pytest
from tracked_files import ROOT, loaded


@pytest.fixture(scope="module")
def program() -> Any:
    return loaded(ROOT / "benchmarks" / "run_length_groups.py")


@pytest.mark.slow
def test_grouping_saves_padding_and_is_written_down(program: Any, tmp_path: Path) -> None:
    output = tmp_path / "found.jsonl"
    # One whole pass over D1 and one over D2: the longest batches come first.
    words = ["--rows", "60", "--batch-size", "4", "--steps", "12", "--rounds", "1", "--output", str(output)]
    assert program.main(words) == 0
    (found,) = map(json.loads, output.read_text(encoding="utf-8").splitlines())
    assert found["token_ratio"] < 1.0
    assert found["ratio"] > 0.0
    assert found["command"] == "python benchmarks/run_length_groups.py " + " ".join(words)
    assert found["versions"]["torch"]


def test_bad_numbers_are_refused(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(["--rounds", "0"])
    assert ended.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err
