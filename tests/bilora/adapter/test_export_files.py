"""The folder of an export: what may be replaced, and what is left of an export that fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from bilora.adapter.export import check_folder, write_export
from bilora.errors import SettingsError


def _write(folder: Path, **report: object) -> None:
    write_export(folder, tensors={"a": torch.eye(2)}, config=LoraConfig(target_modules=["x"]), report=report)


def test_a_new_folder_is_made_and_an_export_may_be_replaced(tmp_path: Path) -> None:
    folder = check_folder(tmp_path / "new" / "export")
    assert folder.is_dir()
    _write(folder, ranks={"x": 1})
    _write(check_folder(folder), ranks={"x": 2})
    assert '"x": 2' in (folder / "bilora_export.json").read_text()


def test_other_contents_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(SettingsError, match=r"thesis\.tex.*new or an empty folder"):
        check_folder(tmp_path)


def test_a_failed_export_leaves_the_earlier_one_whole(tmp_path: Path) -> None:
    _write(tmp_path, ranks={"x": 1})
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="not JSON compliant"):
        _write(tmp_path, ranks={"x": float("nan")})
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_tensors_that_share_memory_or_lie_transposed_are_written(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    config = LoraConfig(target_modules=["x"])
    write_export(tmp_path, tensors={"a": weight, "b": weight, "c": weight.T}, config=config, report={})
    found = load_file(tmp_path / "adapter_model.safetensors")
    assert torch.equal(found["a"], found["b"]) and torch.equal(found["c"], weight.T)
