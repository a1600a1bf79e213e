"""Data files that never end, or that took a time which grew with the square of them; doctor says what train says."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import bilora_command
from bilora.data.records import read_records
from bilora.errors import DataError, first_ten
from bilora.tasks.labelled_files import load_labelled_files
from bilora.tasks.labels import LabelledFiles

COLUMNS = 40_000
NAMES = [f"column_{number}" for number in range(COLUMNS)]
FILES = {
    "columns.csv": ",".join(NAMES) + "\n" + (",".join("1" * COLUMNS) + "\n") * 4,
    "twice.csv": ",".join([*NAMES, "column_7"]) + "\n" + ",".join("1" * COLUMNS) + "\n",
    "short.csv": ",".join(NAMES) + "\n" + "1,2\n" * 40,
    "columns.jsonl": (json.dumps(dict.fromkeys(NAMES, "a b")) + "\n") * 4,
    "keys.jsonl": "{" + ", ".join(['"text": "a"'] * 100_000) + "}\n",
    "deep.jsonl": '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n",
    "half_deep.jsonl": ('{"text": ' + "[" * 800 + "]" * 800 + ', "label": 1}\n') * 4,
    "classes.jsonl": "".join(json.dumps({"text": f"a {n}", "label": f"l {n // 3}"}) + "\n" for n in range(60_000)),
}


@pytest.mark.parametrize("name", FILES)
def test_a_large_or_deep_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(FILES[name])
    began = time.monotonic()
    with pytest.raises(DataError) as told:
        load_labelled_files(LabelledFiles(str(path), ("text",)))
    # A tenth of what the square of it takes.
    assert time.monotonic() - began < 5
    assert str(path) in str(told.value)
    assert len(str(told.value)) < 3_000


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".jsonl.gz", ".parquet"])
def test_what_is_no_plain_file_is_not_read(suffix: str, tmp_path: Path) -> None:
    pipe, folder, endless = (tmp_path / f"{name}{suffix}" for name in ("pipe", "folder", "endless"))
    os.mkfifo(pipe)
    folder.mkdir()
    endless.symlink_to("/dev/zero")
    for path, what in ((pipe, "is a pipe or a device"), (folder, "is a folder"), (endless, "is a pipe or a device")):
        with pytest.raises(DataError, match=what):
            read_records(path)


def test_ten_of_many_are_told() -> None:
    assert first_ten(range(3)) == "0, 1, 2"
    assert first_ten(range(10), "; ").endswith("8; 9")
    assert first_ten(range(1_243)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 1,233 more"


# Its D1 and D2 are all the rows that there are.
CONTROL = ["--method", "bilora"]


def train(*more: str, rows: Path, model: Path, verb: str = "train") -> list[str]:
    return [
        verb,
        "--train-file",
        str(rows),
        "--model",
        str(model),
        "--max-length",
        "32",
        "--device",
        "cpu",
        *CONTROL,
        *more,
    ]


@pytest.mark.parametrize(
    "output", ["file", "file/below", "file/below/more", "n" * 280, "full", "link", "/proc/run", "/proc/self/fd/run"]
)
def test_an_output_that_cannot_be_written(
    output: str, tmp_path: Path, monkeypatch: Any, capsys: Any, review_file: Path, tiny_encoder: Path
) -> None:
    """Is told by train and by doctor before a row is read, and nothing is touched."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "nowhere")
    words = ["--output", output]
    assert bilora_command.main(train(*words, rows=review_file, model=tiny_encoder)) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    line = said.removeprefix("bilora train: error: ").strip()
    assert bilora_command.main(train(*words, rows=review_file, model=tiny_encoder, verb="doctor")) == 2
    assert line in capsys.readouterr().out
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_that_is_the_input(tmp_path: Path, capsys: Any, review_file: Path, tiny_encoder: Path) -> None:
    rows = Path(shutil.copy(review_file, tmp_path / "rows.jsonl"))
    before = rows.read_bytes()
    words = ["--output", str(rows), "--overwrite"]
    assert bilora_command.main(train(*words, rows=rows, model=tiny_encoder)) == 2
    assert "cannot be created" in capsys.readouterr().err
    assert rows.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path, capsys: Any, review_file: Path, tiny_encoder: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    words = ["--output", str(tmp_path / "closed" / "run")]
    assert bilora_command.main(train(*words, rows=review_file, model=tiny_encoder)) == 2
    assert "closed (Permission denied); give --output elsewhere" in capsys.readouterr().err


