"""``bilora train`` on doubtful and trusted rows: every road to its end, and bad input told before a model loads."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bilora.commands.train import TRAIN
from bilora.commands.train_config import TrainConfig
from bilora.errors import SettingsError
from bilora.models import pretrained
from bilora.problems.catalog import DEFAULT_METHOD

# A model of one layer and eight steps may know one class only.
pytestmark = pytest.mark.filterwarnings("ignore:matthews_correlation of many is undefined")

TEXTS = {"good": "a good film with a fine plot", "bad": "a bad film with a dull plot"}
Run = Callable[..., tuple[int, str, str]]


def sentences(count: int, *, first: int = 0, names: tuple[str, ...] = ("good", "bad")) -> list[dict[str, Any]]:
    return [
        {"text": f"{TEXTS.get(name, name)} number {index}", "label": name}
        for index in range(first, first + count)
        for name in [names[index % len(names)]]
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def run(tmp_path: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command on files of rows; return its code, what it printed, and its errors."""

    def train(many: list[dict[str, Any]], few: list[dict[str, Any]] | None, *words: str) -> tuple[int, str, str]:
        given = ["--model", str(tiny_encoder), "--train-file", str(write(tmp_path / "many.csv", many))]
        if few is not None:
            given += ["--trusted-file", str(write(tmp_path / "few.csv", few))]
        given += ["--output", str(tmp_path / "run"), "--device", "cpu", "--steps", "8", "--max-length", "16"]
        code = TRAIN.run([*given, "--lower.batch-size", "4", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return train


@pytest.mark.parametrize("road", ["trusted_only", "noisy_then_trusted", "correction_then_trusted", "method"])
def test_every_road_ends_with_an_adapter(run: Run, tmp_path: Path, road: str) -> None:
    code, out, _ = run(sentences(40), sentences(20, first=100), "--road", road)
    assert code == 0
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    stages = list(dict.fromkeys(json.loads(line)["stage"] for line in lines))
    assert stages == dict.fromkeys(("trusted_only", "method"), ["bilevel", "retrain"]).get(
        road, ["bilevel", "doubtful", "trusted"]
    )
    rows = "20 training rows" if road == "trusted_only" else "36 training rows, 20 trusted ones"
    assert f"{rows}, 4 validation" in out
    assert "the validation rows are doubtful ones" in out
    issues = (tmp_path / "run" / "label_issues.csv").read_text().splitlines()
    assert issues[0] == "row,text,given_label,likely_label,confidence"
    assert f"{len(issues) - 1} of the 36 doubtful labels are likely wrong" in out


def test_a_column_of_one_file_with_weights_does_the_same(run: Run, tmp_path: Path) -> None:
    rows = [{**row, "checked": "yes" if index < 20 else "", "w": 0.5} for index, row in enumerate(sentences(60))]
    words = ("--trusted-column", "checked", "--weight-column", "w", "--road", "noisy_then_trusted")
    code, out, _ = run(rows, None, *words)
    assert code == 0
    assert "36 training rows, 20 trusted ones" in out and "noisy_then_trusted: 8 steps" in out


def test_the_default_road_is_decided_by_trials(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(sentences(40), sentences(20, first=100))
    assert code == 0
    choice = json.loads((tmp_path / "run" / "road.json").read_text())
    assert f"road: {choice['words']}" in out
    assert set(choice["right"]) == {"noisy_then_trusted", "correction_then_trusted", "trusted_only"}
    assert choice["folds"] in (2, 3) and 2 < choice["lora_runs"] <= 8 - 3.25
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["road"] == choice["road"]


def test_with_class_weights_the_trials_leave_out_the_road_that_has_none(run: Run, tmp_path: Path) -> None:
    code, _, _ = run(sentences(40), sentences(20, first=100), "--class-weights", "auto")
    assert code == 0
    choice = json.loads((tmp_path / "run" / "road.json").read_text())
    assert set(choice["right"]) == {"noisy_then_trusted", "trusted_only"}


def test_a_copy_of_a_trusted_row_is_left_out_and_said(run: Run) -> None:
    few = sentences(20, first=100)
    code, out, _ = run([*sentences(40), {**few[0], "label": "bad"}], few, "--road", "trusted_only")
    assert code == 0
    assert "1 of the doubtful rows have the text of a trusted row, 1 of them with another label" in out


BAD: dict[str, tuple[list[dict[str, Any]], tuple[str, ...], str]] = {
    "other classes": (
        sentences(20, names=("good", "bad", "ugly")),
        (),
        "'ugly' in 'label' is no class of {many}, which are: bad, good; both files need the same classes",
    ),
    "other columns": (
        [{"sentence": row["text"], "label": row["label"]} for row in sentences(20)],
        (),
        "has no column 'text'; it has: label, sentence",
    ),
    "none of a class": (
        sentences(20, first=100, names=("good",)),
        (),
        "no trusted row has the class bad; give at least one of each class",
    ),
    "too few": (sentences(8, first=100), (), "8 trusted rows are too few to judge by; give 10 or more"),
    "nothing but copies": (sentences(40), (), "every row of {many} has the text of a trusted row"),
    "no such column": (sentences(20, first=100), ("--weight-column", "w"), "has no column 'w'; it has: label, text"),
    "sources for nobody": (
        sentences(20, first=100),
        ("--source-column", "label2"),
        "source_column is 'label2', and method noisy_then_trusted learns nothing of sources; leave it out",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_trusted_rows_are_one_line_before_a_model_loads(
    run: Run, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loads(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(pretrained, "load_model", loads)
    few, words, message = BAD[case]
    code, _, err = run(sentences(40), few, "--text-columns", "text", *words)
    assert code == 2
    [line] = [line for line in err.splitlines() if line.startswith("bilora train: error: ")]
    assert message.format(many=tmp_path / "many.csv") in line
    assert not (tmp_path / "run").exists()


def test_rows_that_are_given_for_validation_leave_the_trusted_ones_together() -> None:
    config = TrainConfig(**FILES, validation_file="checked.csv").run_config(steps=40)
    # No draw of a new D2, of which the trusted rows are all; the checked ones are watched.
    assert config.refresh == 0 and config.early_stopping
    alone = {name: value for name, value in FILES.items() if name != "trusted_file"}
    assert TrainConfig(**alone, validation_file="checked.csv").run_config(steps=40).refresh == 1


def test_the_training_file_as_its_own_trusted_file(run: Run, tmp_path: Path) -> None:
    words = ("--trusted-file", str(tmp_path / "many.csv"), "--text-columns", "text")
    code, _, err = run(sentences(40), None, *words)
    assert code == 2
    assert "is the training file itself: its rows would be doubtful and trusted at once" in err


FILES = {"train_file": "many.csv", "text_columns": ["text"], "trusted_file": "few.csv"}


@pytest.mark.parametrize(
    ("changes", "road", "method"),
    [
        ({}, "auto", "noisy_then_trusted"),
        ({"road": "noisy_then_trusted"}, "noisy_then_trusted", "noisy_then_trusted"),
        ({"road": "trusted_only"}, "trusted_only", "self_tuned"),
        ({"method": "lora"}, "method", "lora"),
        ({"road": "method"}, "method", DEFAULT_METHOD),
        ({"road": "correction_then_trusted", "method": "correction_then_trusted"}, *["correction_then_trusted"] * 2),
    ],
)
def test_which_road_is_taken(changes: dict[str, Any], road: str, method: str) -> None:
    config = TrainConfig(**{**FILES, **changes})
    assert (config.road, config.method) == (road, method)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"road": "trusted_only", "method": "lora"}, "it has a method of its own, and method is 'lora'"),
        ({"trusted_column": "checked"}, "trusted_column names the same rows in another way; take one"),
        ({"trusted_file": None, "road": "trusted_only"}, "it is for trusted rows; give trusted_file or trusted_column"),
        ({"validation_share": 0.0}, "the trusted rows are D2, and trained on; give validation_file"),
        ({"trusted_file": None, "trusted_column": "text"}, "column 'text' holds text or label"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TrainConfig(**{**FILES, **changes})
