"""Files of one's own from end to end: string labels, pairs, quantities, weights, and what is refused."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

pytestmark = pytest.mark.usefixtures("in_tmp_path")


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def mail(count: int) -> list[dict[str, Any]]:
    """One in five is spam; every text has a line break and a comma inside."""
    return [
        {"subject": f"hello {i}", "body": f"win,\nnow {i}" if i % 5 == 0 else f"see, you\n{i}", "kind": kind}
        for i in range(count)
        for kind in ("spam" if i % 5 == 0 else "ham",)
    ]


# A tiny model may find one class only at a validation, and its correlation is then undefined.
@pytest.mark.filterwarnings("ignore::bilora.metrics.metric.UndefinedMetricWarning")
def test_string_labels_and_weights(run_command: Any, read_results: Any, small: list[str], tmp_path: Path) -> None:
    words = ["--train-file", write(tmp_path / "mail.csv", mail(80)), "--text-columns", "subject,body"]
    words += ["--label-column", "kind", "--method", "bilora", "adalora", "--seeds", "0"]
    losses = {}
    for weights in ("none", "auto"):
        out = tmp_path / weights
        ended = run_command([*small, *words, "--class-weights", weights, "--output", str(out)])
        assert (ended.code, ended.err) == (0, "")
        assert "note: the labels in 'kind' of" in ended.out
        assert "note: validation is 8 of the 80 rows" in ended.out
        results = read_results(out)
        assert [(row["task"], row["metric"]) for row in results] == [("mail", "accuracy")] * 2
        assert set(results[0]["metrics"]) == {"loss", "accuracy", "macro_f1", "matthews_correlation"}
        run = out / "bilora-seed0"
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses[weights] = [lines[0]["lower_loss"], *(each["upper_loss"] for each in lines if "upper_loss" in each)]
        assert json.loads((run / "label_map.json").read_text(encoding="utf-8")) == {"ham": 0, "spam": 1}
        assert AutoConfig.from_pretrained(run / "adapter").id2label == {0: "ham", 1: "spam"}
    assert losses["auto"][0] != losses["none"][0], "the lower level is weighted from its first step"
    assert losses["auto"][1] != losses["none"][1], "so is the upper level"


def test_quantities_with_a_validation_file(
    run_command: Any, read_results: Any, small: list[str], tmp_path: Path
) -> None:
    rows = [{"text": f"text {i}", "stars": i / 7} for i in range(60)]
    files = ["--train-file", write(tmp_path / "train.csv", rows[:48]), "--validation-file"]
    files += [write(tmp_path / "other.csv", rows[48:]), "--text-columns", "text", "--label-column", "stars"]
    out = tmp_path / "out"
    ended = run_command([*small, *files, "--method", "lora", "--seeds", "0", "--output", str(out)])
    assert (ended.code, ended.err) == (0, "")
    (row,) = read_results(out)
    assert (row["task"], row["metric"], set(row["metrics"])) == ("train", "pearson", {"loss", "pearson", "spearmanr"})
    assert not (out / "lora-seed0" / "label_map.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--label-column", "kinds"], "has no column 'kinds'; it has: body, kind, subject"),
        (
            ["--label-column", "kind", "--validation-file", "new.csv"],
            "new.csv:4 field 'kind': is 'eggs', which is no label",
        ),
    ],
)
def test_what_is_refused_before_a_model_is_read(
    run_command: Any, small: list[str], tmp_path: Path, words: list[str], said: str
) -> None:
    write(tmp_path / "new.csv", [{"subject": "a", "body": "b\nc", "kind": kind} for kind in ("ham", "eggs")])
    files = ["--train-file", write(tmp_path / "mail.csv", mail(80)), "--text-columns", "subject", "body"]
    ended = run_command([*small, "--model", "org/model", *files, *words, "--output", "out"])
    assert ended.code == 2
    assert said in ended.err
    assert not (tmp_path / "out").exists()
