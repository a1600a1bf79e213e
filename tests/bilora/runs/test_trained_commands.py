"""``bilora evaluate``, ``predict``, ``export`` and ``merge`` on one trained run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2Model

from bilora.commands.evaluate import EVALUATE
from bilora.commands.export import EXPORT, MERGE
from bilora.commands.predict import PREDICT
from bilora.commands.train import TRAIN
from bilora.commands.verb import Verb
from bilora.errors import CheckpointError
from bilora.files.formats import load_json, read_lines
from bilora.runs.folder import remove_run
from bilora.runs.trained import open_trained

Rows = list[dict[str, Any]]
Captured = pytest.CaptureFixture[str]


def ran(verb: Verb, *words: object) -> int:
    try:
        return verb.run([str(word) for word in words])
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code


def write_lines(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@torch.no_grad()
def probabilities(model: Any, tokenizer: Any, text: str) -> list[float]:
    """Return the probabilities of one text by itself."""
    tokens = tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
    return model(**tokens).logits.softmax(dim=-1)[0].tolist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def predictions(command_run: Any, review_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    output = tmp_path_factory.mktemp("predictions") / "out.jsonl"
    assert ran(PREDICT, command_run.folder, "--file", review_file, "--output", output) == 0
    return read_lines(output)


def test_the_runs_own_d2_gives_the_score_of_the_run(command_run: Any, tmp_path: Path) -> None:
    assert ran(EVALUATE, command_run.folder, "--output", tmp_path / "metrics.json") == 0
    metrics, results = load_json(tmp_path / "metrics.json"), load_json(command_run.folder / "all_results.json")
    assert metrics["rows"] == 24
    assert metrics["accuracy"] == results["score"]
    assert metrics["loss"] == pytest.approx(results["d2_loss"], abs=1e-6)


def test_a_file_s_metrics_are_those_of_the_predictions(
    command_run: Any, review_file: Path, tmp_path: Path, predictions: Rows
) -> None:
    assert ran(EVALUATE, command_run.folder / "lora", "--data", review_file, "--output", tmp_path / "a.json") == 0
    metrics = load_json(tmp_path / "a.json")
    pairs = [(row["label"], answer) for row, answer in zip(read_lines(review_file), predictions, strict=True)]
    assert metrics["accuracy"] == sum(label == answer["prediction"] for label, answer in pairs) / 120
    chances = [answer["probabilities"][label] for label, answer in pairs]
    assert metrics["loss"] == pytest.approx(-sum(torch.tensor(chances).log().tolist()) / 120, abs=1e-5)


def test_each_answer_is_the_model_s(command_run: Any, tiny_encoder: Path, review_file: Path, predictions: Rows) -> None:
    """Against the model alone, one row at a time and in the order of the file."""
    base = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=2)
    model = PeftModel.from_pretrained(base, str(command_run.folder / "adapter")).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    assert [answer["row"] for answer in predictions] == list(range(120))
    for row, answer in list(zip(read_lines(review_file), predictions, strict=True))[:20]:
        expected = probabilities(model, tokenizer, row["text"])
        assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
        assert answer["prediction"] == ("negative", "positive")[expected[1] > expected[0]]


@pytest.mark.parametrize("label", [None, -1, "unknown"])
def test_labels_may_be_any(label: Any, command_run: Any, review_file: Path, tmp_path: Path, predictions: Rows) -> None:
    labelled = {} if label is None else {"label": label}
    rows = [{"text": row["text"], **labelled} for row in read_lines(review_file)[:5]]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    assert ran(PREDICT, command_run.folder, "--file", path, "--output", tmp_path / "out.jsonl") == 0
    for one, other in zip(read_lines(tmp_path / "out.jsonl"), predictions[:5], strict=True):
        assert one["prediction"] == other["prediction"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


def test_predictions_are_printed(command_run: Any, review_file: Path, capsys: Captured, predictions: Rows) -> None:
    assert ran(PREDICT, command_run.folder, "--file", review_file) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == predictions


def test_a_file_s_columns_may_have_other_names(
    command_run: Any, review_file: Path, tmp_path: Path, capsys: Captured
) -> None:
    rows = [
        {"number": index, "words": row["text"], "mark": row["label"]}
        for index, row in enumerate(read_lines(review_file))
    ]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    words = ["--label-column", "mark", "--output"]
    assert ran(EVALUATE, command_run.folder, "--file", path, *words, tmp_path / "a.json") == 0
    assert "has no 'text': the text is in 'words'; give --text-columns for others" in capsys.readouterr().out
    named = ["--text-columns", "words"]
    assert ran(EVALUATE, command_run.folder, "--data", path, *named, *words, tmp_path / "b.json") == 0
    assert ran(EVALUATE, command_run.folder, "--data", review_file, "--output", tmp_path / "c.json") == 0
    assert load_json(tmp_path / "a.json") == load_json(tmp_path / "b.json") == load_json(tmp_path / "c.json")


def test_an_export(command_run: Any, review_file: Path, tmp_path: Path, predictions: Rows) -> None:
    """It predicts the same, and has the rank that it is cut to."""
    assert ran(EXPORT, command_run.folder, "--output", tmp_path / "whole") == 0
    assert ran(PREDICT, tmp_path / "whole", "--file", review_file, "--output", tmp_path / "out.jsonl") == 0
    for one, other in zip(read_lines(tmp_path / "out.jsonl"), predictions, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
    assert "Ranks were cut" not in (tmp_path / "whole" / "README.md").read_text(encoding="utf-8")

    assert ran(EXPORT, command_run.folder, "--output", tmp_path / "cut", "--rank", "2") == 0
    tensors = load_file(tmp_path / "cut" / "adapter_model.safetensors")
    assert {tensor.shape[0] for name, tensor in tensors.items() if "lora_A" in name} == {2}
    assert "Ranks were cut" in (tmp_path / "cut" / "README.md").read_text(encoding="utf-8")


def test_one_rank_changes_no_output(command_run: Any, review_file: Path, tmp_path: Path, capsys: Captured) -> None:
    configs, answers = {}, {}
    for name, more in (("several", ()), ("one", ("--uniform-rank",))):
        rule = ("--ranks", "{name: energy, share: 0.8}")
        assert ran(EXPORT, command_run.folder, "--output", tmp_path / name, *rule, *more) == 0
        configs[name] = load_json(tmp_path / name / "adapter_config.json")
        assert ("--uniform-rank pads with zeros" in capsys.readouterr().out) is (name == "several")
        assert ran(PREDICT, tmp_path / name, "--file", review_file, "--output", tmp_path / f"{name}.jsonl") == 0
        answers[name] = [answer["probabilities"] for answer in read_lines(tmp_path / f"{name}.jsonl")]
    assert configs["several"]["rank_pattern"]
    assert (configs["one"]["rank_pattern"], configs["one"]["alpha_pattern"]) == ({}, {})
    tensors = load_file(tmp_path / "one" / "adapter_model.safetensors")
    assert {tensor.shape[0] for name, tensor in tensors.items() if "lora_A" in name} == {configs["one"]["r"]}
    for one, other in zip(answers["several"], answers["one"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_a_merged_model(command_run: Any, review_file: Path, tmp_path: Path, predictions: Rows) -> None:
    """It is a plain one with the same outputs."""
    assert ran(MERGE, command_run.folder, "--output", tmp_path / "merged") == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert not any("lora" in name or "bilora" in name for name, _ in model.named_modules())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    for row, answer in list(zip(read_lines(review_file), predictions, strict=True))[:10]:
        expected = probabilities(model, tokenizer, row["text"])
        assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
        assert model.config.id2label[int(expected[1] > expected[0])] == answer["prediction"]


@pytest.mark.parametrize(
    ("damaged", "verb", "message"),
    [
        (lambda name, tensor: {} if "bilora_P" in name else {name: tensor}, EVALUATE, "does not fit the model"),
        (lambda name, tensor: {name: tensor * float("nan")}, MERGE, "numbers that are not finite"),
    ],
)
def test_damages(damaged: Any, verb: Verb, message: str, command_run: Any, tmp_path: Path, capsys: Captured) -> None:
    folder = Path(shutil.copytree(command_run.folder, tmp_path / "damaged"))
    weights = folder / "adapter" / "adapter_model.safetensors"
    (folder / "adapter" / "base_fingerprint.json").unlink()  # whose hash would tell of any damage first
    parts = [damaged(name, tensor) for name, tensor in load_file(weights).items()]
    save_file({name: tensor for part in parts for name, tensor in part.items()}, weights)
    assert ran(verb, folder, "--output", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    (folder / "adapter" / "bilora_task.json").unlink()
    assert ran(verb, folder, "--output", tmp_path / "out") == 2
    assert "it says what the adapter was trained for" in capsys.readouterr().err


def test_what_cannot_be_meant_is_told(command_run: Any, review_file: Path, tmp_path: Path, capsys: Captured) -> None:
    rows = write_lines(tmp_path / "rows.jsonl", [{"text": "fine"}, {"body": "fine"}])
    for verb, words, message in (
        (EVALUATE, [tmp_path / "nothing"], "is no folder"),
        (EVALUATE, [command_run.folder.parent], "it has the runs run: name one of them"),
        (EVALUATE, [command_run.folder / "lora", "--model", "no/such"], "no model can be loaded"),
        (EVALUATE, [command_run.folder, "--dta", "x"], "Did you mean '--data'?"),
        (EVALUATE, [command_run.folder, "--output", review_file], "is there already"),
        (
            PREDICT,
            [command_run.folder, "--file", rows, "--on-bad-row", "error"],
            "rows.jsonl:2 field 'text': is missing",
        ),
        (EVALUATE, [command_run.folder, "--file", rows], "has no column 'label'"),
        (EXPORT, [command_run.folder, "--output", review_file.parent], "is not an earlier export"),
        (EXPORT, [command_run.folder, "--output", tmp_path / "a", "--rank", "0"], "it must be at least 1"),
        (EXPORT, [command_run.folder / "lora", "--output", tmp_path / "a"], "not one of BiLoRA"),
        (MERGE, [command_run.folder, "--output", review_file.parent], "is not empty"),
    ):
        assert ran(verb, *words) == 2, words
        assert message in capsys.readouterr().err, words


def test_tags_are_predicted_token_by_token(tiny_encoder: Path, tmp_path: Path, capsys: Captured) -> None:
    towns = ("Rome", "Ljubljana", "Oslo")
    rows = [{"tokens": ["in", towns[n % 3], "today"], "tags": ["O", "B-town", "O"]} for n in range(60)]
    path = write_lines(tmp_path / "towns.jsonl", rows)
    words = ["--model", tiny_encoder, "--train-file", path, "--label-column", "tags", "--output", tmp_path / "run"]
    words += ["--max-length", "8", "--steps", "20", "--device", "cpu", "--lower.learning-rate", "0.05"]
    words += ["--lower.batch-size", "8", "--upper.batch-size", "8", "--method", "bilora"]
    assert ran(TRAIN, *words, "--keep-best", "false", "--early-stopping", "0") == 0, capsys.readouterr().err
    tokens = ["in", "Ljubljana", "today", "and", "then", "in", "Rome"]
    unlabelled = write_lines(tmp_path / "new.jsonl", [{"tokens": tokens}])
    assert ran(PREDICT, tmp_path / "run", "--file", unlabelled, "--output", tmp_path / "out.jsonl") == 0
    [answer] = read_lines(tmp_path / "out.jsonl")
    assert answer["tokens"] == tokens
    # Eight pieces hold the two special ones and six tokens: of the last one nothing is known.
    known = [tag is not None for tag in answer["prediction"]]
    assert known == [chance is not None for chance in answer["probabilities"]] == [True] * 6 + [False]
    assert set(answer["prediction"]) <= {"O", "B-town", None}


def test_an_adapter_is_not_opened_on_another_base_of_the_same_shapes(command_run: Any, tmp_path: Path) -> None:
    """PEFT does so without a word."""
    base = Path(command_run.words[command_run.words.index("--model") + 1])
    other = Path(shutil.copytree(base, tmp_path / "other"))
    tensors = {name: tensor + 0.01 for name, tensor in load_file(other / "model.safetensors").items()}
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    assert open_trained(str(command_run.folder), model=str(base)).model is not None
    with pytest.raises(CheckpointError, match="was trained on another base model"):
        open_trained(str(command_run.folder), model=str(other))


def test_a_pad_token_that_was_filled_in_is_in_every_folder(
    tmp_path: Path, causal_tokenizer: Any, review_file: Path
) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    sizes = {"vocab_size": 300, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    torch.manual_seed(0)
    GPT2Model(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, initializer_range=0.5)).save_pretrained(base)
    causal_tokenizer.save_pretrained(base)
    words = ["--model", base, "--train-file", review_file, "--output", run, "--max-length", 32, "--device", "cpu"]
    words += ["--method", "bilora", "--steps", 4, "--unroll-steps", 2, "--lower.learning-rate", 0.02]
    assert ran(TRAIN, *words) == 0
    assert ran(EXPORT, run, "--output", tmp_path / "export") == 0
    assert ran(MERGE, run, "--output", tmp_path / "merged") == 0
    lines = write_lines(tmp_path / "two.jsonl", [{"text": "good"}, {"text": "a film that is not so good"}])
    assert ran(PREDICT, run / "lora", "--file", lines, "--output", tmp_path / "answers.jsonl") == 0
    wanted = [list(row["probabilities"].values()) for row in read_lines(tmp_path / "answers.jsonl")]
    for folder in (run / "adapter", run / "lora", tmp_path / "export", tmp_path / "merged"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.pad_token == "<|endoftext|>"
        if folder.name == "adapter":
            continue  # stock PEFT reads the others alone
        if folder.name == "merged":
            model: Any = AutoModelForSequenceClassification.from_pretrained(folder)
            assert model.config.pad_token_id == 0
        else:
            model = AutoModelForSequenceClassification.from_pretrained(base, pad_token_id=tokenizer.pad_token_id)
            model = PeftModel.from_pretrained(model, str(folder))
        batch = tokenizer([row["text"] for row in read_lines(lines)], padding=True, return_tensors="pt")
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(**batch).logits.softmax(-1), torch.tensor(wanted))
    assert remove_run(run) == [], "--overwrite takes the tokenizer with it"
