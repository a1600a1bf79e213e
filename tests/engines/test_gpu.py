"""What must hold on a GPU as on the CPU, where the same tests run: they make nothing of a device but its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from fingerprint import assert_same

from bilora.engines.callbacks.callback import Callback
from bilora.engines.hypergradients.catalog import HYPERGRADIENTS
from bilora.processes.group import ProcessGroup

Fit = Callable[..., Any]
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
pytestmark = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, GPU])])
SOLVED = {"conjugate_gradient": {"damping": 1.0}, "nystrom": {"rank": 2, "damping": 1.0}}


@pytest.fixture(autouse=True)
def exact_sums() -> None:
    """Float32 as it is, not TensorFloat-32, which keeps ten bits."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def first_upper(fitted: Any) -> torch.Tensor:
    upper = next(record.upper for record in fitted.records.steps if record.upper)
    return torch.tensor([upper.loss, upper.direct_norm, upper.implicit_norm, upper.hypergradient_norm])


@pytest.mark.parametrize("name", HYPERGRADIENTS)
def test_hypergradients_are_those_of_the_cpu(fit_adapter: Fit, device: str, name: str) -> None:
    """Of exact products, in float32 against float64 on the CPU."""
    products = {} if name == "first_order" else {"products": "exact"}
    settings = {"steps": 2, "hypergradient": {"name": name, **SOLVED.get(name, {}), **products}}
    here = fit_adapter("bilora", base_dropout=0.0, settings={**settings, "device": device})
    there = fit_adapter("bilora", base_dropout=0.0, settings={**settings, "device": "cpu"}, dtype=torch.float64)
    torch.testing.assert_close(first_upper(here), first_upper(there), rtol=1e-5, atol=1e-5)


def test_a_run_goes_on_to_the_last_bit(fit_adapter: Fit, device: str, tmp_path: Path) -> None:
    options = {"steps": 6, "device": device, "save_every": 3}
    whole = fit_adapter("bilora", settings=options, folder=tmp_path / "whole")
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    rest = fit_adapter("bilora", settings=options, folder=tmp_path / "rest", resume=checkpoint)
    assert_same(rest.parameters(), whole.parameters())


def test_one_process_in_a_group_sums_as_one_alone(device: str, tmp_path: Path) -> None:
    backend = {"cpu": "gloo", "cuda": "nccl"}[device]
    dist.init_process_group(backend, init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        group = ProcessGroup(timeout=60.0)
        tensors = (torch.randn(3, 2, device=device), torch.randn(4, device=device))
        assert all(map(torch.equal, group.averaged(tensors), tensors))
        assert group.first_only(lambda: "done") == "done"
        assert not group.any(False)
    finally:
        dist.destroy_process_group()


def test_bfloat16_trains_what_float32_does(fit_adapter: Fit, device: str) -> None:
    settings = {"steps": 2, "device": device}
    half = fit_adapter("bilora", base_dropout=0.0, settings={**settings, "precision": "bf16"})
    full = fit_adapter("bilora", base_dropout=0.0, settings=settings)
    assert all(weight.dtype is torch.float32 for weight in half.parameters().values())
    losses = torch.tensor([[record.loss for record in each.records.steps] for each in (half, full)])
    # Eight bits.
    torch.testing.assert_close(losses[0], losses[1], rtol=2**-7, atol=0.0)
    assert not torch.equal(losses[0], losses[1])


class OutOfMemory(Callback):
    """From the third step on, a batch of more than four rows takes more memory than any machine has."""

    must_work = True

    def __init__(self, device: str) -> None:
        self.device = device

    def on_step(self, engine: Any, record: Any) -> None:
        if record.step == 3:
            engine.lower_level.module.register_forward_pre_hook(self.fill, with_kwargs=True)

    def fill(self, module: Any, args: Any, named: dict[str, Any]) -> None:
        if len(named["input_ids"]) > 4:
            torch.empty(2**46, dtype=torch.uint8, device=self.device)


def test_memory_that_runs_out_in_a_stage_halves_the_batch(fit_adapter: Fit, device: str) -> None:
    settings = {"steps": 6, "device": device, "on_out_of_memory": "halve"}
    with pytest.warns(RuntimeWarning, match="batch_size"):
        fitted = fit_adapter("bilora", settings=settings, callbacks=[OutOfMemory(device)])
    assert fitted.records.steps[-1].step == 6
