"""``bilora evaluate``, ``predict``, ``export`` and ``merge`` on one trained run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bilora.commands.evaluate import EVALUATE
from bilora.commands.export import EXPORT, MERGE
from bilora.commands.predict import PREDICT
from bilora.commands.verb import Verb
from bilora.errors import CheckpointError
from bilora.runs.trained import open_trained


def ran(verb: Verb, *words: object) -> int:
    try:
        return verb.run([str(word) for word in words])
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def predictions(command_run: Any, review_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    output = tmp_path_factory.mktemp("predictions") / "out.jsonl"
    assert ran(PREDICT, command_run.folder, "--file", review_file, "--output", output) == 0
    return read(output)


def test_the_runs_own_d2_gives_the_score_of_the_run(command_run: Any, tmp_path: Path) -> None:
    assert ran(EVALUATE, command_run.folder, "--output", tmp_path / "metrics.json") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    results = json.loads((command_run.folder / "all_results.json").read_text(encoding="utf-8"))
    assert metrics["rows"] == 24
    assert metrics["accuracy"] == results["score"]
    assert metrics["loss"] == pytest.approx(results["d2_loss"], abs=1e-6)


def test_evaluation_of_a_file_agrees_with_the_predictions(
    command_run: Any, review_file: Path, tmp_path: Path, predictions: list[dict[str, Any]]
) -> None:
    assert ran(EVALUATE, command_run.folder / "lora", "--data", review_file, "--output", tmp_path / "a.json") == 0
    metrics = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    rows = read(review_file)
    right = sum(row["label"] == each["prediction"] for row, each in zip(rows, predictions, strict=True))
    assert metrics["accuracy"] == right / 120
    chances = [each["probabilities"][row["label"]] for row, each in zip(rows, predictions, strict=True)]
    assert metrics["loss"] == pytest.approx(-sum(torch.tensor(chances).log().tolist()) / 120, abs=1e-5)


def test_predictions_are_those_of_the_model_row_by_row(
    command_run: Any, tiny_encoder: Path, review_file: Path, predictions: list[dict[str, Any]]
) -> None:
    """Against the model alone, one row at a time and in the order of the file."""
    base = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=2)
    model = PeftModel.from_pretrained(base, str(command_run.folder / "adapter")).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    assert [each["row"] for each in predictions] == list(range(120))
    for row, each in list(zip(read(review_file), predictions, strict=True))[:20]:
        tokens = tokenizer(row["text"], truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            wanted = model(**tokens).logits.softmax(dim=-1)[0].tolist()
        assert list(each["probabilities"].values()) == pytest.approx(wanted, abs=1e-5)
        assert each["prediction"] == ("negative", "positive")[wanted[1] > wanted[0]]


@pytest.mark.parametrize("label", [None, -1, "unknown"])
def test_labels_may_be_missing_or_mean_nothing(
    label: Any, command_run: Any, review_file: Path, tmp_path: Path, predictions: list[dict[str, Any]]
) -> None:
    rows = [{"text": row["text"]} | ({} if label is None else {"label": label}) for row in read(review_file)[:5]]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert ran(PREDICT, command_run.folder, "--file", path, "--output", tmp_path / "out.jsonl") == 0
    for one, other in zip(read(tmp_path / "out.jsonl"), predictions, strict=False):
        assert one["prediction"] == other["prediction"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


def test_a_row_without_text_is_named(command_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n{"body": "fine"}\n', encoding="utf-8")
    assert ran(PREDICT, command_run.folder, "--file", path) == 2
    assert "rows.jsonl:2 field 'text': is missing" in capsys.readouterr().err


def test_predictions_are_printed_without_an_output(
    command_run: Any, review_file: Path, capsys: pytest.CaptureFixture[str], predictions: list[dict[str, Any]]
) -> None:
    assert ran(PREDICT, command_run.folder, "--file", review_file) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == predictions


def test_an_export_predicts_the_same_and_a_cut_one_has_the_rank(
    command_run: Any, review_file: Path, tmp_path: Path, predictions: list[dict[str, Any]]
) -> None:
    assert ran(EXPORT, command_run.folder, "--output", tmp_path / "whole") == 0
    assert ran(PREDICT, tmp_path / "whole", "--file", review_file, "--output", tmp_path / "out.jsonl") == 0
    for one, other in zip(read(tmp_path / "out.jsonl"), predictions, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
    assert "Ranks were cut" not in (tmp_path / "whole" / "README.md").read_text(encoding="utf-8")

    assert ran(EXPORT, command_run.folder, "--output", tmp_path / "cut", "--rank", "2") == 0
    tensors = load_file(tmp_path / "cut" / "adapter_model.safetensors")
    assert {each.shape[0] for name, each in tensors.items() if "lora_A" in name} == {2}
    assert "Ranks were cut" in (tmp_path / "cut" / "README.md").read_text(encoding="utf-8")


def test_one_rank_for_all_layers_changes_no_output(
    command_run: Any, review_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, logits = {}, {}
    for name, more in (("own", ()), ("one", ("--uniform-rank",))):
        rule = ("--ranks", "{name: energy, share: 0.6}")
        assert ran(EXPORT, command_run.folder, "--output", tmp_path / name, *rule, *more) == 0
        said[name] = json.loads((tmp_path / name / "adapter_config.json").read_text(encoding="utf-8"))
        assert ("--uniform-rank pads with zeros" in capsys.readouterr().out) is (name == "own")
        assert ran(PREDICT, tmp_path / name, "--file", review_file, "--output", tmp_path / f"{name}.jsonl") == 0
        logits[name] = [each["probabilities"] for each in read(tmp_path / f"{name}.jsonl")]
    assert said["own"]["rank_pattern"]
    assert (said["one"]["rank_pattern"], said["one"]["alpha_pattern"]) == ({}, {})
    tensors = load_file(tmp_path / "one" / "adapter_model.safetensors")
    assert {each.shape[0] for name, each in tensors.items() if "lora_A" in name} == {said["one"]["r"]}
    for one, other in zip(logits["own"], logits["one"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_a_merged_model_is_a_plain_one_with_the_same_outputs(
    command_run: Any, review_file: Path, tmp_path: Path, predictions: list[dict[str, Any]]
) -> None:
    assert ran(MERGE, command_run.folder, "--output", tmp_path / "merged") == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert not any("lora" in name or "bilora" in name for name, _ in model.named_modules())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    for row, each in list(zip(read(review_file), predictions, strict=True))[:10]:
        tokens = tokenizer(row["text"], truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            wanted = model(**tokens).logits.softmax(dim=-1)[0].tolist()
        assert list(each["probabilities"].values()) == pytest.approx(wanted, abs=1e-5)
        assert model.config.id2label[int(wanted[1] > wanted[0])] == each["prediction"]


@pytest.fixture
def broken(command_run: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(command_run.folder, tmp_path / "broken"))


def test_an_adapter_with_a_missing_weight_is_refused(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = broken / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: each for name, each in tensors.items() if "bilora_P" not in name}, path)
    assert ran(EVALUATE, broken) == 2
    assert "does not fit the model" in capsys.readouterr().err


def test_an_adapter_that_is_not_finite_is_refused(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = broken / "adapter" / "adapter_model.safetensors"
    save_file({name: each * float("nan") for name, each in load_file(path).items()}, path)
    assert ran(MERGE, broken, "--output", broken / "merged") == 2
    assert "numbers that are not finite" in capsys.readouterr().err


def test_an_adapter_without_its_task_is_refused(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (broken / "adapter" / "bilora_task.json").unlink()
    assert ran(EVALUATE, broken) == 2
    assert "it says what the adapter was trained for" in capsys.readouterr().err


def test_what_cannot_be_meant_is_told(
    command_run: Any, review_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb, words, said in (
        (EVALUATE, [tmp_path / "nothing"], "is no folder"),
        (EVALUATE, [command_run.folder.parent], "it has the runs run: name one of them"),
        (EVALUATE, [command_run.folder / "lora", "--model", "no/such"], "no model can be loaded"),
        (EVALUATE, [command_run.folder, "--dta", "x"], "Did you mean '--data'?"),
        (EVALUATE, [command_run.folder, "--output", review_file], "is there already"),
        (PREDICT, [command_run.folder], "required: file"),
        (EXPORT, [command_run.folder, "--output", review_file.parent], "is not an earlier export"),
        (EXPORT, [command_run.folder, "--output", tmp_path / "a", "--rank", "0"], "it must be at least 1"),
        (EXPORT, [command_run.folder / "lora", "--output", tmp_path / "a"], "not one of BiLoRA"),
        (MERGE, [command_run.folder, "--output", review_file.parent], "is not empty"),
    ):
        assert ran(verb, *words) == 2, words
        assert said in capsys.readouterr().err, words


def test_tags_are_predicted_token_by_token(
    tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bilora.commands.train import TRAIN

    towns = ("Rome", "Ljubljana", "Oslo")
    rows = [{"tokens": ["in", towns[n % 3], "today"], "tags": ["O", "B-town", "O"]} for n in range(60)]
    path = tmp_path / "towns.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--model", tiny_encoder, "--train-file", path, "--label-column", "tags", "--output", tmp_path / "run"]
    words += ["--max-length", "8", "--steps", "20", "--device", "cpu", "--lower.learning-rate", "0.05"]
    words += ["--lower.batch-size", "8", "--upper.batch-size", "8"]
    assert ran(TRAIN, *words, "--keep-best", "false", "--early-stopping", "0") == 0, capsys.readouterr().err
    unlabelled = tmp_path / "new.jsonl"
    unlabelled.write_text('{"tokens": ["in", "Ljubljana", "today", "and", "then", "in", "Rome"]}\n', encoding="utf-8")
    assert ran(PREDICT, tmp_path / "run", "--file", unlabelled, "--output", tmp_path / "out.jsonl") == 0
    [found] = read(tmp_path / "out.jsonl")
    assert found["tokens"] == ["in", "Ljubljana", "today", "and", "then", "in", "Rome"]
    # Eight pieces hold the two special ones and six tokens: of the last one nothing is known.
    known = [tag is not None for tag in found["prediction"]]
    assert known == [chance is not None for chance in found["probabilities"]]
    assert known == [True] * 6 + [False]
    assert set(found["prediction"]) <= {"O", "B-town", None}


def test_an_adapter_is_not_opened_on_another_base_of_the_same_shapes(command_run: Any, tmp_path: Path) -> None:
    """PEFT does so without a word."""
    own = Path(command_run.words[command_run.words.index("--model") + 1])
    other = tmp_path / "other"
    shutil.copytree(own, other)
    tensors = load_file(other / "model.safetensors")
    save_file({name: each + 0.01 for name, each in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    assert open_trained(str(command_run.folder), model=str(own)).model is not None
    with pytest.raises(CheckpointError, match="was trained on another base model"):
        open_trained(str(command_run.folder), model=str(other))
