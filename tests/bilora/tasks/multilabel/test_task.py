"""Texts with any number of labels: how they are read, scored and answered, without a training."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from bilora.data.rows import check_rows
from bilora.data.sets import TaskRows
from bilora.data.split import split_rows
from bilora.errors import DataError, SettingsError
from bilora.tasks.labelled_files import load_labelled_files
from bilora.tasks.labels import LabelledFiles
from bilora.tasks.multilabel.task import MultilabelTask
from bilora.tasks.task import EncodedRows, Inference

TASK = MultilabelTask("toy", ("text",), ("big", "red"))
ROWS = [("a", ["big"]), ("a b c", ["red", "big"]), ("a b", []), ("a b c d", ["red"])]
LABELS = [["a"], ["a", "b"], [], ["b"]]


class Scripted(nn.Module):
    """Logits by the length of the text."""

    def __init__(self, logits: dict[int, tuple[float, float]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.logits = logits

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=torch.tensor([self.logits[int(mask.sum()) - 2] for mask in attention_mask]))


# Text lengths 1 to 4: right, one label too few, one too many, right.
MODEL = Scripted({1: (2.0, -1.0), 3: (-0.5, 3.0), 2: (-1.0, 0.25), 4: (-4.0, 1.0)})


@pytest.fixture
def data(tokenizer: Any) -> EncodedRows:
    rows = [{"text": text, "label": labels} for text, labels in ROWS]
    return TASK.encode(check_rows(enumerate(rows, 1), TASK, source="toy", split="train"), tokenizer, max_length=16)


def test_loss_metrics_and_table_are_those_by_hand(data: EncodedRows, tokenizer: Any) -> None:
    evaluated = TASK.evaluate(Inference(MODEL, tokenizer), data)
    pairs = [(2.0, 1), (-1.0, 0), (-0.5, 1), (3.0, 1), (-1.0, 0), (0.25, 0), (-4.0, 0), (1.0, 1)]
    losses = [math.log1p(math.exp(-logit if label else logit)) for logit, label in pairs]
    assert evaluated.metrics["loss"] == pytest.approx(sum(losses) / 8, rel=1e-7)
    # big: one found of two, none wrong; red: both found, one wrong.
    assert evaluated.metrics["micro_f1"] == pytest.approx(2 * 3 / (4 + 4))
    assert evaluated.metrics["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert evaluated.metrics["subset_accuracy"] == 0.5
    table = [(row["label"], row["support"], row["recall"]) for row in evaluated.table]
    assert table == [("big", 2, 0.5), ("red", 2, 1.0)]
    assert json.loads(evaluated.files["labels.json"]) == list(evaluated.table)
    assert evaluated.predictions is not None
    chances = evaluated.predictions[1].pop("probabilities")
    second = {"id": 1, "line": 2, "text": ROWS[1][0], "label": ["big", "red"], "prediction": ["red"]}
    assert evaluated.predictions[1] == second
    assert chances == pytest.approx({"big": 1 / (1 + math.exp(0.5)), "red": 1 / (1 + math.exp(-3))}, abs=1e-6)
    assert [row["prediction"] for row in evaluated.predictions] == [["big"], ["red"], ["red"], ["red"]]
    score = TASK.rescored(evaluated.predictions)
    assert (score(numpy.arange(4)), score(numpy.array([0, 0]))) == (evaluated.metrics["micro_f1"], 1.0)


def test_thresholds_move_what_is_given(data: EncodedRows, tokenizer: Any) -> None:
    task = TASK.with_settings({"thresholds": {"big": 0.3, "red": 0.6}})
    evaluated = task.evaluate(Inference(MODEL, tokenizer), data)
    assert evaluated.metrics["subset_accuracy"] == 1.0
    assert MultilabelTask.from_dict(json.loads(json.dumps(task.to_dict()))) == task
    answers, _ = task.answers(Inference(MODEL, tokenizer), data.rows, max_length=16)
    assert [answer["prediction"] for answer in answers] == [["big"], ["big", "red"], [], ["red"]]
    assert answers[0]["probabilities"] == pytest.approx({"big": 1 / (1 + math.exp(-2)), "red": 1 / (1 + math.exp(1))})
    with pytest.raises(SettingsError, match="thresholds names 'rde', which is no label; known: big, red. Did you mean"):
        TASK.with_settings({"thresholds": {"rde": 0.4}})
    with pytest.raises(SettingsError, match=r"thresholds are \(1.5, 1.5\); give one per label, between 0 and 1"):
        TASK.with_settings({"thresholds": 1.5})


def test_no_label_at_all_is_told_and_weights_are_of_labels(data: EncodedRows, tokenizer: Any) -> None:
    evaluated = TASK.evaluate(Inference(Scripted(dict.fromkeys((1, 2, 3, 4), (-1.0, -1.0))), tokenizer), data)
    assert evaluated.notices[0].startswith("none of the 4 rows gets a label")
    batch = TASK.collator(tokenizer)(data.encoded)
    assert batch["labels"].tolist() == [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    assert "stratum" not in batch
    logits = torch.tensor([[2.0, -1.0]] * 4)
    alone = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], batch["labels"][:, 0])
    assert TASK.loss(logits, batch["labels"], torch.tensor([3.0, 0.0])) == pytest.approx(alone.item())
    assert TASK.class_counts(data.rows) == {"big": 2, "red": 2}


Load = Callable[..., TaskRows]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def write_and_load(name: str, content: str, **options: Any) -> TaskRows:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return load_labelled_files(LabelledFiles(str(tmp_path / name), ("text",), validation_share=0.0, **options))

    return write_and_load


LINES = "".join(json.dumps({"text": f"text {n}", "label": LABELS[n % 4]}) + "\n" for n in range(20))
CELLS = "text,label\n" + "".join(f"text {n},{' | '.join(LABELS[n % 4])}\n" for n in range(20))
COLUMNS = "text,a,b\n" + "".join(f"text {n},{'a' in LABELS[n % 4]:d},{'b' in LABELS[n % 4]:d}\n" for n in range(20))


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("rows.jsonl", LINES, {}),
        ("rows.csv", CELLS, {"label_separator": "|"}),
        ("rows.csv", COLUMNS, {"label_columns": ("a", "b")}),
    ],
    ids=["lists", "one cell", "columns"],
)
def test_every_form_makes_the_same_rows(load: Load, tmp_path: Path, name: str, content: str, options: Any) -> None:
    rows = load(name, content, **options)
    task = rows.task
    assert isinstance(task, MultilabelTask) and (task.label_names, task.metric) == (("a", "b"), "micro_f1")
    assert rows.train.labels[:4] == (frozenset({0}), frozenset({0, 1}), frozenset(), frozenset({1}))
    assert "make it multilabel_classification; to choose another, give --task-type" in rows.notices[0]
    assert task.read_rows(str(tmp_path / name), labelled=True).labels == rows.train.labels
    bare = tmp_path / f"bare-{name}"
    bare.write_text("text\nfine\n" if name.endswith("csv") else '{"text": "fine"}\n', encoding="utf-8")
    assert [row["text"] for row in task.read_rows(str(bare), labelled=False)] == ["fine"]


def test_faults_name_file_line_and_field(load: Load) -> None:
    with pytest.raises(DataError, match=r"rows.csv:3 field 'b': is '2'; a column of one label holds 0 or 1"):
        load("rows.csv", COLUMNS.replace("text 1,1,1", "text 1,1,2"), label_columns=("a", "b"))
    with pytest.raises(DataError, match=r"rows.jsonl:3 field 'label': is None .*; a list of labels is needed"):
        load("rows.jsonl", LINES.replace("[]", "null", 1))
    with pytest.raises(DataError, match="the labels in 'label' are no lists; .* as a text with --label-separator"):
        load("rows.csv", CELLS, task_type="multilabel_classification")
    with pytest.raises(SettingsError, match="label_separator is '', it must not be empty"):
        load("rows.csv", CELLS, label_separator="")
    task = MultilabelTask("toy", ("text",), ("a", "b"), labels_from="rows.csv")
    _, faults = task.check_row({"text": "fine", "label": ["c"]})
    assert faults[0].text == "has 'c', which is no label of rows.csv; those are: a, b"


def test_rare_labels_are_in_both_parts_and_few_rows_suffice() -> None:
    labels = [frozenset({0})] * 90 + [frozenset({0, 1})] * 8 + [frozenset({0, 2})] * 2
    for seed in range(5):
        split = split_rows(labels, ratio=0.8, seed=seed)
        for part in (split.lower, split.upper):
            assert frozenset().union(*(labels[position] for position in part)) == {0, 1, 2}
    # More labels than D2 has rows, and labels that a single row has.
    alone = [frozenset({label}) for label in range(10)]
    assert len(split_rows(alone, ratio=0.8, seed=0).upper) == 2
