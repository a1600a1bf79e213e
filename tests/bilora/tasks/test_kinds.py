"""The contract of every kind of task, each on a task of its own."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from peft import TaskType
from transformers import AutoTokenizer, BertConfig, GPT2Config, PretrainedConfig

from bilora.data.rows import Rows, check_rows
from bilora.errors import SettingsError
from bilora.tasks.catalog import ALL_TASKS, Task
from bilora.tasks.embedded import embedded_model_folder
from bilora.tasks.generation.task import GenerationTask
from bilora.tasks.kind import TaskKind
from bilora.tasks.kinds import KINDS, build_kind
from bilora.tasks.task import AnyTask
from bilora.tasks.tokens.task import TokenTask


@dataclass(frozen=True)
class Example:
    """A task of a kind, rows of it of different lengths of which the last is not the longest, and a tiny model."""

    task: AnyTask
    rows: list[dict[str, Any]]
    config: Callable[..., PretrainedConfig]
    settings: dict[str, Any] = field(default_factory=dict)


ENCODER = functools.partial(
    BertConfig, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, initializer_range=0.5
)
DECODER = functools.partial(
    GPT2Config, vocab_size=300, n_embd=8, n_layer=1, n_head=2, n_positions=64, initializer_range=0.5, eos_token_id=0
)
EXAMPLES: dict[str, Example] = {
    "text": Example(
        Task("toy", ("text",), ("no", "yes")),
        [{"text": "a " * (1 + place % 4), "label": place % 2} for place in range(7)],
        ENCODER,
    ),
    "tokens": Example(
        TokenTask("toy", ("O", "B-x", "I-x")),
        [{"tokens": ["a"] * (1 + n % 4), "tags": ["B-x", "I-x", "O", "O"][: 1 + n % 4]} for n in range(7)],
        ENCODER,
    ),
    "generation": Example(
        GenerationTask("toy", metric="chrf"),
        [{"id": n, "source": f"x : {n}", "references": ["a " * (1 + n % 4), "b"]} for n in range(7)],
        DECODER,
        {"beams": 1, "max_new_tokens": 4},
    ),
}


@pytest.fixture(scope="module")
def tokenizers(causal_tokenizer: Any) -> Iterator[dict[str, Any]]:
    """The tokenizer that goes with the model of each kind."""
    encoder = AutoTokenizer.from_pretrained(embedded_model_folder())
    causal_tokenizer.pad_token = causal_tokenizer.eos_token
    yield {"text": encoder, "tokens": encoder, "generation": causal_tokenizer}
    causal_tokenizer.pad_token = None


def made(name: str) -> tuple[TaskKind, Rows]:
    example = EXAMPLES[name]
    checked = check_rows(enumerate(example.rows, start=1), example.task, source="toy.jsonl", split="train")
    return build_kind(example.task, example.settings), checked


def model_of(name: str, kind: TaskKind) -> Any:
    torch.manual_seed(0)
    config = EXAMPLES[name].config(**kind.model_settings)
    return kind.model_class.from_config(config).train()


def test_there_is_an_example_of_every_kind() -> None:
    assert set(EXAMPLES) == set(KINDS)
    assert {task.kind for task in ALL_TASKS.values()} <= set(KINDS)
    assert all(example.task.kind == name for name, example in EXAMPLES.items())


@pytest.mark.parametrize("name", KINDS)
def test_names_that_peft_and_the_run_know(name: str) -> None:
    kind, _ = made(name)
    assert kind.task_type in [each.value for each in TaskType]
    assert isinstance(kind.task, AnyTask)


@pytest.mark.parametrize("name", KINDS)
def test_rows_become_batches_with_a_loss(name: str, tokenizers: dict[str, Any]) -> None:
    kind, rows = made(name)
    tokenizer = tokenizers[name]
    data = kind.encode(rows, tokenizer, max_length=16)
    assert data.rows is rows
    batch = kind.collate(tokenizer)(data.encoded)
    assert batch["input_ids"].shape[0] == len(data.encoded)
    loss = model_of(name, kind)(**batch).loss
    assert loss.ndim == 0
    assert loss.requires_grad


@pytest.mark.parametrize("name", KINDS)
def test_evaluations(name: str, tokenizers: dict[str, Any]) -> None:
    """All of them leave the model's mode, need no order of the rows, and give what the run asks for."""
    kind, rows = made(name)
    tokenizer = tokenizers[name]
    model, data = model_of(name, kind), kind.encode(rows, tokenizer, max_length=16)
    validated = kind.validate(model, data, tokenizer, autocast_dtype=None)
    assert validated["loss"] is not None
    assert kind.watched.metric in validated
    assert model.training
    found = kind.evaluate(model, data, tokenizer, autocast_dtype=None, validated=validated)
    assert {"loss", kind.task.metric} <= set(found.metrics)
    assert found.metrics["loss"] == validated["loss"]
    assert model.training
    json.dumps(found.metrics, allow_nan=False)
    if found.predictions is not None:
        assert len(found.predictions) == len(rows)
        json.dumps(found.predictions, allow_nan=False)
    backwards = rows.select(range(len(rows) - 1, -1, -1))
    again = kind.evaluate(
        model, kind.encode(backwards, tokenizer, max_length=16), tokenizer, autocast_dtype=None, validated=None
    )
    assert again.metrics == pytest.approx(found.metrics, rel=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_is_the_mean_over_all_labels(name: str, tokenizers: dict[str, Any]) -> None:
    kind, rows = made(name)
    tokenizer = tokenizers[name]
    model = model_of(name, kind).eval()
    data = kind.encode(rows, tokenizer, max_length=16)
    with torch.no_grad():
        expected = model(**kind.collate(tokenizer)(data.encoded)).loss.item()
    assert kind.validate(model, data, tokenizer, autocast_dtype=None)["loss"] == pytest.approx(expected, rel=1e-5)


def test_classes_are_counted_by_name() -> None:
    assert made("text")[0].class_counts(made("text")[1]) == {"no": 4, "yes": 3}
    assert made("tokens")[0].class_counts(made("tokens")[1]) == {"O": 4, "B-x": 7, "I-x": 5}
    with pytest.raises(SettingsError, match="generates texts and has no classes"):
        made("generation")[0].class_counts(made("generation")[1])
    with pytest.raises(SettingsError, match="task 'own' predicts a number and has no classes to count"):
        build_kind(Task("own", ("text",), None, metric="pearson")).class_counts(made("text")[1])


def test_a_kind_of_the_user_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from bilora.tasks import kinds as task_kinds

    monkeypatch.setattr(task_kinds, "OWN", KINDS["text"], raising=False)
    task = Task("own", ("text",), ("no", "yes"))
    monkeypatch.setattr(Task, "kind", "bilora.tasks.kinds:OWN")
    assert build_kind(task).task is task
    monkeypatch.setattr(Task, "kind", "texts")
    with pytest.raises(SettingsError, match="kind of task 'texts' is unknown; .* Did you mean 'text'"):
        build_kind(task)
