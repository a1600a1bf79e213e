"""``bilora check-labels``: wrong labels found by both judges, a run that goes on, and bad input in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from bilora.commands.check_labels import CHECK_LABELS, CheckLabelsConfig, check_labels
from bilora.errors import SettingsError
from bilora.runs import out_of_sample
from bilora.runs.label_issues import read_issues

TEXTS = {"good": "a wonderful and moving film", "bad": "a dull and tedious mess"}
WRONG = (4, 17)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Sixty sentences of two kinds, two of them under the other label."""
    rows = []
    for index in range(60):
        name = "good" if index % 2 else "bad"
        label = {"good": "bad", "bad": "good"}[name] if index in WRONG else name
        rows.append(json.dumps({"text": TEXTS[name] + "!" * (index % 3), "label": label}) + "\n")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(rows), encoding="utf-8")
    return path


def test_embeddings_find_them_and_the_command_says_where(
    file: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(file), "--model", str(tiny_encoder), "--max-length", "16", "--device", "cpu"]
    assert CHECK_LABELS.run(words) == 0
    output = file.with_name("rows-label_issues.csv")
    out = capsys.readouterr().out
    assert "60 rows of 2 classes, in 5 folds, judged by embeddings" in out
    assert f"the most suspicious first: {output}" in out
    issues = read_issues(output)
    assert {issue.row - 1 for issue in issues[:2]} == set(WRONG)
    assert {(issue.given, issue.likely) for issue in issues[:2]} == {("good", "bad"), ("bad", "good")}
    assert not output.with_name(f"{output.name}.parts").exists()
    # It is not written over.
    assert CHECK_LABELS.run(words) == 2


def test_a_stopped_run_goes_on_with_what_it_had(
    file: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out_of_sample, "PART", 25)
    config = CheckLabelsConfig(str(file), model=str(tiny_encoder), max_length=16, device="cpu")
    embedded, calls = out_of_sample._embedded, list[int]()

    def stopping(model: Any, rows: list[Any], *more: Any) -> Any:
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embedded(model, rows, *more)

    monkeypatch.setattr(out_of_sample, "_embedded", stopping)
    with pytest.raises(KeyboardInterrupt):
        check_labels(config)
    output = check_labels(config)
    assert calls == [25, 25, 10, 10]
    first = output.read_text()
    output.unlink()
    monkeypatch.setattr(out_of_sample, "_embedded", embedded)
    assert check_labels(config).read_text() == first


def test_trainings_judge_each_fold(file: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out.csv")
    config = CheckLabelsConfig(
        str(file), by="training", folds=2, epochs=1, model=str(tiny_encoder), max_length=16, device="cpu", output=output
    )
    check_labels(config)
    assert all(0 <= issue.confidence <= 1 for issue in read_issues(Path(output)))


def test_bad_input(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert CHECK_LABELS.run([str(tmp_path / "none.csv")]) == 2
    assert CHECK_LABELS.run([str(file), "--label-column", "y"]) == 2
    assert "has no column 'y'; it has: label, text" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="folds is 1: it must be at least 2|folds is 1, it must be at least 2"):
        CheckLabelsConfig("rows.csv", folds=1)
