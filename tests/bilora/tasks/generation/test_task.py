"""The kind of data-to-text tasks: which sets are read, what is scored, and what is written of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import bilora.tasks.generation.task
from bilora.data.rows import Rows, check_rows
from bilora.errors import SettingsError
from bilora.metrics.texts import score_texts, text_metric
from bilora.tasks.catalog import GENERATION_TASKS
from bilora.tasks.generation.decoding import Decoding
from bilora.tasks.generation.task import GenerationSettings, GenerationTask
from bilora.tasks.task import Evaluated, Inference

E2E = GENERATION_TASKS["e2e"]
TEXTS = {"A": ["A is a pub.", "There is a pub, A."], "Blue": ["Blue is a café."], "C": ["C serves fish."]}


@pytest.fixture
def rows() -> Rows:
    rows = [{"id": name, "mr": f"name[{name}]", "references": texts} for name, texts in TEXTS.items()]
    return check_rows(enumerate(rows, start=1), E2E, source="toy", split="test")


def test_a_part_of_the_scored_set_is_the_same_each_time_and_told(real_data: Path) -> None:
    once, twice = (E2E.with_settings({"generate_rows": 7}).load_rows(str(real_data)) for _ in range(2))
    assert once.validation["test"].ids == twice.validation["test"].ids
    assert (len(once.train), len(once.validation["test"])) == (4862, 7)
    assert once.notices[-1] == "7 of the 630 test rows are scored"


def test_settings_come_from_the_section_of_a_config() -> None:
    task = E2E.with_settings({"beams": 4, "metrics": ["ter", "bleu"]})
    assert task.decoding == Decoding(beams=4, length_penalty=0.9)
    assert (task.metric, task.other_metrics, task.greater_is_better) == ("ter", ("bleu",), False)
    assert GENERATION_TASKS["dart"].decoding.length_penalty == 0.8
    assert E2E.with_settings({"length_penalty": 1.5}).decoding.length_penalty == 1.5
    with pytest.raises(SettingsError, match="metric 'rouge' is unknown"):
        E2E.with_settings({"metrics": ["rouge"]})
    with pytest.raises(SettingsError, match="name one more than once"):
        GenerationTask("toy", other_metrics=("bleu",))


def test_a_row_makes_as_many_examples_as_it_has_references_and_cuts_are_told(rows: Rows, causal_tokenizer: Any) -> None:
    whole = E2E.encode(rows, causal_tokenizer, max_length=96)
    groups = [example["group"] for example in whole.encoded]
    assert [groups.count(group) for group in range(3)] == [E2E.examples_of(row) for row in rows]
    assert whole.notices == ()
    most = max(len(example["input_ids"]) for example in whole.encoded) - 1
    notices = E2E.encode(rows, causal_tokenizer, max_length=most).notices
    assert notices == (f"1 of 4 texts of toy are cut at max_length {most}",)


def test_the_loss_may_be_of_the_first_references_only(rows: Rows, model: Any, tokenizer: Any) -> None:
    alone = [(1, {**row, "references": row["references"][:1]}) for row in rows]
    first = check_rows(alone, E2E, source="first", split="test")

    def loss(some: Rows, **settings: Any) -> Any:
        data = E2E.encode(some, tokenizer, max_length=96)
        return E2E.with_settings(settings).validate(Inference(model, tokenizer), data).metrics["loss"]

    assert loss(rows, loss_references=1) == pytest.approx(loss(first), rel=1e-6)
    assert loss(rows) != pytest.approx(loss(first), rel=1e-4)


def test_evaluation_gives_scores_texts_and_files(
    rows: Rows, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, inference = E2E.encode(rows, tokenizer, max_length=96), Inference(model, tokenizer)
    outputs = ["A is a pub.", "Blue is a bar.", "C sells fish."]

    def decode(inference: Inference, sources: Sequence[str], *_: Any) -> list[str]:
        assert list(sources) == ["name : A", "name : Blue", "name : C"]
        return outputs

    monkeypatch.setattr(bilora.tasks.generation.task, "decode", decode)
    evaluated = E2E.evaluate(inference, data)
    expected = E2E.validate(inference, data).metrics
    expected |= score_texts([text_metric(key) for key in E2E.metric_keys], outputs, list(TEXTS.values()))
    assert evaluated.metrics == expected
    assert evaluated.predictions is not None
    blue = {
        "id": "Blue",
        "line": 2,
        "source": "name : Blue",
        "output": "Blue is a bar.",
        "references": ["Blue is a café."],
    }
    assert evaluated.predictions[1] == blue
    assert evaluated.files["outputs.txt"] == "A is a pub.\nBlue is a bar.\nC sells fish.\n"
    assert evaluated.files["references.txt"] == "A is a pub.\nThere is a pub, A.\n\nBlue is a café.\n\nC serves fish.\n"
    assert json.loads(evaluated.files["scores.json"])["metrics"] == expected
    # A validation of the same parameters is not taken twice.
    monkeypatch.setattr(GenerationTask, "validate", None)
    metrics = E2E.evaluate(inference, data, Evaluated({"loss": 1.25, "perplexity": 3.5})).metrics
    assert (metrics["loss"], metrics["perplexity"]) == (1.25, 3.5)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"d2": "test"}, "d2 is 'test', allowed: validation, split"),
        ({"metrics": []}, r"metrics is \[\], give at least one, each once"),
        ({"metrics": ["bleu", "bleu"]}, "give at least one, each once"),
        ({"generate_rows": 0}, "generate_rows is 0, it must be at least 1, or none for all"),
        ({"loss_references": 0}, "loss_references is 0, it must be at least 1, or none for all"),
        ({"generate_batch": 0}, "batch_size is 0"),
    ],
)
def test_bad_settings_are_refused(bad: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        GenerationSettings(**bad)
