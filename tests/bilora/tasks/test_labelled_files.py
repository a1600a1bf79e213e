import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from bilora.data.sets import TaskRows
from bilora.errors import DataError, SettingsError
from bilora.tasks.catalog import Task
from bilora.tasks.labelled_files import load_labelled_files
from bilora.tasks.labels import LabelledFiles
from bilora.tasks.tokens.task import TokenTask

Load = Callable[..., TaskRows]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write rows to a file of a form, and load it."""

    def write_and_load(rows: list[dict[str, Any]], form: str = "jsonl", **options: Any) -> TaskRows:
        path = tmp_path / f"mine.{form}"
        if form == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        elif form == "parquet":
            datasets.Dataset.from_list(rows).to_parquet(path)
        else:
            lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
            path.write_text("\n".join(lines), encoding="utf-8")
        chosen = {"text_columns": ("text",), "label_column": "y", **options}
        return load_labelled_files(LabelledFiles(str(path), **chosen))

    return write_and_load


def labelled(labels: list[Any]) -> list[dict[str, Any]]:
    return [{"text": f"text {place}", "y": label} for place, label in enumerate(labels)]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["spam", "ham"] * 10, ("ham", "spam")),
        ([0, 1] * 10, ("0", "1")),
        ([5, 3, 1] * 10, ("1", "3", "5")),
        ([10, 9, 2] * 10, ("2", "9", "10")),
        ([-1, 1] * 10, ("-1", "1")),
        ([0.5, 2.0] * 10, None),
        (list(range(30)), None),
    ],
    ids=["text", "zero and one", "with gaps", "by number", "minus one", "floats", "many numbers"],
)
def test_labels_make_the_task_in_every_form(load: Load, form: str, labels: list[Any], names: Any) -> None:
    rows = load(labelled(labels), form)
    assert isinstance(rows.task, Task)
    assert (rows.task.name, rows.task.label_names) == ("mine", names)
    both = [*rows.train, *rows.validation["validation"]]
    for row in both:
        label = labels[int(row["text"].split()[1])]
        assert row["label"] == (float(label) if names is None else names.index(str(label)))
        assert type(row["label"]) is (float if names is None else int)
    assert len(both) == len(labels)


def test_truth_values_numbers_not_written_as_one_and_pairs_of_texts(load: Load) -> None:
    assert load(labelled([True, False] * 10)).task.label_names == ("False", "True")  # type: ignore[attr-defined]
    assert load(labelled(["007", "7"] * 10), "csv").task.label_names == ("007", "7")  # type: ignore[attr-defined]
    rows = [{"a": f"x {i}", "b": f"y {i}", "y": i % 2} for i in range(20)]
    assert load(rows, "csv", text_columns=("a", "b")).task.text_fields == ("a", "b")  # type: ignore[attr-defined]


def test_the_user_decides_otherwise(load: Load) -> None:
    ratings = labelled([1, 2, 3, 4, 5] * 6)
    for form in ("jsonl", "csv"):
        rows = load(ratings, form, task_type="regression")
        assert isinstance(rows.task, Task) and rows.task.is_regression
        assert rows.train.labels[0] == float(rows.train[0]["y"])
        assert rows.notices[0].startswith("validation is 3 of the 30 rows")
        assert load(ratings, form).notices[0].endswith("make it classification; to choose another, give --task-type")


@pytest.mark.parametrize(("tokens", "tags"), [("text", "y"), ("tokens", "label")])
def test_lists_of_tags_make_a_task_of_tokens(load: Load, tokens: str, tags: str) -> None:
    pair = [{tokens: ["in", "Rome"], tags: ["O", "B-town"]}, {tokens: ["New", "York"], tags: ["B-town", "I-town"]}]
    rows = load(pair * 5, text_columns=(tokens,), label_column=tags)
    assert isinstance(rows.task, TokenTask)
    assert rows.task.label_names == ("O", "B-town", "I-town")
    assert rows.train[0][tags] == (0, 1)
    assert rows.train.labels == (None,) * 9


def test_rare_classes_and_texts_in_both_files_are_told_and_a_label_that_training_has_not_is_named(
    load: Load, tmp_path: Path
) -> None:
    rows = load(labelled(["a"] * 30 + ["b", "b", "c"]), validation_share=0.5)
    assert rows.train.labels.count(1) == 2, "classes of two rows stay in training"
    told = "class 'c' has one training row: it is learned from, and no other row judges what is learned; add rows of it"
    assert told in rows.notices
    other = tmp_path / "other.csv"
    other.write_text("text,y\ntext 0,a\nnew,b\n", encoding="utf-8")
    notices = load(labelled(["a", "b"] * 10), validation=str(other)).notices
    assert "1 of 2 validation rows have the text of a training row" in notices
    other.write_text('text,y\n"two\nlines",a\nplain,c\nplain,1\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load(labelled(["a", "b"] * 10), validation=str(other))
    cure = f"which is no label of {tmp_path / 'mine.jsonl'}; those are: a, b"
    faults = [f"  {other}:4 field 'y': is 'c', {cure}", f"  {other}:5 field 'y': is 1, {cure}"]
    assert str(caught.value).split("\n")[1:] == faults


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_missing_labels_and_texts_are_named_by_file_line_and_field(load: Load, form: str, tmp_path: Path) -> None:
    rows = labelled(["a", "b"] * 10)
    rows[3]["y"] = "" if form == "csv" else None
    rows[5]["text"] = ""
    with pytest.raises(DataError) as caught:
        load(rows, form)
    first, label = (2, "''") if form == "csv" else (1, "None")
    path = tmp_path / f"mine.{form}"
    assert str(caught.value).split("\n")[1:] == [
        f"  {path}:{first + 3} field 'y': is {label}; every row needs a label",
        f"  {path}:{first + 5} field 'text': is empty; every row needs text",
    ]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a"] * 9, "are all a; a classification task needs two classes"),
        ([None] * 9, "are empty; a classification task needs two classes"),
        (["a", "b", "a "] * 9, "the labels 'a' and 'a ' in 'y' differ in spaces only"),
        ([f"id {i}" for i in range(9)], "9 different labels in 'y' for 9 rows are too many to learn"),
    ],
)
def test_labels_that_are_none(load: Load, labels: list[Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        load(labelled(labels))


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_quantity_that_is_no_number_and_a_column_that_is_not_there_which_is_told_once(load: Load, form: str) -> None:
    numbers = labelled([1.5, 2.5, "much", 3.5] * 3)
    with pytest.raises(DataError, match=r"mine\.\w+:[34] field 'y': is 'much' \(str\); a number is needed"):
        load(numbers, form, task_type="regression")
    with pytest.raises(DataError, match="the labels in 'y' are numbers, but 'much' is among them"):
        load(numbers, form)
    with pytest.raises(DataError, match=r"has no column 'labl'; it has: text, y") as caught:
        load(labelled(["a", "b"] * 10), form, label_column="labl")
    assert "\n" not in str(caught.value)


def test_a_file_without_rows_and_broken_lines_among_others(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("text,y\n", encoding="utf-8")
    with pytest.raises(DataError, match="empty.csv has no row"):
        load_labelled_files(LabelledFiles(str(tmp_path / "empty.csv"), ("text",), "y"))
    path = tmp_path / "broken.jsonl"
    lines = [json.dumps(row) for row in labelled(["a", "b"] * 5)]
    path.write_text("\n".join([*lines, '{"text": "cut', '{"text": "x", "y": NaN}']), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_labelled_files(LabelledFiles(str(path), ("text",), "y"))
    assert f"{path}:11: is not a JSON object" in str(caught.value)
    assert f"{path}:12 field 'y': NaN is not a JSON value" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text_columns": ()}, r"text_columns is \(\), name one or two columns"),
        ({"text_columns": ("a", "b", "c")}, "name one or two columns"),
        ({"text_columns": ("y",)}, "label_column is 'y', which is among text_columns too"),
        ({"validation_share": 1.0}, "validation_share is 1.0, it must be at least 0 and below 1"),
    ],
)
def test_settings_that_do_not_fit(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        LabelledFiles("a.csv", **{"text_columns": ("text",), "label_column": "y", **options})


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_zero_and_one_with_a_point_are_classes(load: Load, form: str) -> None:
    task = load(labelled([0.0, 1.0] * 10), form).task
    assert isinstance(task, Task)
    assert task.label_names == ("0.0", "1.0")


@pytest.mark.parametrize(
    ("labels", "read_as", "cure"),
    [
        ([1.0, 2.0, 3.0] * 10, ("1.0", "2.0", "3.0"), "--task-type regression for quantities"),
        (["yes", "no", "NA"] * 10, ("NA", "no", "yes"), "tables mark a missing value"),
        (["Positive", "positive", "x"] * 10, ("Positive", "positive", "x"), "differ in capitals only"),
    ],
)
def test_labels_with_two_readings_name_both(load: Load, labels: list[Any], read_as: Any, cure: str) -> None:
    with pytest.raises(DataError, match=f"(?s)--task-type classification.*|{cure}") as caught:
        load(labelled(labels))
    assert cure in str(caught.value)
    task = load(labelled(labels), task_type="classification").task
    assert isinstance(task, Task)
    assert task.label_names == read_as


def test_parquet_keeps_the_names_of_its_classes(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "y": datasets.ClassLabel(names=["spam", "ham"])})
    rows = [{"text": f"text {place}", "y": place % 2} for place in range(20)]
    path = tmp_path / "mine.parquet"
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)
    loaded = load_labelled_files(LabelledFiles(str(path), ("text",), "y"))
    assert isinstance(loaded.task, Task)
    assert loaded.task.label_names == ("ham", "spam")
    by_text = {row["text"]: row["label"] for row in (*loaded.train, *loaded.validation["validation"])}
    assert (by_text["text 0"], by_text["text 1"]) == (1, 0)
