"""Labels that are likely wrong: their ranking, the file of them, and the folds that judge them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from bilora.data.rows import Rows, check_rows
from bilora.data.sets import TaskRows
from bilora.errors import DataError
from bilora.runs import out_of_sample
from bilora.runs.config import RunConfig
from bilora.runs.label_issues import LabelIssue, class_names, find_issues, read_issues, suspicion, write_issues
from bilora.runs.out_of_sample import folds_of
from bilora.tasks.text.task import TextTask

TASK = TextTask("toy", ("text",), ("no", "yes"))


def rows(labels: list[int]) -> Rows:
    given = [{"text": f"text {index}", "label": label} for index, label in enumerate(labels)]
    return check_rows(enumerate(given, start=2), TASK, source="rows.csv", split="train")


def test_the_most_doubtful_label_comes_first() -> None:
    labels = [0, 1] * 20
    believed = numpy.full(40, 0.9)
    believed[[3, 8]] = 0.05, 0.02  # what the model believes of the labels that are wrong
    believed[12] = 0.55  # and of one that is hard
    chances = numpy.where(numpy.eye(2)[labels] == 1, believed[:, None], 1 - believed[:, None])
    assert find_issues(rows(labels), TASK, chances) == [
        LabelIssue(10, "text 8", "no", "yes", pytest.approx(0.98)),
        LabelIssue(5, "text 3", "yes", "no", pytest.approx(0.95)),
    ]
    numpy.testing.assert_allclose(suspicion(labels, chances), 1 - believed)


def test_the_file_of_them(tmp_path: Path) -> None:
    issues = [LabelIssue(10, 'said "a, b"\nand c', "no", "yes", 0.98), LabelIssue(5, "text 3", "yes", "no", 0.95)]
    write_issues(tmp_path / "label_issues.csv", issues)
    assert (tmp_path / "label_issues.csv").read_text().startswith("row,text,given_label,likely_label,confidence\n10,")
    assert read_issues(tmp_path / "label_issues.csv") == issues


def test_each_row_is_judged_once_by_others_of_every_class() -> None:
    labels = [0] * 12 + [1] * 3
    folds = folds_of(rows(labels), 5, names=("no", "yes"), seed=0)
    assert len(folds) == 3  # no more than the smallest class has rows
    assert sorted(row for _, judge in folds for row in judge) == list(range(15))
    for learn, judge in folds:
        assert not set(learn) & set(judge) and {labels[row] for row in judge} == {0, 1}


def test_a_class_of_one_row_cannot_be_judged() -> None:
    with pytest.raises(DataError, match="rows.csv: class yes has one row, whose label no other row can judge"):
        folds_of(rows([0] * 12 + [1]), 5, names=("no", "yes"), seed=0)


def test_a_class_within_one_group_cannot_be_judged() -> None:
    grouped = dataclasses.replace(rows([0] * 6 + [1] * 6), groups=tuple("aaaaaabbbbbb"))
    with pytest.raises(DataError, match=r"rows.csv: class no, yes has all its rows in groups that are judged together"):
        folds_of(grouped, 2, names=("no", "yes"), seed=0)


@pytest.mark.parametrize("changed", [{"model": "other"}, {"revision": "main"}, {"max_length": 8}, {"folds": 3}, {}])
def test_only_parts_of_the_same_run_are_read_again(
    changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[list[int]] = []

    def train(config: RunConfig, rows: Any, learn: list[int], judge: list[int]) -> torch.Tensor:
        trained.append(judge)
        return torch.full((len(judge), 2), 0.5)

    monkeypatch.setattr(out_of_sample, "_trained", train)
    given = TaskRows(TASK, rows([0, 1] * 6), {})
    for settings in ({}, changed):
        folds = folds_of(given.train, settings.get("folds", 2), names=("no", "yes"), seed=0)
        config = RunConfig(**{"model": "one", **{name: of for name, of in settings.items() if name != "folds"}})
        out_of_sample.by_training(config, given, folds, parts=tmp_path)
    assert len(trained) == 2 + (changed.get("folds", 2) if changed else 0)


def test_rows_without_one_class_each() -> None:
    numbers: Any = TextTask("n", ("text",), None, metric="pearson")
    with pytest.raises(DataError, match="labels are checked where each row has one class, and those of task 'n'"):
        class_names(numbers)
