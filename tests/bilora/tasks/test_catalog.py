import pytest

import bilora.tasks.catalog
from bilora.errors import SettingsError
from bilora.tasks.catalog import TASKS, Task, find_task

# Written out from the data set cards on the hub and the official metric table of GLUE, not from the code.
GLUE = {
    "cola": (("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",)),
    "sst2": (("sentence",), ("negative", "positive"), ("accuracy",)),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("accuracy", "f1")),
    "stsb": (("sentence1", "sentence2"), None, ("pearson", "spearmanr")),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
    "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), ("accuracy",)),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment"), ("accuracy",)),
    "rte": (("sentence1", "sentence2"), ("entailment", "not_entailment"), ("accuracy",)),
    "wnli": (("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",)),
}
OWN = Task("own", ("body",), ("no", "yes", "maybe"))


@pytest.mark.parametrize("name", GLUE)
def test_glue_fields_labels_and_metrics(name: str) -> None:
    task = find_task(name)
    assert (task.text_fields, task.label_names, task.metric_keys) == GLUE[name]
    assert task.hub == "nyu-mll/glue" and task.name == name and task.greater_is_better


def test_the_table_holds_glue_and_the_embedded_default() -> None:
    assert set(TASKS) == {*GLUE, "rotten_tomatoes"}
    assert find_task("rotten_tomatoes").label_names == ("negative", "positive")
    twofold = {name: task.validation_splits for name, task in TASKS.items() if len(task.validation_splits) > 1}
    assert twofold == {"mnli": ("validation_matched", "validation_mismatched")}
    assert {name: task.num_labels for name, task in TASKS.items() if task.num_labels != 2} == {"mnli": 3, "stsb": 1}
    assert [name for name, task in TASKS.items() if task.is_regression] == ["stsb"]


def test_own_task_by_path_and_what_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bilora.tasks.catalog, "OWN", OWN, raising=False)
    assert find_task("bilora.tasks.catalog:OWN") is OWN
    with pytest.raises(SettingsError, match=r"task 'mrcp' is unknown; known: cola, .*Did you mean 'mrpc'"):
        find_task("mrcp")
    with pytest.raises(SettingsError, match=r"'bilora.tasks.catalog:TASKS' is a dict; it must be a bilora.tasks.Task"):
        find_task("bilora.tasks.catalog:TASKS")


def test_all_faults_of_a_task_are_told_together() -> None:
    with pytest.raises(SettingsError, match="text_fields.*label_names.*label_range.*splits"):
        Task("bad", (), ("one",), validation_splits=(), label_range=(0.0, 1.0))
    for fields in (("label",), ("a", "b", "c")):
        with pytest.raises(SettingsError, match="text_fields"):
            Task("bad", fields, ("no", "yes"))
