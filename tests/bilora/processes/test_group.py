"""How processes are joined, and what is refused before they are."""

from unittest.mock import Mock

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from bilora.commands.exit_codes import exit_code
from bilora.errors import ProcessesError, SettingsError
from bilora.processes import shard_base
from bilora.processes.group import join_processes
from bilora.processes.processes import ONE_PROCESS
from bilora.runs.config import RunConfig


def test_without_a_launcher_there_is_one_process() -> None:
    assert join_processes() is ONE_PROCESS


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_a_device_for_all_is_refused(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("bilora.processes.group.choose_device", torch.device)
    message = f"device is '{device}'; several processes take cpu, or cuda for a GPU each"
    with pytest.raises(SettingsError, match=message):
        join_processes(device=device)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("bilora.processes.group.choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match="process 1 of this machine has no GPU of its own: there are 1"):
        join_processes(device="cuda")


def test_a_base_is_not_sharded_by_one_process() -> None:
    model = get_peft_model(nn.Sequential(nn.Linear(2, 2)), LoraConfig(target_modules=["0"]))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="there is one; start it with torchrun"):
        shard_base(model, processes=ONE_PROCESS)


@pytest.mark.parametrize(
    "other", [{"meter": 1}, {"torch_compile": "default"}, {"hypergradient": {"name": "darts", "products": "exact"}}]
)
def test_a_sharded_base_takes_first_derivatives_only(other: dict[str, object]) -> None:
    RunConfig(shard_base=True)
    with pytest.raises(SettingsError, match="shard_base is True, a sharded model has no second derivative"):
        RunConfig(shard_base=True, **other)  # type: ignore[arg-type]


def test_other_processes_leave_the_first_word_to_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    assert exit_code(Mock(side_effect=SettingsError("wrong")), program="p") == 2
    assert (capsys.readouterr().err, waited) == ("p: error: wrong\n", [])
    monkeypatch.setenv("RANK", "1")
    assert exit_code(Mock(side_effect=ProcessesError("lost")), program="p") == 1
    assert capsys.readouterr().err == "p: error: process 1: lost\n"
    assert waited == [10.0]
