"""The tables and the files of a comparison, from lines made by hand."""

from pathlib import Path
from typing import Any

import pytest

from bilora.compare.lines import Line
from bilora.compare.written import cells, markdown_table, notes, print_comparison, write_rows, write_section
from bilora.runs.statistics import Wilcoxon
from bilora.runs.table import Spread


def line(label: str = "bilora", **changed: Any) -> Line:
    values: dict[str, Any] = {
        **{"metric": "accuracy", "seeds": 6, "failed": 0, "score": Spread(0.75, 0.0127), "difference": 0.0254},
        **{"interval": (-0.01, 0.06), "row_interval": None, "test": Wilcoxon(0.03125, 0.03125), "gap": None},
        **{"train_loss": Spread(0.25, None), "seconds": Spread(61.4, 2.0), "peak_memory_mb": Spread(812.0, None)},
        **{"reach": Spread(30.0, 1.0), "reached": 4, "parameters": 12345, "steps": 150},
        "candidate": {"lower.learning_rate": 0.003, "refresh": 1},
    }
    return Line(label, **{**values, **changed})


def test_cells_of_a_line() -> None:
    assert cells(line()) == {
        **{"method": "bilora", "seeds": "6", "accuracy": "0.750 ± 0.013", "difference": "+0.025"},
        **{"95% over seeds": "-0.010 to +0.060", "over seeds and rows": "", "Wilcoxon p": "0.0312"},
        **{"train loss": "0.250", "gap": "undefined", "seconds": "61 ± 2", "to baseline's best": "30 s (4/6)"},
        **{"peak MB": "812", "parameters": "12,345", "steps": "150"},
        "chosen": "lower.learning_rate 0.003, refresh 1",
    }


def test_what_is_not_there_is_empty_or_said() -> None:
    nothing = dict.fromkeys(("difference", "interval", "test", "reach", "parameters", "steps"))
    texts = cells(line(**nothing, failed=2))
    assert {texts[name] for name in ("difference", "95% over seeds", "Wilcoxon p", "parameters", "steps")} == {""}
    assert (texts["to baseline's best"], texts["seeds"]) == ("never", "6 (2 diverged)")


@pytest.mark.parametrize(("smallest", "count"), [(0.0625, 1), (0.03125, 0)])
def test_a_test_that_cannot_tell_is_noted(smallest: float, count: int) -> None:
    assert len(notes([line(test=Wilcoxon(0.5, smallest))])) == count
    assert ("too few" in cells(line(test=Wilcoxon(0.5, smallest)))["Wilcoxon p"]) is bool(count)


def test_tables_show_labels_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison([line("[red]bilora[/red]")], title="mrpc")
    printed = capsys.readouterr().out
    assert "[red]bilora[/red]" in printed
    assert "12,345" not in printed
    *_, last = markdown_table([line("a|b")], ["method", "seeds"]).splitlines()
    assert last == "| a\\|b | 6 |"


def test_csv_has_no_column_for_what_is_nested_elsewhere(tmp_path: Path) -> None:
    write_rows(tmp_path / "a", [{"x": None, "y": [1, 2]}, {"x": {"mean": 0.5}, "y": float("nan")}])
    assert (tmp_path / "a.csv").read_text().splitlines() == ["y,x.mean", '"[1, 2]",', ",0.5"]
    assert '"y": null' in (tmp_path / "a.jsonl").read_text()


def test_a_section_is_written_anew_and_the_rest_of_the_document_stays(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "results.md"
    write_section(path, "one", name="mrpc")
    write_section(path, "two", name="cola")
    path.write_text("# Results\n\n" + path.read_text() + "\nWhy so.\n")
    write_section(path, "three", name="mrpc")
    text = path.read_text()
    assert text.startswith("# Results\n\n<!-- comparison mrpc -->\nthree\n<!-- end of comparison mrpc -->\n")
    assert "two" in text
    assert "one" not in text
    assert text.endswith("\nWhy so.\n")
