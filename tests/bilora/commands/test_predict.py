"""Texts for rows without a target: the ones that an evaluation finds, whatever the file's layout."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from bilora import BiloraConfig
from bilora.commands import predict as predict_command
from bilora.commands.predict import PREDICT
from bilora.models.pretrained import Tokenizer
from bilora.runs.trained import Trained
from bilora.tasks.catalog import GENERATION_TASKS

E2E = GENERATION_TASKS["e2e"]
NAMES = ("A", "Blue", "The Vaults", "C")


@pytest.fixture
def trained(causal_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trained]:
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 96}
    base = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.5, bos_token_id=0, eos_token_id=0))
    model = get_peft_model(base, BiloraConfig(task_type="CAUSAL_LM", r=2, init_weights=False)).eval()
    task = E2E.with_settings({"beams": 2, "max_new_tokens": 6, "metrics": ["bleu"]})
    causal_tokenizer.pad_token = causal_tokenizer.eos_token
    adapter = Trained(Path("adapter"), task, Tokenizer("tiny", causal_tokenizer), model, 96)
    monkeypatch.setattr(predict_command, "open_trained", lambda *_, **__: adapter)
    yield adapter
    causal_tokenizer.pad_token = None


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_rows_without_a_target_get_the_texts_of_an_evaluation(trained: Trained, tmp_path: Path) -> None:
    bare, output = [{"mr": f"name[{name}]"} for name in NAMES], tmp_path / "out.jsonl"
    assert PREDICT.run(["run", "--file", write(tmp_path / "bare.jsonl", *bare), "--output", str(output)]) == 0
    answers = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    full = write(tmp_path / "full.jsonl", *({**row, "references": ["A pub."]} for row in bare))
    data = trained.task.encode(trained.task.read_rows(full, labelled=True), trained.tokenizer.own, max_length=96)
    evaluated = trained.task.evaluate(trained.inference, data).predictions
    assert evaluated is not None
    assert [(answer["row"], answer["source"], answer["prediction"]) for answer in answers] == [
        (number, prediction["source"], prediction["output"]) for number, prediction in enumerate(evaluated)
    ]
    assert len({answer["prediction"] for answer in answers}) > 1


def test_targets_that_are_there_are_not_looked_at(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('mr,ref\n"name[A]",""\n"name[Blue]",A pub.\n', encoding="utf-8")
    rows = trained.task.read_rows(str(path), labelled=False)
    assert [row["source"] for row in rows] == ["name : A", "name : Blue"]


@pytest.mark.usefixtures("trained")
def test_a_row_without_an_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        PREDICT.run(
            ["run", "--file", write(tmp_path / "rows.jsonl", {"mr": "name[A]"}, {"text": "A"}), "--on-bad-row", "error"]
        )
        == 2
    )
    assert "rows.jsonl:2: holds the input in no known field" in capsys.readouterr().err
    assert PREDICT.run(["run", "--file", str(tmp_path / "rows.doc")]) == 2
    assert "other forms are not read" in capsys.readouterr().err
