"""The contract of every kind of task, each on a task of its own."""

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import TaskType
from transformers import AutoTokenizer, BertConfig, GPT2Config, PretrainedConfig

from bilora.data.rows import Rows, check_rows
from bilora.errors import DataError, SettingsError
from bilora.models.embedded import embedded_model_folder
from bilora.tasks.catalog import ALL_TASKS, Task
from bilora.tasks.generation.task import GenerationTask
from bilora.tasks.kinds import TASK_FILE, TASK_KINDS, find_kind, hub_names_of, kind_of, read_task, write_task
from bilora.tasks.multilabel.task import MultilabelTask
from bilora.tasks.task import AnyTask, Inference
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
        Task("toy", ("text",), ("no", "yes")), [{"text": "a " * (1 + n % 4), "label": n % 2} for n in range(7)], ENCODER
    ),
    "tokens": Example(
        TokenTask("toy", ("O", "B-x", "I-x")),
        [{"tokens": ["a"] * (1 + n % 4), "tags": ["B-x", "I-x", "O", "O"][: 1 + n % 4]} for n in range(7)],
        ENCODER,
    ),
    "multilabel": Example(
        MultilabelTask("toy", ("text",), ("big", "red")),
        [{"text": "a " * (1 + n % 4), "label": ["big"] * (n & 1) + ["red"] * (n >> 1 & 1)} for n in range(7)],
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
    yield {"text": encoder, "tokens": encoder, "multilabel": encoder, "generation": causal_tokenizer}
    causal_tokenizer.pad_token = None


def made(name: str) -> tuple[AnyTask, Rows]:
    example = EXAMPLES[name]
    checked = check_rows(enumerate(example.rows, start=1), example.task, source="toy.jsonl", split="train")
    return example.task.with_settings(example.settings), checked


def model_of(name: str, task: AnyTask) -> Any:
    torch.manual_seed(0)
    config = EXAMPLES[name].config(**task.model_settings)
    return getattr(transformers, task.hub_names.auto_class).from_config(config).train()


@pytest.mark.parametrize("name", TASK_KINDS)
def test_names_that_peft_and_the_run_know(name: str) -> None:
    task, _ = made(name)
    assert task.hub_names.peft in [task_type.value for task_type in TaskType]
    assert hub_names_of(task.hub_names.peft) == task.hub_names
    assert isinstance(task, AnyTask) and kind_of(task) == name
    assert {kind_of(task) for task in ALL_TASKS.values()} <= set(TASK_KINDS)


@pytest.mark.parametrize("name", TASK_KINDS)
def test_evaluations(name: str, tokenizers: dict[str, Any]) -> None:
    """All of them leave the model's mode, need no order of the rows, and give what the run asks for."""
    task, rows = made(name)
    tokenizer, model = tokenizers[name], model_of(name, task)
    data, inference = task.encode(rows, tokenizer, max_length=16), Inference(model, tokenizer)
    assert data.rows is rows
    batch = task.collator(tokenizer)(data.encoded)
    assert batch["input_ids"].shape[0] == len(data.encoded)
    assert model(**batch).loss.ndim == 0 and model(**batch).loss.requires_grad
    validated = task.validate(inference, data)
    assert task.watched.metric in validated.metrics
    assert model.training
    with torch.no_grad():
        mean_over_labels = model.eval()(**batch).loss.item()
    assert validated.metrics["loss"] == pytest.approx(mean_over_labels, rel=1e-5)
    evaluated = task.evaluate(inference, data, validated)
    assert not model.training
    assert {"loss", task.metric} <= set(evaluated.metrics)
    assert evaluated.metrics["loss"] == validated.metrics["loss"]
    json.dumps([evaluated.metrics, evaluated.predictions], allow_nan=False)
    assert evaluated.predictions is not None and len(evaluated.predictions) == len(rows)
    backwards = task.encode(rows.select(range(len(rows))[::-1]), tokenizer, max_length=16)
    assert task.evaluate(inference, backwards).metrics == pytest.approx(evaluated.metrics, rel=1e-6)


def test_classes_are_counted_by_name() -> None:
    counts = {name: made(name)[0].class_counts(made(name)[1]) for name in ("text", "tokens")}
    assert counts == {"text": {"no": 4, "yes": 3}, "tokens": {"O": 4, "B-x": 7, "I-x": 5}}
    with pytest.raises(SettingsError, match="generates texts and has no classes"):
        made("generation")[0].class_counts(made("generation")[1])
    with pytest.raises(SettingsError, match="task 'own' predicts a number and has no classes to count"):
        Task("own", ("text",), None, metric="pearson").class_counts(made("text")[1])


def test_task_types_and_settings_that_are_none() -> None:
    with pytest.raises(SettingsError, match="task_type 'clasification' is unknown; .* Did you mean 'classification'"):
        find_kind("clasification")
    with pytest.raises(SettingsError, match="task_type 'json:loads' is no class of tasks"):
        find_kind("json:loads")
    with pytest.raises(SettingsError, match="task_settings of task 'toy' has no setting 'beams'; known: none."):
        EXAMPLES["text"].task.with_settings({"beams": 4})


OWN = Task("mail", ("subject", "body"), ("ham", "spam"), label_field="kind", labels_from="mail.csv")


@pytest.mark.parametrize(
    "task", [*ALL_TASKS.values(), OWN, *(example.task for example in EXAMPLES.values())], ids=lambda task: task.name
)
def test_a_task_comes_back_as_it_was(task: Any, tmp_path: Path) -> None:
    write_task(tmp_path, task, max_length=77)
    assert read_task(tmp_path) == (task, 77)


def test_the_file_is_strict_json_and_earlier_versions_wrote_tasks_of_texts_by_name(tmp_path: Path) -> None:
    write_task(tmp_path, OWN, max_length=8)
    read = json.loads((tmp_path / TASK_FILE).read_text(encoding="utf-8"))
    assert (read["kind"], read["task"]["label_names"]) == ("text", ["ham", "spam"])
    earlier = '{"kind": "generation", "max_length": 77, "task": {"name": "e2e"}}'
    (tmp_path / TASK_FILE).write_text(earlier, encoding="utf-8")
    assert read_task(tmp_path) == (ALL_TASKS["e2e"], 77)


NO_TASKS = (
    *("", "[]", "{}", '{"kind": "text", "max_length": 8, "task": {"name": "a"}}'),
    '{"kind": "text", "max_length": 8, "task": {"name": "a", "text_fields": [], "label_names": null}}',
    '{"kind": "os:system", "max_length": 8, "task": {"name": "os:system"}}',
)


@pytest.mark.parametrize("content", NO_TASKS)
def test_what_is_no_task_is_refused_and_named(content: str, tmp_path: Path) -> None:
    (tmp_path / TASK_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=TASK_FILE):
        read_task(tmp_path)