def config_of(model: Path, **values: Any) -> None:
    content = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(content | values))


def without(*names: str) -> Any:
    return lambda model: [(model / name).unlink() for name in names]


def refused(words: list[str], capsys: Any) -> str:
    """Return the line with which train refuses the words, and doctor too."""
    assert bilora_command.main(words) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert bilora_command.main(["doctor", *words[1:]]) == 2
    said = capsys.readouterr()
    # Where the words make no config, doctor says it on stderr as every verb.
    assert line.removeprefix("bilora train: error: ") in said.out + said.err
    return line


BROKEN_MODELS: dict[str, Any] = {
    "no weights": without("model.safetensors"),
    "no config": without("config.json"),
    "no tokenizer": without("tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    "a vision model": lambda model: config_of(model, model_type="vit", architectures=["ViTModel"]),
    "an unknown model": lambda model: config_of(model, model_type="nothing_of_the_kind"),
    "an unknown type": lambda model: config_of(model, dtype="float7"),
    "no such attention": lambda model: config_of(model, _attn_implementation="flash_attention_9"),
    "a torn tokenizer": lambda model: (model / "tokenizer.json").write_text("{"),
    "another tokenizer": lambda model: (model / "tokenizer.json").write_text('{"model": {"type": "none"}}'),
    "torn weights": lambda model: (model / "model.safetensors").write_bytes(b"\x00" * 40),
    "weights in a pickle": lambda model: (model / "model.safetensors").rename(model / "pytorch_model.bin"),
    "another vocabulary": lambda model: config_of(model, vocab_size=30_523),
    "a layer more": lambda model: config_of(model, num_hidden_layers=2),
    "another architecture": lambda model: config_of(model, model_type="electra"),
    "heads that do not fit": lambda model: config_of(model, num_attention_heads=7),
}


@pytest.mark.parametrize("name", BROKEN_MODELS)
def test_a_model_that_cannot_be_read(
    name: str, tmp_path: Path, monkeypatch: Any, capsys: Any, review_file: Path, tiny_encoder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    model = Path(shutil.copytree(tiny_encoder, tmp_path / "model"))
    BROKEN_MODELS[name](model)
    line = refused(train("--steps", "4", rows=review_file, model=model), capsys)
    assert str(model) in line
    assert "--model" in line


ADAPTERS = {
    "target_modules: [nowhere]": "target_modules names nowhere, which it has not; linear layers",
    "target_modules: [query, nowhere]": "target_modules names nowhere, which it has not",
    "target_modules: nowhere": "cannot be put on the model",
    "target_modules: [LayerNorm]": "cannot be put on the model",
    "modules_to_save: [nowhere]": "modules_to_save names nowhere, which it has not",
    "rank: 1000000": "rank is 1,000,000, and the layers of this model have 16 at most",
}


@pytest.mark.parametrize("method", ["bilora", "lora"])
@pytest.mark.parametrize("text", ADAPTERS)
def test_an_adapter_that_does_not_fit(
    text: str, method: str, tmp_path: Path, monkeypatch: Any, capsys: Any, review_file: Path, tiny_encoder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(f"method: {method}\nmethod_settings: {{{method}: {{{text}}}}}\n")
    began = time.monotonic()
    words = train("--config", str(path), "--steps", "4", rows=review_file, model=tiny_encoder)
    assert ADAPTERS[text] in refused(words, capsys)
    assert time.monotonic() - began < 10


REFUSED = [
    ["--lower.batch-size", "1000000000"],
    ["--max-length", "1000000000"],
    ["--device", "cuda:7"],
    ["--train-rows", "1000"],
    ["--text-columns", "nowhere"],
    ["--label-column", "nowhere"],
    ["--epochs", "4000000000"],
    ["--class-weights", "{nowhere: 2.0}"],
    ["--task-type", "regression"],
    ["--validation-file", "nowhere.jsonl"],
    ["--model", "nowhere"],
    ["--split-ratio", "0.999"],
    ["--method-settings.bilora.target-modules", "("],
    ["--steps", "2", "--unroll-steps", "4"],
    ["--unroll-steps", "2", "--hypergradient.name", "unrolled", "--hypergradient.steps", "3"],
    ["--steps", "1", "--method", "adalora"],
]


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: words[0])
def test_doctor_says_what_train_says(
    words: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any, review_file: Path, tiny_encoder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(train(*words, rows=review_file, model=tiny_encoder), capsys)
