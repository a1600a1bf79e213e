"""Row ids and sources in the batches of every kind of task, and what a companion may know of the rows."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from bilora.data.row_marks import MarkingCollate, NumberedRows, TrainingRows, without_marks
from bilora.data.rows import check_rows
from bilora.errors import DataError
from bilora.models import embedded_model_folder
from bilora.tasks.generation.task import GenerationTask
from bilora.tasks.multilabel.task import MultilabelTask
from bilora.tasks.task import AnyTask
from bilora.tasks.text.task import TextTask
from bilora.tasks.tokens.task import TokenTask

ROWS: dict[str, tuple[Callable[[], AnyTask], list[dict[str, Any]], int]] = {
    "text": (
        lambda: TextTask("toy", ("text",), ("no", "yes")),
        [{"text": f"word {index}", "label": index % 2} for index in range(3)],
        3,
    ),
    "multilabel": (
        lambda: MultilabelTask("toy", ("text",), ("no", "yes")),
        [{"text": f"word {index}", "label": ["no"]} for index in range(3)],
        3,
    ),
    "tokens": (
        lambda: TokenTask("toy", ("O", "B-x")),
        [{"tokens": ["a", "b", "c"][: index + 1], "tags": ["O"] * (index + 1)} for index in range(3)],
        3,
    ),
    "generation": (
        lambda: GenerationTask("toy"),
        [{"source": f"name : {index}", "references": ["It is.", "It was."]} for index in range(3)],
        6,  # an example per reference
    ),
}


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_of_task_has_them(kind: str, causal_tokenizer: Any) -> None:
    make, given, examples = ROWS[kind]
    task = make()
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder())
    if kind == "generation":
        tokenizer = deepcopy(causal_tokenizer)  # other tests want the one without a pad token
        tokenizer.pad_token = tokenizer.eos_token
    rows = check_rows(enumerate(given, start=1), task, source="toy", split="train")
    encoded = task.encode(rows, tokenizer, max_length=32).encoded
    assert len(encoded) == examples
    collate = task.collator(tokenizer)
    sourced = [{**row, "source": "web" if index else "experts"} for index, row in enumerate(encoded)]
    marking = MarkingCollate(collate, ("row_ids", "sources"), ("experts", "web"))
    chosen = [2, 0, 1]
    batch, plain = marking([NumberedRows(sourced)[index] for index in chosen]), collate([encoded[i] for i in chosen])
    assert batch["row_ids"].tolist() == chosen and batch["row_ids"].dtype == torch.int64
    assert batch["sources"].tolist() == [1, 0, 1]
    bare = without_marks(batch)
    assert bare.keys() == plain.keys()
    assert all(torch.equal(bare[name], plain[name]) for name in plain)


def test_only_what_was_asked_for() -> None:
    rows = NumberedRows([{"labels": 1, "source": "web"}], first=5)
    collate = lambda rows: {"labels": torch.tensor([row["labels"] for row in rows])}  # noqa: E731
    assert set(MarkingCollate(collate, ("row_ids",), ("web",))(list(rows))) == {"labels", "row_ids"}
    assert MarkingCollate(collate, ("row_ids", "sources"))(list(rows))["row_ids"].tolist() == [5]
    assert set(MarkingCollate(collate, ("sources",))(list(rows))) == {"labels"}  # no row names a source


@pytest.mark.parametrize(
    ("labels", "counts"),
    [([0, 1, 1], (1, 2, 0)), ([0, -100, 1], ()), ([0.0, 1.0], ()), ([[0, 1], [1]], ()), ([None, 0], ())],
)
def test_classes_are_counted_where_each_row_has_one(labels: list[Any], counts: tuple[int, ...]) -> None:
    rows = [{"labels": label} for label in labels]
    assert TrainingRows.of(rows, classes=3) == TrainingRows(len(rows), counts)


def test_a_row_without_a_source_among_others() -> None:
    rows = [{"labels": 0, "source": "web"}, {"labels": 1}]
    with pytest.raises(DataError, match="training row 1 has no 'source', and others have one; name that of every row"):
        TrainingRows.of(rows)
