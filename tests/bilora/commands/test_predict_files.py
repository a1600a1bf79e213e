"""``bilora predict`` of files as people have them: what is read, what is written, and what a bad row costs."""

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest
import torch
from peft import get_peft_model
from pyarrow import parquet
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bilora import BiloraConfig
from bilora.commands import predict as predict_command
from bilora.commands.predict import PREDICT
from bilora.data import chunks as chunks_module
from bilora.errors import DataError
from bilora.models.pretrained import Tokenizer
from bilora.runs.trained import Trained
from bilora.tasks.text.task import TextTask

TEXTS = ("a good film, really", "a bad film", 'he said "no"\nand left', "un café très bon", "fine")
NAMES = ("negative", "positive")
# What was understood of a file is told by warnings.
pytestmark = pytest.mark.filterwarnings("always::RuntimeWarning")
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def adapter(tiny_encoder: Path) -> Trained:
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=2)
    model = get_peft_model(base, BiloraConfig(task_type="SEQ_CLS", r=2, init_weights=False)).eval()
    task = TextTask("toy", ("text",), NAMES, labels_from="train.csv")
    return Trained(Path("adapter"), task, Tokenizer("tiny", AutoTokenizer.from_pretrained(tiny_encoder)), model, 16)


@pytest.mark.parametrize("text", ["hello", ("one", "two", "three"), ("one",), None])
def test_a_pair_that_is_none_is_refused(adapter: Trained, text: Any) -> None:
    pairs = dataclasses.replace(adapter, task=TextTask("toy", ("one", "two"), NAMES))
    with pytest.raises(
        DataError, match=r"texts, number 2 is .*; the model was trained on 2 columns: give \(one, two\)"
    ):
        pairs.predict([("a", "b"), text])


@pytest.fixture
def predict(adapter: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, Path]]:
    """Run the command on a file that it finds below, and return its code and what it wrote."""
    monkeypatch.setattr(predict_command, "open_trained", lambda *_, **__: adapter)
    # So that a few rows are several parts of a file.
    monkeypatch.setattr(chunks_module, "ROWS", 2)

    def run(file: Path | None, output: str, *words: str) -> tuple[int, Path]:
        named = [] if file is None else ["--file", str(file)]
        return PREDICT.run(["run", *named, "--output", str(tmp_path / output), *words]), tmp_path / output

    return run


@pytest.fixture
def answers(adapter: Trained) -> list[dict[str, Any]]:
    return [adapter.answers([text])[0] for text in TEXTS]


Written = list[dict[str, Any]]


def read_output(path: Path) -> Written:
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()  # type: ignore[no-any-return]
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    return list(csv.DictReader(io.StringIO(text, newline=""), **form))


def write_input(path: Path, texts: Sequence[str] = TEXTS) -> Path:
    frame = pandas.DataFrame({"id": range(len(texts)), "text": texts, "note": ["x"] * len(texts)})
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl", force_ascii=False)
    return path


@pytest.mark.parametrize("output", ["out.csv", "out.tsv", "out.jsonl", "out.parquet"])
@pytest.mark.parametrize("file", ["rows.csv", "rows.jsonl", "rows.json", "rows.parquet"])
def test_the_columns_stay_and_ours_stand_behind(
    predict: Any, answers: Written, tmp_path: Path, file: str, output: str, capsys: Captured
) -> None:
    code, path = predict(write_input(tmp_path / file), output)
    assert code == 0, capsys.readouterr().err
    rows = read_output(path)
    nested = output == "out.jsonl"
    ours = ["row", "prediction", "probabilities"] if nested else ["prediction", *(f"probability_{n}" for n in NAMES)]
    assert [list(row) for row in rows] == [["id", "text", "note", *ours]] * 5
    texts = [text.replace("\n", " ") for text in TEXTS] if output == "out.tsv" else [*TEXTS]
    assert [row["text"] for row in rows] == texts
    assert [int(row["id"]) for row in rows] == [0, 1, 2, 3, 4]
    for row, answer in zip(rows, answers, strict=True):
        assert row["prediction"] == answer["prediction"]
        chances = row["probabilities"] if nested else {name: float(row[f"probability_{name}"]) for name in NAMES}
        assert chances == pytest.approx(answer["probabilities"], abs=1e-6)
    assert len({round(answer["probabilities"]["positive"], 3) for answer in answers}) == 5, "else any order would pass"
    assert ("1 cell has spaces" in capsys.readouterr().out) is (output == "out.tsv")


