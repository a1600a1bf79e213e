"""What a fingerprint sees, and what it passes over; the versions in a row of results."""

import multiprocessing
import platform
import sys
from typing import Any

import peft
import pytest
import torch
import transformers
from peft import get_peft_model
from tiny_models import tiny_bert
from torch import nn

import bilora
from bilora import BiloraConfig
from bilora.artifacts import fingerprint
from bilora.artifacts.fingerprint import base_fingerprint, base_tensors, command, data_fingerprint, versions


def adapted(seed: int = 0, *, head: int = 5) -> Any:
    torch.manual_seed(seed)
    base: Any = tiny_bert(0.0)
    torch.manual_seed(head)
    base.classifier.reset_parameters()
    return get_peft_model(base, BiloraConfig(task_type="SEQ_CLS", r=2))


def test_adapter_and_head_do_not_enter() -> None:
    model = adapted()
    before = base_fingerprint(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    assert base_fingerprint(model) == before == base_fingerprint(adapted(head=6))
    assert base_fingerprint(adapted(seed=1)) != before
    layer = nn.Linear(4, 4)
    plain = base_fingerprint(nn.Sequential(layer))
    assert base_fingerprint(get_peft_model(nn.Sequential(layer), BiloraConfig(r=2, target_modules=["0"]))) == plain


@pytest.mark.parametrize("whole", [1, 2**20], ids=["sampled", "whole"])
def test_one_element_of_any_small_tensor_is_seen(whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "WHOLE", whole)
    model = adapted()
    before = base_fingerprint(model)
    names = [name for name, _ in base_tensors(model)]
    assert "base_model.model.bert.encoder.layer.0.attention.self.query.weight" in names
    assert not any("bilora" in name or "classifier" in name for name in names)
    for name, tensor in base_tensors(model):
        with torch.no_grad():
            tensor.view(-1)[-1].add_(1.0)
            assert base_fingerprint(model) != before, name
            tensor.view(-1)[-1].sub_(1.0)


def test_statistics_do_not_enter_and_whole_numbers_do() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    before = base_fingerprint(model)
    model(torch.randn(4, 2))
    assert base_fingerprint(model) == before
    model.register_buffer("packed", torch.tensor([1, 2], dtype=torch.int32))
    assert base_fingerprint(model) != before


def test_tied_weights_enter_once() -> None:
    one, other = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    other.weight = one.weight
    assert base_fingerprint(nn.Sequential(one, other)) == base_fingerprint(one)


def test_what_is_trained_can_be_left_out() -> None:
    layer = nn.Linear(2, 2)
    before = base_fingerprint(layer, trained=[layer.bias])
    nn.init.ones_(layer.bias)
    assert base_fingerprint(layer, trained=[layer.bias]) == before
    nn.init.ones_(layer.weight)
    assert base_fingerprint(layer, trained=[layer.bias]) != before


def test_rows_their_order_and_their_fields() -> None:
    first, second = {"ids": [1, 2]}, {"ids": [3]}
    before = data_fingerprint([first, second])
    assert before == data_fingerprint([dict(first), dict(second)])
    for rows in ([first], [second, first], [first, {"ids": [4]}], [first, {**second, "labels": 0}]):
        assert data_fingerprint(rows) != before, rows


def test_tensors_as_rows() -> None:
    long = torch.zeros(5000)
    changed = long.clone()
    changed[2500] = 1  # what the text of a tensor leaves out
    assert data_fingerprint([{"x": long}]) != data_fingerprint([{"x": changed}])


def test_many_rows_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "ROWS", 3)
    rows = [{"x": index} for index in range(10)]
    assert data_fingerprint(rows) != data_fingerprint(rows[:-1]), "the number of rows enters"


def test_versions_are_those_that_run() -> None:
    packages = {"bilora": bilora.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    expected = {"python": platform.python_version(), "betty-ml": "0.2.1", **packages}
    assert versions() == {**expected, "torch": versions()["torch"]}
    assert versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]


class Rounded(torch.Tensor):
    """A stand-in for torchao's tensors: a shape, and numbers that only ``dequantize`` gives."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> "Rounded":
        held: Rounded = torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=torch.float32)
        held.numbers = numbers
        return held

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["numbers"], None

    def dequantize(self) -> torch.Tensor:
        return self.numbers * 0.5

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(func)


def test_quantised_tensors_enter_by_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(*numbers: int) -> str:
        monkeypatch.setattr(fingerprint, "base_tensors", lambda _: [("weight", Rounded(torch.tensor(numbers)))])
        return base_fingerprint(nn.Identity())

    assert of(1, 2) == of(1, 2) != of(1, 3)


def test_a_helper_names_the_command_that_a_person_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "orig_argv", ["python", "-c", "from multiprocessing.spawn import spawn_main; spawn_main()"]
    )
    monkeypatch.setattr(sys, "argv", [".venv/bin/bilora", "compare", "--config", "my runs.yaml"])
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: None)
    assert command().startswith("python -c 'from multiprocessing")
    monkeypatch.setattr(multiprocessing, "parent_process", object)
    assert command() == ".venv/bin/bilora compare --config 'my runs.yaml'"
