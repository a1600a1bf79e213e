"""Rows 18, 21 and 22: rows that are left out, one answer to everything, and rows on both sides."""

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from bilora.data.rows import Rows, check_rows
from bilora.data.sets import TaskRows
from bilora.engines.settings import LevelSettings
from bilora.engines.training.result import FitResult
from bilora.engines.training.split_loaders import SplitLoaders
from bilora.errors import DataError
from bilora.models.embedded import embedded_model_folder
from bilora.runs.config import RunConfig
from bilora.runs.evaluation import Evaluation
from bilora.runs.plan import plan_run, shared_by_levels
from bilora.tasks.catalog import TASKS, Task
from bilora.tasks.labelled_files import load_labelled_files
from bilora.tasks.labels import LabelledFiles
from bilora.tasks.task import AnyTask, Inference
from bilora.tasks.tokens.task import TokenTask

SST2 = TASKS["sst2"]


Load = Callable[..., TaskRows]
TEXTS = [json.dumps({"text": f"text {place}", "y": "ab"[place % 2]}).encode() for place in range(20)]
NUMBERS = [json.dumps({"text": f"text {place}", "y": place / 2}).encode() for place in range(20)]
TAGS = [json.dumps({"text": ["in", f"Rome {place}"], "y": ["O", "B-town"]}).encode() for place in range(20)]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write lines to a file, and load it without its bad rows."""

    def write_and_load(lines: list[bytes], on_bad_row: Any = "skip", **options: Any) -> TaskRows:
        (tmp_path / "train.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        files = {"label_column": "y", "on_bad_row": on_bad_row, **options}
        return load_labelled_files(LabelledFiles(str(tmp_path / "train.jsonl"), ("text",), **files))

    return write_and_load


@pytest.mark.parametrize(
    ("good", "line", "why"),
    [
        (TEXTS, b'{"text": "cut', ": is not a JSON object"),
        (TEXTS, b"", ": the line is blank"),
        (TEXTS, b'{"text": 5, "y": "a"}', " field 'text': is 5"),
        (TEXTS, b'{"y": "a"}', " field 'text': is missing"),
        (TEXTS, b'{"text": "x"}', " field 'y': is missing"),
        (TEXTS, b'{"text": "caf\xe9", "y": "a"}', ": byte .* is not UTF-8"),
        (TEXTS, b'{"text": " ", "y": "never seen"}', " field 'text': is empty"),
        (TEXTS, b'{"text": "x", "y": NaN}', " field 'y': NaN is not a JSON value"),
        (TEXTS, b'{"text": "x", "y": ["a", "b"]}', " field 'y': is .*; every row needs a label"),
        (NUMBERS, b'{"text": "x", "y": "much"}', " field 'y': is 'much'"),
        (NUMBERS, b'{"text": "x", "y": null}', " field 'y': is None"),
        (TAGS, b'{"text": ["in", "Rome"], "y": ["O"]}', " field 'y': has 1 tags for 2 tokens"),
        (TAGS, b'{"text": "in Rome", "y": "O"}', " field 'text': is 'in Rome'"),
    ],
)
def test_row_18_a_bad_row_is_left_out_and_counted(load: Load, good: list[bytes], line: bytes, why: str) -> None:
    before = load(good)
    said = rf"train\.jsonl: 1 of 21 rows is left out \(on_bad_row: skip\)\n  \S+train\.jsonl:3{why}"
    with pytest.warns(RuntimeWarning, match=said) as told:
        rows = load([*good[:2], line, *good[2:]])
    assert len(told) == 1
    assert (rows.task, before.skipped) == (before.task, {})
    assert list(rows.skipped.items()) == [(rows.train.source, 1)]
    assert sorted((*rows.train.ids, *rows.validation["validation"].ids)) == [0, 1, *range(3, 21)]
    with pytest.raises(DataError, match=f"train.jsonl:3{why}"):
        load([*good[:2], line, *good[2:]], "error", task_type="regression" if good is NUMBERS else None)


def test_row_18_five_are_named_and_the_rest_is_counted(load: Load, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_bytes(b"\n".join([TEXTS[0], b'{"text": "new", "y": "a"}', *[b"cut"] * 7]))
    with pytest.warns(RuntimeWarning, match="own.jsonl: 7 of 9 rows are left out") as told:
        rows = load(TEXTS, validation=str(tmp_path / "own.jsonl"))
    lines = str(told[0].message).splitlines()
    assert ([each.count("own.jsonl:") for each in lines[1:6]], lines[6:]) == ([1] * 5, ["  and 2 more"])
    assert (len(rows.train), len(rows.validation["validation"])) == (20, 2)
    assert rows.skipped == {str(tmp_path / "own.jsonl"): 7}


@pytest.mark.parametrize("lines", [[b"cut"] * 3, [b'{"text": " ", "y": "a"}', b'{"text": " ", "y": "b"}']])
def test_row_18_a_file_of_bad_rows_is_refused_as_one_without_rows(load: Load, lines: list[bytes]) -> None:
    with pytest.raises(DataError, match=rf"train\.jsonl: no row can be used: {len(lines)} faults in the rows\n  .*:1"):
        load(lines)


class Constant(nn.Module):
    """Finds class 1 wherever it is asked."""

    def __init__(self, *, each_token: bool) -> None:
        super().__init__()
        self.each_token = each_token
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        shape = (*input_ids.shape, 2) if self.each_token else (len(input_ids), 2)
        return SimpleNamespace(logits=torch.tensor([0.0, 1.0]).expand(shape))


TEXT = Task("toy", ("text",), ("no", "yes"))
TOKENS = TokenTask("toy", ("NOUN", "VERB"), tokens_field="text", tags_field="label")


@pytest.mark.parametrize(
    ("task", "label", "said"),
    [
        (TEXT, 0, "own: all 2 rows are predicted as 'yes', and they are of 2 classes; .*--class-weights auto"),
        (TEXT, 1, None),
        (TOKENS, ["NOUN", "VERB"], "own: all 3 tokens are predicted as 'VERB', and they are of 2 classes"),
        (TOKENS, ["VERB", "VERB"], None),
    ],
    ids=["rows", "rows of one class", "tokens", "tokens of one tag"],
)
def test_row_21_one_class_for_all_is_told_once(task: AnyTask, label: Any, said: str | None) -> None:
    per_token = isinstance(label, list)
    pairs = [{"text": ["to", "go"], "label": label}, {"text": ["go"], "label": ["VERB"]}]
    texts = pairs if per_token else [{"text": "a", "label": label}, {"text": "b", "label": 1}]
    rows = check_rows(enumerate(texts, 1), task, source="toy", split="validation")
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder())
    data = task.encode(rows, tokenizer, max_length=16)
    model = Constant(each_token=per_token)
    evaluation = Evaluation(Inference(model, tokenizer), task=task, train=data, validation={"own": data})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RuntimeWarning)
        evaluation.validation()
        evaluation.final(FitResult(4, 2, None, None, (), 1.0, None))
    assert [re.search(said or "", str(each.message)) is not None for each in told] == [True] * (said is not None)


def rows_of(texts: list[str]) -> Rows:
    pairs = [{"sentence": text, "label": place % 2} for place, text in enumerate(texts)]
    return check_rows(enumerate(pairs, start=1), SST2, source="toy", split="train")


@pytest.mark.parametrize("repeat", [1, 2, 40])
def test_row_22_texts_in_d1_and_d2_are_counted(repeat: int) -> None:
    rows = rows_of([f"text {place // repeat}" + " " * (place % 3) for place in range(40)])
    runs = [RunConfig(task="sst2", seed=seed, upper=LevelSettings(batch_size=4)) for seed in range(3)]
    shared = []
    for config in runs:
        examples = [{"labels": row["label"]} for row in rows]
        (split,) = SplitLoaders(examples, config, collate=list).splits
        below = {place // repeat for place in split.lower}
        shared.append(sum(place // repeat in below for place in split.upper))
    sets = TaskRows(SST2, rows, {"validation": rows})
    told = shared_by_levels([plan_run(run, sets) for run in runs])
    count = f"{min(shared)} to {max(shared)}" if min(shared) < max(shared) else f"{max(shared)}"
    said = f"{count} of 8 rows of D2 have the text of a row of D1"
    assert [notice.split(",")[0] for notice in told] == [said][: max(shared)]
    assert shared_by_levels([plan_run(RunConfig(task="sst2", method="lora"), sets)]) == ()


def test_row_22_the_very_same_rows_are_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "train.jsonl")
    for name in ("train.jsonl", "link.jsonl"):
        with pytest.raises(DataError, match=f"{name}:1 is a row of training and of validation, as 20 of 20 validation"):
            load(TEXTS, validation=str(tmp_path / name))
