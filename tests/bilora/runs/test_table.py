"""The table that a comparison ends with."""

import statistics
import sys
from typing import Any

import pytest

from bilora.runs.table import print_cells, print_table, summarise


def row(method: str = "lora", **changes: Any) -> dict[str, Any]:
    values = {"metric": "accuracy", "score": 0.5, "train_loss": 0.25, "validation_loss": 0.75, "seconds": 9.25}
    return {"method": method, **values, "peak_memory_mb": 812.5, "trainable_parameters": 1234567, **changes}


def test_one_line_a_method_in_the_order_of_the_runs() -> None:
    lines = summarise([row("b"), row("a"), row("b"), row("c"), row("a")])
    assert [(line["method"], line["seeds"]) for line in lines] == [("b", "2"), ("a", "2"), ("c", "1")]


def test_a_single_run_has_no_spread() -> None:
    (line,) = summarise([row()])
    assert line == {
        "method": "lora",
        "seeds": "1",
        "accuracy": "0.500",
        "train loss": "0.250",
        "validation loss": "0.750",
        "gap": "0.500",
        "parameters": "1,234,567",
        "seconds": "9",
        "peak MB": "812",
    }


def test_mean_and_sample_deviation_over_seeds() -> None:
    scores = [0.5, 0.75, 0.625]
    (line,) = summarise([row(score=score) for score in scores])
    assert line["accuracy"] == f"{statistics.mean(scores):.3f} +- {statistics.stdev(scores):.3f}" == "0.625 +- 0.125"


def test_the_gap_is_taken_run_by_run() -> None:
    """Its spread is not what the spreads of the two losses suggest."""
    runs = [row(train_loss=0.25, validation_loss=0.75), row(train_loss=0.5, validation_loss=1.0)]
    (line,) = summarise(runs)
    assert (line["gap"], line["train loss"]) == ("0.500 +- 0.000", "0.375 +- 0.177")


def test_each_line_says_what_it_was_scored_on() -> None:
    upper = row("bilora", scored_on="d2", validation_loss=None, d2_loss=0.5)
    [alone] = summarise([upper])
    assert (alone["scored on"], alone["D2 loss"]) == ("D2, trained on above", "0.500")
    assert not {"validation loss", "gap"} & set(alone)
    first, second = summarise([upper, row("lora", scored_on="validation")])
    assert list(first) == list(second)
    assert (first["gap"], second["gap"], second["D2 loss"]) == ("-", "0.500", "-")


@pytest.mark.parametrize("scores", [[None], [0.5, None], [None, 0.5]])
def test_undefined_is_not_averaged_over(scores: list[float | None]) -> None:
    (line,) = summarise([row(score=score, validation_loss=score) for score in scores])
    assert (line["accuracy"], line["validation loss"], line["gap"]) == ("undefined",) * 3
    assert line["train loss"].startswith("0.250")


def test_the_printed_table_is_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """However long the method's name and however narrow the default of a pipe."""
    long = "a_package_with_a_long_name.a_module_with_a_long_name:A_VARIANT"
    runs = [row(long, peak_memory_mb=123456.0, seconds=12345.0) for _ in range(2)]
    print_table(runs, title="rotten_tomatoes: 2 seeds")
    printed = capsys.readouterr().out
    assert "rotten_tomatoes: 2 seeds" in printed
    for cell in summarise(runs)[0].values():
        assert f" {cell} " in printed
    assert "…" not in printed


def test_a_table_of_many_columns_keeps_them_within_eighty_characters(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"class": f"class {c}", **{f"measure {m}": f"{c}.{m:03}" for m in range(12)}} for c in range(12)]
    print_cells(lines, title="by class")
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for line in lines:
        for cell in line.values():
            assert f" {cell} " in printed
    # Each part says which line is whose.
    parts = printed.count("┏")
    assert parts == 2 and printed.count(" measure 3 ") == parts


def test_a_terminal_keeps_its_own_width(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("TERM", "dumb")
    print_table([row()], title="a title")
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 90
