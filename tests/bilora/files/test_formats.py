"""Strict JSON, lines of it, and YAML."""

import math
from pathlib import Path

import pytest

from bilora.errors import CheckpointError, DataError
from bilora.files.formats import dump_json, load_json, read_lines, read_yaml, write_json


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": Infinity}', '{"a": 1, "a": 2}', "{"])
def test_json_that_is_not_strict_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match="is not JSON|stands twice|Expecting"):
        load_json(tmp_path / "file")


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"a": math.nan})
    write_json(tmp_path / "file", {"a": math.nan, "b": (1.0, -math.inf)})
    assert load_json(tmp_path / "file") == {"a": None, "b": [1.0, None]}


def test_lines_up_to_the_one_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert read_lines(path) == []
    path.write_text('{"a": 1}\n{"a": 2}\n{"a')
    assert read_lines(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a\n')
    with pytest.raises(DataError, match=r"file:2: is not JSON"):
        read_lines(path)


def test_yaml_is_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert read_yaml(path) == {}
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}
    for text, words in (("a: [", "cannot be read"), ("- a\n", "holds no settings")):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=words):
            read_yaml(path)