def test_types_of_parquet_stay(predict: Any, tmp_path: Path) -> None:
    days = pyarrow.array([1, 2, None], pyarrow.timestamp("ms"))
    table = pyarrow.table({"text": ["a", "b", "c"], "day": days, "many": [[1.5], [], None]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    code, path = predict(tmp_path / "rows.parquet", "out.parquet")
    assert code == 0
    assert parquet.read_table(path).select(["text", "day", "many"]).equals(table)
    code, path = predict(tmp_path / "rows.parquet", "out.jsonl")
    assert [row["day"] for row in read_output(path)] == [
        "1970-01-01T00:00:00.001000",
        "1970-01-01T00:00:00.002000",
        None,
    ]


def test_a_column_by_our_name_stays(predict: Any, answers: Written, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "rows.csv").write_text("text,prediction,prediction_2\na good film,mine,too\na bad film,a,b\n")
    code, path = predict(tmp_path / "rows.csv", "out.csv")
    assert code == 0
    rows = read_output(path)
    assert list(rows[0])[:4] == ["text", "prediction", "prediction_2", "prediction_3"]
    assert (rows[0]["prediction"], rows[0]["prediction_2"]) == ("mine", "too")
    assert rows[1]["prediction_3"] == answers[1]["prediction"]
    assert "note: the file has 'prediction' already; ours is called 'prediction_3'" in capsys.readouterr().out


BAD = '{"text": "a good film"}\n{"text": ""}\n{"text": \n\n{"text": "a bad film", "id": 7}\n'


@pytest.mark.parametrize("output", ["out.csv", "out.jsonl", "out.parquet"])
def test_a_bad_row_costs_a_row(predict: Any, answers: Written, tmp_path: Path, output: str, capsys: Captured) -> None:
    (tmp_path / "rows.jsonl").write_text(BAD)
    code, path = predict(tmp_path / "rows.jsonl", output)
    told = capsys.readouterr()
    assert (code, told.out.splitlines()[-1]) == (0, f"2 predictions: {path}")
    assert "3 of 5 rows have no prediction (on_bad_row: keep)" in told.err
    rows = read_output(path)
    assert [bool(row["prediction"]) for row in rows] == [True, False, False, False, True]
    assert rows[4]["prediction"] == answers[1]["prediction"]
    where = str(tmp_path / "rows.jsonl")
    errors = [row.get("error") or "" for row in rows]
    assert errors[0] == errors[4] == ""
    assert errors[1] == f"{where}:2 field 'text': is empty; every row needs text"
    assert errors[2].startswith(f"{where}:3: is not a JSON object")
    assert errors[3].startswith(f"{where}:4: the line is blank")


def test_a_bad_row_may_be_left_out_or_refused(predict: Any, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "rows.jsonl").write_text(BAD)
    code, path = predict(tmp_path / "rows.jsonl", "out.jsonl", "--on-bad-row", "skip")
    assert code == 0
    assert "3 of 5 rows are left out (on_bad_row: skip)" in capsys.readouterr().err
    assert [(row["row"], "error" in row) for row in read_output(path)] == [(0, False), (4, False)]
    code, path = predict(tmp_path / "rows.jsonl", "refused.jsonl", "--on-bad-row", "error")
    assert (code, path.exists()) == (2, False)
    assert "3 faults in the rows" in capsys.readouterr().err


def test_rows_that_are_all_bad_are_refused(predict: Any, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": ""}\n' * 7)
    code, path = predict(tmp_path / "rows.jsonl", "out.jsonl")
    assert (code, path.exists()) == (2, False)
    told = capsys.readouterr().err
    assert "no row can be used: 7 faults in the rows" in told
    assert "and 2 more" in told


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["a good film", "odd", "fine"], ["", "odd text", ""]),  # in the first part of the file
        (["odd", "odd", "odd"], ["odd text"] * 3),
        (["a good film", "fine", "odd"], None),  # behind it: the file has no column for it by then
    ],
)
def test_what_only_the_tokenizer_finds_costs_a_row(
    predict: Any, tmp_path: Path, texts: list[str], told: Any, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    own = TextTask.answers

    def answers(self: TextTask, inference: Any, rows: Any, *, max_length: int) -> Any:
        if any(row["text"] == "odd" for row in rows):
            raise DataError("odd text")
        return own(self, inference, rows, max_length=max_length)

    monkeypatch.setattr(TextTask, "answers", answers)
    pandas.DataFrame({"text": texts}).to_csv(tmp_path / "rows.csv", index=False)
    code, path = predict(tmp_path / "rows.csv", "answers.csv")
    assert code == 0
    written = pandas.read_csv(path, keep_default_na=False)
    assert list(written["text"]) == texts
    if told is None:
        assert "no column by then: 1; write .jsonl" in " ".join(capsys.readouterr().out.split())
    else:
        assert list(written["error"]) == told


def test_a_line_that_is_not_utf_8_costs_a_row(predict: Any, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "rows.csv").write_bytes("text,id\nun café,1\n".encode() + b"caf\xe9,2\n" + b"fine,3\n")
    code, path = predict(tmp_path / "rows.csv", "out.csv")
    assert code == 0
    rows = read_output(path)
    assert [(row["id"], bool(row["prediction"])) for row in rows] == [("1", True), ("2", False), ("3", True)]
    assert "rows.csv:3 field 'text': is not UTF-8" in rows[1]["error"]


@pytest.mark.parametrize(("encoding", "delimiter"), [("cp1252", ";"), ("utf-16", "\t"), ("utf-8-sig", "|")])
def test_quirky_tables_are_read_in_parts(
    predict: Any, answers: Written, tmp_path: Path, encoding: str, delimiter: str, capsys: Captured
) -> None:
    frame = pandas.DataFrame({"text": TEXTS, "id": range(5)})
    frame.to_csv(tmp_path / "rows.csv.gz", sep=delimiter, encoding=encoding, index=False)
    code, path = predict(tmp_path / "rows.csv.gz", "out.jsonl")
    assert code == 0
    assert [row["text"] for row in read_output(path)] == list(TEXTS)
    assert [row["prediction"] for row in read_output(path)] == [answer["prediction"] for answer in answers]
    assert capsys.readouterr().err.count("the columns are parted by a") == 1


def test_a_table_without_a_header(predict: Any, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "rows.csv").write_text("a good film,1\na bad film,0\na fine film,1\n")
    code, path = predict(tmp_path / "rows.csv", "out.csv")
    assert code == 0
    assert list(read_output(path)[0])[:3] == ["column_1", "column_2", "prediction"]
    assert len(read_output(path)) == 3
    assert "has no 'text': the text is in 'column_1'" in capsys.readouterr().out


def test_columns_are_found_or_named(predict: Any, answers: Written, tmp_path: Path, capsys: Captured) -> None:
    write_input(tmp_path / "rows.csv")
    table = pandas.read_csv(tmp_path / "rows.csv").rename(columns={"text": "body", "note": "more"})
    table["more"] = "and more words"
    table.to_csv(tmp_path / "other.csv", index=False)
    assert predict(tmp_path / "other.csv", "refused.csv")[0] == 2
    assert "has no column 'text'; it has: id, body, more; name them with --text-columns" in capsys.readouterr().err
    code, path = predict(tmp_path / "other.csv", "out.csv", "--text-columns", "body")
    assert code == 0
    assert [row["prediction"] for row in read_output(path)] == [answer["prediction"] for answer in answers]
    assert "text" not in read_output(path)[0]
    assert predict(tmp_path / "other.csv", "refused.csv", "--text-columns", "bdy")[0] == 2
    assert "has no column 'bdy'" in capsys.readouterr().err


class Piped(io.TextIOWrapper):
    """Standard input that is no terminal."""


@pytest.mark.parametrize("file", ["rows.csv", "rows.jsonl"])
@pytest.mark.parametrize("words", [[], ["--file", "-"]])
def test_standard_input(
    predict: Any,
    answers: Written,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    file: str,
    words: list[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(io.BytesIO(write_input(tmp_path / file).read_bytes())))
    assert PREDICT.run(["run", *words]) == 0
    printed = capsys.readouterr().out
    assert [json.loads(line)["prediction"] for line in printed.splitlines()] == [row["prediction"] for row in answers]


def test_standard_input_in_a_form_that_is_named(
    predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(io.BytesIO(b'text\tid\n"a good film\t1\n')))
    code, path = predict(None, "out.tsv", "--input-format", "tsv")
    assert code == 0
    assert read_output(path)[0]["text"] == '"a good film'
    monkeypatch.setattr(sys, "stdin", Piped(io.BytesIO(b"")))
    assert predict(None, "none.tsv")[0] == 2
    assert "standard input: the prediction set has no row" in capsys.readouterr().err


def test_what_cannot_be_meant_is_told(predict: Any, tmp_path: Path, capsys: Captured) -> None:
    rows = write_input(tmp_path / "rows.jsonl")
    assert predict(rows, "out.xlsx")[0] == 2
    assert "out.xlsx ends in none of .jsonl, .csv, .tsv, .parquet" in capsys.readouterr().err
    assert predict(tmp_path / "nothing.csv", "out.csv")[0] == 2
    assert "nothing.csv: cannot be read" in capsys.readouterr().err
    (tmp_path / "mixed.jsonl").write_text('{"text": "a", "id": 1}\n{"text": "b", "id": 1}\n{"text": "c", "id": "x"}\n')
    assert predict(tmp_path / "mixed.jsonl", "out.parquet")[0] == 2
    assert "which .parquet cannot; write .jsonl" in capsys.readouterr().err


def test_notices_of_the_parts_are_added_up(predict: Any, tmp_path: Path, capsys: Captured) -> None:
    rows = write_input(tmp_path / "rows16.csv", ["good " * 40, "short", "bad " * 40, "fine " * 40, "short"])
    assert predict(rows, "out.csv")[0] == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == [
        f"note: 3 of the 5 rows of {rows} are longer than max_length 16: the longest has 42 tokens, and the model does "
        "not see what is behind the limit"
    ]


def test_a_data_file_by_the_name_of_evaluate(predict: Any, tmp_path: Path) -> None:
    rows = write_input(tmp_path / "rows.csv")
    assert PREDICT.run(["run", "--data", str(rows), "--output", str(tmp_path / "out.csv")]) == 0
