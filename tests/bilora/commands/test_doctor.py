"""``bilora doctor``: a sound machine passes, and every fault is told with its cure and code 2."""

import json
import re
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from bilora.commands import doctor


def test_what_train_would_run_passes(command_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*command_run.words[:4], "--max-length", "64", "--device", "cpu"]
    assert doctor.DOCTOR.run(words) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    for subject in ("python", "betty-ml", "device", "precision", "disk", "data", "model", "lengths", "tokenizer"):
        assert f"ok    {subject}: " in printed
    # A tenth is held out, since the method trains on D2 too.
    assert "108 training rows, " in printed
    assert "bilora train with the same words will start" in printed


def test_every_fault_is_told_not_only_the_first(command_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*command_run.words[:4], "--max-length", "128", "--precision", "fp16", "--device", "cpu"]
    assert doctor.DOCTOR.run([*words, "--report-to", "wandb"]) == 2
    printed = capsys.readouterr()
    assert "FAULT precision: fp16 needs a GPU; set --precision bf16 or fp32" in printed.out
    told = f"config.json of {command_run.words[1]!r}: max_length is 128, but the bert model has 64 positions"
    assert f"FAULT model: {told}" in printed.out
    assert "2 faults; each line says what to do" in printed.err


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("text,label\na fine film", ""),
        ("text,label\n" + "good,1\nbad,0\n" * 9, "has 18 rows, and 20 are the fewest to train on"),
    ],
)
def test_rows_that_train_refuses_are_a_fault(
    text: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    words = ["--train-file", str(tmp_path / "rows.csv"), "--method", "bilora", "--device", "cpu"]
    assert doctor.DOCTOR.run(words) == 2
    assert re.search(f"FAULT data: .*{fault}", capsys.readouterr().out)


def test_long_rows_and_a_foreign_script_are_notes(
    tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "ᚠᚢᚦ ᚨᚱᚲ " * 20, "label": number % 2} for number in range(120)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    doctor.DOCTOR.run(
        ["--train-file", str(path), "--model", str(tiny_encoder), "--max-length", "16", "--device", "cpu"]
    )
    printed = capsys.readouterr().out
    assert "note  lengths: median 16, longest 16 tokens of at most 16" in printed
    assert "note  tokenizer: " in printed


def test_versions_are_held_against_what_the_package_asks_for() -> None:
    states = {finding.subject: finding.state for finding in doctor.check_versions("transformers")}
    assert states["python"] == "ok"
    assert states["tokenizers"] == "ok"
    assert doctor.check_package("torch", ">=999").state == "fault"
    assert doctor.check_package("no-such-package", "").text == "is not installed; run pip install 'no-such-package'"


@pytest.mark.parametrize(
    ("hypergradient", "implementation", "state"),
    [
        ("first_order", "flash_attention_2", "ok"),
        ({"name": "darts", "finite_difference": "forward"}, "sdpa", "ok"),
        ({"name": "neumann", "products": "exact"}, "eager", "ok"),
        ({"name": "neumann", "products": "exact"}, "sdpa", "note"),
        ({"name": "conjugate_gradient", "products": "exact"}, "flash_attention_2", "fault"),
    ],
)
def test_attention_is_held_against_the_derivatives(hypergradient: Any, implementation: str, state: str) -> None:
    assert doctor.check_attention(hypergradient, implementation).state == state


@pytest.mark.parametrize(("native", "state"), [(True, "ok"), (False, "note")])
def test_devices_and_precisions(monkeypatch: pytest.MonkeyPatch, native: bool, state: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native}, raising=False)
    assert doctor.check_precision(torch.device("cpu"), "bf16").state == state
    assert [finding.state for finding in doctor.check_device("cpu", "fp16")] == ["ok", "fault"]
    assert [finding.state for finding in doctor.check_device("tpu", "fp32")] == ["fault"]


def test_a_full_disk_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    assert doctor.check_disk(tmp_path / "not" / "yet").state == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40, 2**20))
    assert doctor.check_disk(tmp_path).state == "fault"


def test_a_tracker_that_is_missing_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    [finding] = doctor.check_trackers(["mlflow"])
    assert (finding.state, finding.text.endswith("run pip install mlflow")) == ("note", True)
