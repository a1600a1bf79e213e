"""What a folder or a file of somebody else can and cannot do: docs/opening-folders-of-others.md, line by line."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import PeftConfig

import bilora_command
from bilora import BiloraConfig
from bilora.errors import DataError, SettingsError
from bilora.runs.trained import open_trained

EVIL = "import pathlib; pathlib.Path('ran').touch(); NAME = None\n"


@pytest.fixture
def copy(command_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of somebody else, in a folder with a module that leaves a trace when it is imported."""
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "run", tmp_path / "run" / "adapter"):
        folder.mkdir(exist_ok=True)
    shutil.copytree(command_run.folder, tmp_path / "run", dirs_exist_ok=True)
    for folder in (tmp_path, tmp_path / "run", tmp_path / "run" / "adapter"):
        (folder / "evil_module.py").write_text(EVIL)
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    return tmp_path / "run"


def changed(path: Path, **values: Any) -> None:
    """Change some values of a file of JSON or YAML."""
    content = yaml.safe_load(path.read_text()) | values
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))


def refused(words: list[str], capsys: pytest.CaptureFixture[str], *, why: str = "evil_module:NAME") -> None:
    capsys.readouterr()
    assert bilora_command.main(words) == 2
    said = capsys.readouterr().err
    assert why in said
    assert "--trust-code" in said
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", "evil_module:NAME"),
        ("task_type", "evil_module:NAME"),
        ("method", "evil_module:NAME"),
        ("formulation", "evil_module:NAME"),
        ("hypergradient", {"name": "evil_module:NAME"}),
        ("ending", "evil_module:NAME"),
        ("report_to", ["evil_module:NAME"]),
        ("task_settings", {"metrics": ["evil_module:NAME"]}),
    ],
)
def test_a_config_imports_nothing(field: str, value: Any, copy: Path, capsys: Any) -> None:
    if field in ("task", "task_settings"):
        changed(copy / "train.yaml", train_file=None, text_columns=None, validation_share=None, task="e2e")
    changed(copy / "train.yaml", **{field: value})
    refused(["train", "--config", str(copy / "train.yaml"), "--output", "new"], capsys)
    refused(["train", "--resume", str(copy)], capsys)


def test_what_the_command_line_names_is_imported(copy: Path, capsys: Any) -> None:
    changed(copy / "train.yaml", formulation="evil_module:NAME")
    for more in (["--trust-code"], ["--trust_code"], ["--formulation", "evil_module:NAME"]):
        Path("ran").unlink(missing_ok=True)
        sys.modules.pop("evil_module", None)
        assert bilora_command.main(["train", "--config", str(copy / "train.yaml"), *more]) == 2
        assert "not bilora.Formulation" in capsys.readouterr().err
        assert Path("ran").exists()


@pytest.mark.parametrize("verb", ["predict", "export", "merge"])
def test_an_adapter_imports_nothing(verb: str, copy: Path, capsys: Any, review_file: Path) -> None:
    changed(copy / "adapter" / "adapter_config.json", formulation="evil_module:NAME")
    words = ["--file", str(review_file)] if verb == "predict" else []
    refused([verb, str(copy), *words, "--output", "out.jsonl"], capsys)
    with pytest.raises(DataError, match="evil_module:NAME"):
        open_trained(str(copy))
    with pytest.raises(SettingsError, match="evil_module:NAME"):
        PeftConfig.from_pretrained(str(copy / "adapter"))
    assert not Path("ran").exists()


def test_a_task_imports_nothing(copy: Path, capsys: Any, review_file: Path) -> None:
    path = copy / "adapter" / "bilora_task.json"
    task = json.loads(path.read_text())
    for content in (
        task | {"kind": "evil_module:NAME"},
        task | {"task": task["task"] | {"metric": "evil_module:NAME"}},
    ):
        path.write_text(json.dumps(content))
        code = bilora_command.main(["evaluate", str(copy), "--data", str(review_file)])
        assert (code, Path("ran").exists()) == (2, False)


def test_a_program_that_has_imported_its_formulation_may_open_it(copy: Path) -> None:
    settings = {"formulation": "bilora.adapter.singular_values:FORMULATIONS", "peft_type": "BILORA"}
    with pytest.raises(SettingsError, match=r"is of type dict, not bilora\.Formulation"):
        BiloraConfig(**settings)


@pytest.mark.parametrize("setting", [{"push_to_hub": True, "hub_model_id": "a/b"}, {"report_to": ["wandb"]}])
def test_a_file_sends_nothing_away(setting: dict[str, Any], copy: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "wandb", object())
    changed(copy / "train.yaml", **setting)
    refused(["train", "--config", str(copy / "train.yaml"), "--output", "new"], capsys, why=next(iter(setting)))


def test_no_pickle_of_weights_is_read(copy: Path, capsys: Any, review_file: Path, tiny_encoder: Path) -> None:
    (copy / "adapter" / "adapter_model.safetensors").rename(copy / "adapter" / "adapter_model.bin")
    assert bilora_command.main(["predict", str(copy), "--file", str(review_file), "--output", "out.jsonl"]) == 2
    assert "has no adapter_model.safetensors" in capsys.readouterr().err
    base = Path(shutil.copytree(tiny_encoder, "base"))
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    refused(["train", "--train-file", str(review_file), "--model", "base", "--max-length", "32"], capsys, why=".bin")


def test_a_flipped_bit_in_the_weights_is_seen(copy: Path, capsys: Any, review_file: Path) -> None:
    for folder in ("adapter", "lora"):
        path = copy / folder / "adapter_model.safetensors"
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(bytes(content))
        words = ["predict", str(copy / folder), "--file", str(review_file), "--output", "out.jsonl"]
        assert bilora_command.main(words) == 2
        assert f"{path} is not as it was written" in capsys.readouterr().err


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "adapter/README.md"])
def test_nothing_is_written_through_a_link(name: str, copy: Path, capsys: Any) -> None:
    """By resuming, nor by a report or an answer whose file is a link."""
    mine = copy.parent / "mine"
    mine.write_text("mine")
    for path in (copy / name, copy / "report.html", Path("answers.jsonl")):
        path.unlink(missing_ok=True)
        path.symlink_to(mine)
    rows = str(copy.parent / "rows.jsonl")
    for words in (
        ["train", "--resume", str(copy)],
        ["report", str(copy)],
        ["predict", str(copy), "--file", rows, "--output", "answers.jsonl"],
    ):
        assert bilora_command.main(words) == 2
    assert mine.read_text() == "mine"
