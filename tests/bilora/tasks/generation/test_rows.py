"""Sets as their authors publish them, from a folder or the hub, joined by input."""

import dataclasses
import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from bilora.errors import DataError
from bilora.tasks import sources
from bilora.tasks.catalog import GENERATION_TASKS

E2E = GENERATION_TASKS["e2e"]
WEBNLG = GENERATION_TASKS["webnlg"]
SPLIT = dataclasses.replace(E2E, upper_split=None, validation_splits=("validation",))

CSV = 'mr,ref\n"name[A], food[French]",A is French.\n"name[B], food[French]",B is French.\n"name[A], food[French]",A!\n'

XML = """<benchmark><entries>
<entry eid="Id1"><modifiedtripleset><mtriple>A | near | B</mtriple><mtriple>A | food | C</mtriple></modifiedtripleset>
<lex comment="good" lid="Id1">A is near B.</lex><lex comment="" lid="Id2">Near B is A.</lex>
<lex comment="toFix">Bad.</lex></entry>
</entries></benchmark>"""


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_text(text, encoding="utf-8")
    return folder.parent


def test_real_e2e_has_its_official_sizes(real_data: Path) -> None:
    rows = E2E.load_rows(real_data)
    assert rows.upper is not None and set(rows.validation) == {"test"}
    assert (len(rows.train), len(rows.upper), len(rows.validation["test"])) == (4862, 547, 630)
    assert sum(len(row["references"]) for row in rows.train) == 42061
    split = E2E.with_settings({"d2": "split"}).load_rows(real_data)
    assert split.upper is None and set(split.validation) == {"validation"}
    assert (len(split.train), len(split.validation["validation"])) == (4862, 547)


def test_official_csv_is_joined_by_input(tmp_path: Path) -> None:
    data = write(tmp_path / "e2e", trainset_csv=CSV, devset_csv=CSV)
    rows = SPLIT.load_rows(data)
    assert [row["source"] for row in rows.train] == ["name : A | food : French", "name : B | food : French"]
    assert rows.train[0]["references"] == ["A is French.", "A!"]
    assert (rows.train.ids, rows.train.lines) == ((0, 1), (2, 3))
    assert rows.notices == ("2 of 2 validation rows have the input of a training row",)


def test_official_webnlg_json_and_xml_and_dart_json(tmp_path: Path) -> None:
    entry = {
        "modifiedtripleset": [{"subject": "A", "property": "near", "object": "B"}],
        "lexicalisations": [{"comment": "good", "lex": "A is near B."}],
    }
    content = json.dumps({"entries": [{"1": entry}]})
    data = write(tmp_path / "webnlg", train_json=content, dev_json=content, test_xml=XML)
    rows = WEBNLG.load_rows(data)
    assert rows.train[0]["source"] == "A : near : B"
    (row,) = rows.validation["test"]
    assert (row["id"], row["source"]) == ("Id1", "A : near : B | A : food : C")
    assert row["references"] == ["A is near B.", "Near B is A."]
    dart = {"tripleset": [["A", "NEAR", "B"]], "annotations": [{"source": "x", "text": "A is near B."}]}
    names = [f"dart-v1.1.1-full-{stem}_json" for stem in ("train", "dev", "test")]
    data = write(tmp_path / "dart", **dict.fromkeys(names, json.dumps([dart])))
    assert GENERATION_TASKS["dart"].load_rows(data).train[0]["source"] == "A : near : B"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_csv", 'mr,ref\n"name[A",x\n', r"train\.csv:2 field 'mr': is no list of slots"),
        ("train_csv", "mr,ref\nname[A],x,y\n", r"train\.csv:2: has 3 fields, but the first line names 2"),
        ("train_csv", "mr,ref\nname[A]\n", r"train\.csv:2: has 1 fields"),
        ("train_csv", "mr,ref\n", r"the train set has no row"),
        ("train_csv", 'mr,ref\n"name[A],x\n', r"train\.csv:2: the record that begins here is broken"),
        ("train_json", "[1]", r"train\.json:1: the entry is int; an object is needed"),
        ("train_json", "{}", r"train\.json: holds neither a list of entries nor"),
        ("train_json", "[", r"train\.json: cannot be read"),
        ("train_xml", "<a>", r"train\.xml: cannot be read"),
        ("train_jsonl", '{"source": "a", "references": [""]}\n', r"train\.jsonl:1 field 'references': has no text"),
    ],
)
def test_faults_name_file_line_and_field(tmp_path: Path, name: str, content: str, message: str) -> None:
    data = write(tmp_path / "e2e", **{name: content})
    with pytest.raises(DataError, match=message):
        SPLIT.load_rows(data)


def test_blank_references_beside_others_are_counted_and_left_out(tmp_path: Path) -> None:
    line = '{"source": "a", "references": ["x", "", "y"]}\n'
    data = write(tmp_path / "e2e", train_jsonl=line, validation_jsonl=line.replace('"a"', '"b"'))
    rows = SPLIT.load_rows(data)
    assert rows.train[0]["references"] == ["x", "y"]
    assert rows.notices == tuple(
        f"1 blank references of the {name} set are left out" for name in ("train", "validation")
    )


def test_missing_and_double_sets_are_named(tmp_path: Path) -> None:
    data = write(tmp_path / "e2e", trainset_csv=CSV)
    with pytest.raises(DataError, match=r"has no validation set \(looked for validation, dev.*it has: trainset\.csv"):
        SPLIT.load_rows(data)
    write(tmp_path / "e2e", train_csv=CSV)
    with pytest.raises(DataError, match=r"more than one train set: train\.csv, trainset\.csv; keep one"):
        SPLIT.load_rows(data)


def test_the_hub_is_asked_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"meaning_representation": "name[A]", "human_reference": "A."}
    ask_hub = Mock(return_value={"train": [row, row], "dev": [row], "test": [row]})
    monkeypatch.setattr(sources, "ask_hub", ask_hub)
    assert [row["references"] for row in E2E.load_rows(None).train] == [["A.", "A."]]
    assert [call.args for call in ask_hub.call_args_list] == [("tuetschek/e2e_nlg", None)]
