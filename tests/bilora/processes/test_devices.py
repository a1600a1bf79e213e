"""Which device is chosen, and what is said when there is none."""

import pytest
import torch

from bilora.engines.settings import FitSettings
from bilora.errors import SettingsError
from bilora.processes.devices import choose_device, has_bf16


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What a machine has; a test sets it."""
    has = {"cuda": 0, "mps": 0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has["cuda"] > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: has["cuda"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has["mps"] > 0)
    return has


ALL = {"cuda": 2, "mps": 1}
AUTO = [({}, "auto", "cpu"), ({"mps": 1}, "auto", "mps"), ({"cuda": 1}, "auto", "cuda"), (ALL, "auto", "cuda")]
NAMED = [(ALL, name, name) for name in ("cpu", "cuda", "cuda:1", "mps")]


@pytest.mark.parametrize(("has", "name", "device"), [*AUTO, *NAMED])
def test_a_device_that_is_there(machine: dict[str, int], has: dict[str, int], name: str, device: str) -> None:
    machine |= has
    assert choose_device(name) == torch.device(device)


@pytest.mark.parametrize(
    ("has", "name", "message"),
    [
        ({}, "tpu", "device is 'tpu'; allowed: auto, cpu, cuda, cuda:N, mps"),
        ({}, "", "device is ''; allowed"),
        ({}, "cpu:one", "device is 'cpu:one'; allowed"),
        ({"cuda": 1}, "cuda:x", "device is 'cuda:x'; allowed"),
        ({}, "cuda", "device is 'cuda', which this machine does not have; here: cpu"),
        ({"mps": 1}, "cuda:0", "here: cpu, mps"),
        ({"cuda": 2}, "cuda:2", "device is 'cuda:2', but this machine has 2 of them, from cuda:0"),
        ({"cuda": 1}, "mps", "here: cpu, cuda"),
    ],
)
def test_a_device_that_is_not(machine: dict[str, int], has: dict[str, int], name: str, message: str) -> None:
    machine |= has
    with pytest.raises(SettingsError, match=message):
        choose_device(name)


@pytest.mark.parametrize(
    ("instructions", "has"),
    [
        ({"avx2": True}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({}, False),
    ],
)
def test_what_a_cpu_computes_in(monkeypatch: pytest.MonkeyPatch, instructions: dict[str, bool], has: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    assert has_bf16(torch.device("cpu")) == has
    assert FitSettings(precision="auto", device="cpu").precision == ("bf16" if has else "fp32")
    # What is asked for by name stays.
    assert FitSettings(precision="bf16", device="cpu").precision == "bf16"
