"""The user's module, optimizer, scheduler and loaders are used as they are, or refused by name."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from betty.configs import Config
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, IterableDataset
from transformers import BatchEncoding

from bilora.errors import DataError, SettingsError
from bilora.problems import LowerProblem, UpperProblem
from bilora.problems.levels.betty_problem import READ, check_config, number_of_batches

Train = Callable[[LowerProblem, int], None]


class Body(nn.Module):
    """Two layers that are trained on top of one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(3, 4).requires_grad_(False)
        self.middle = nn.Linear(4, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        prediction = self.head(torch.tanh(self.middle(self.frozen(x))))
        return {"loss": ((prediction.squeeze(-1) - y) ** 2).mean()}


@pytest.fixture
def module() -> Body:
    return Body().double()


@pytest.fixture
def batches() -> list[dict[str, Tensor]]:
    return [{"x": torch.randn(6, 3).double(), "y": torch.randn(6).double()} for _ in range(4)]


def two_groups(module: Body) -> AdamW:
    middle = {"params": list(module.middle.parameters()), "lr": 1e-2, "weight_decay": 0.1}
    return AdamW([middle, {"params": list(module.head.parameters()), "lr": 1e-3, "weight_decay": 0.0}])


def one_cycle(optimizer: Optimizer) -> OneCycleLR:
    return OneCycleLR(optimizer, max_lr=[1e-2, 1e-3], total_steps=12)


def level(module: nn.Module, batches: Any, optimizer: Optimizer | None = None) -> Any:
    if optimizer is None:
        optimizer = SGD([parameter for parameter in module.parameters() if parameter.requires_grad], lr=0.1)
    return LowerProblem("lower", None, module, optimizer, train_data_loader=batches)


def test_trainable_parameters_only(module: Body, batches: Any, train: Train) -> None:
    lower = level(module, batches)
    frozen = module.frozen.weight.clone()
    expected = [id(parameter) for part in (module.middle, module.head) for parameter in part.parameters()]
    assert [id(parameter) for parameter in lower.trainable_parameters()] == expected
    assert [id(parameter) for parameter in lower.parameters()] == expected
    train(lower, 3)
    assert torch.equal(module.frozen.weight, frozen)
    assert all(parameter.grad is None for parameter in module.frozen.parameters())


def test_level_without_trainable_parameters_is_refused(module: Body, batches: Any) -> None:
    lower = LowerProblem("lower", None, module.requires_grad_(False))
    with pytest.raises(SettingsError, match="'lower' has no trainable parameters.*is_trainable=True"):
        lower.trainable_parameters()


def test_param_groups_and_scheduler_train_as_in_a_plain_loop(batches: Any, train: Train) -> None:
    """AdamW with two groups and OneCycleLR are the very objects given, and step as torch alone steps them."""
    torch.manual_seed(1)
    module, twin = Body().double(), Body().double()
    twin.load_state_dict(module.state_dict())
    optimizer = two_groups(module)
    scheduler = one_cycle(optimizer)
    lower = LowerProblem("lower", None, module, optimizer, scheduler, batches)
    trace = []
    for _ in range(10):
        train(lower, 1)
        trace.append(lower.report.learning_rates)
    assert lower.optimizer is optimizer
    assert lower.learning_rate_scheduler is scheduler
    plain = two_groups(twin)
    schedule = one_cycle(plain)
    for step in range(10):
        assert trace[step] == tuple(group["lr"] for group in plain.param_groups)
        plain.zero_grad()
        twin(**batches[step % len(batches)])["loss"].backward()
        plain.step()
        schedule.step()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(module.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize(
    ("optimizer", "match"),
    [
        (lambda module: None, "'lower' has no optimizer.*configure_optimizer"),
        (lambda module: SGD(module.head.parameters()), r"lacks 2 .*\(middle.weight, middle.bias\) and holds 0 that"),
        (lambda module: SGD(module.parameters()), "lacks 0 .* and holds 2 that are not the level's"),
    ],
)
def test_optimizers_that_are_refused(module: Body, batches: Any, train: Train, optimizer: Any, match: str) -> None:
    lower = LowerProblem("lower", None, module, optimizer(module), train_data_loader=batches)
    with pytest.raises(SettingsError, match=match):
        train(lower, 1)


class Placed(Body):
    """A model that has placed itself, such as a quantised one; moving it would break it."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("moved")


@pytest.mark.parametrize("mark", ["is_quantized", "hf_device_map"])
def test_placed_model_is_not_moved(batches: Any, train: Train, mark: str) -> None:
    module = Placed()
    module.double()
    with pytest.raises(AssertionError, match="moved"):
        train(level(module, batches), 1)
    setattr(module, mark, {"": 0})
    train(level(module, batches), 1)


def test_empty_loader_is_refused_by_name(module: Body, train: Train) -> None:
    rows: Any = [{"x": torch.ones(3), "y": torch.ones(())}] * 3
    lower = level(module, DataLoader(rows, batch_size=4, drop_last=True))
    with pytest.raises(DataError, match="data loader of level 'lower' gives no batch.*drop_last"):
        train(lower, 1)


def test_exhausted_generator_is_refused(module: Body, batches: Any, train: Train) -> None:
    lower = level(module, iter(batches))
    train(lower, 4)
    before = module.head.weight.clone()
    with pytest.raises(DataError, match="'lower' gave nothing when opened again.*such as a DataLoader"):
        train(lower, 1)
    assert torch.equal(module.head.weight, before)


class Stream(IterableDataset[dict[str, Tensor]]):
    """Rows without a number of rows."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter([{"x": torch.ones(3).double(), "y": torch.ones(()).double()}] * 3)


def test_loader_over_a_stream_is_opened_again(module: Body, train: Train) -> None:
    loader: Any = DataLoader(Stream(), batch_size=1)
    assert number_of_batches(loader) is None
    lower = level(module, loader)
    train(lower, 7)
    assert lower.epoch_counter == [2]


def test_a_loader_begins_again_at_its_end_and_on_request(module: Body, batches: Any, train: Train) -> None:
    lower = level(module, batches)
    ends: list[int] = []
    lower.epoch_listeners.append(lambda: ends.append(lower.count))
    train(lower, 10)
    assert ends == [5, 9]  # the count of the step that found the loader of four at its end
    lower.restart_loader()
    train(lower, 1)
    assert torch.equal(lower.cur_batch["x"], batches[0]["x"])


def test_two_loaders_give_a_pair(module: Body, batches: Any, train: Train) -> None:
    lower = level(module, (batches, batches[:1]))
    lower.training_step = lambda pair: module(**pair[0])["loss"] + module(**pair[1])["loss"]
    ends: list[int] = []
    lower.epoch_listeners.append(lambda: ends.append(lower.count))
    train(lower, 2)
    assert ends == []  # an epoch is one of the first loader
    first, second = lower.cur_batch
    assert torch.equal(first["x"], batches[1]["x"])
    assert torch.equal(second["x"], batches[0]["x"])
    assert lower.epoch_counter == [0, 1]


def test_loaders_batch_is_left_alone(module: Body, train: Train) -> None:
    """A BatchEncoding arrives as a mapping; what a training step does to its batch stays its own affair."""
    encoding = BatchEncoding({"x": torch.ones(2, 3).double(), "y": torch.ones(2).double()})
    lower = level(module, [encoding])
    seen: list[type] = []

    def training_step(batch: Any) -> Any:
        seen.append(type(batch))
        return module(x=batch.pop("x"), y=batch.pop("y"))["loss"]

    lower.training_step = training_step
    train(lower, 2)
    assert seen == [dict, dict]
    assert (type(lower.cur_batch), sorted(lower.cur_batch)) == (dict, ["x", "y"])
    assert (type(encoding), sorted(encoding)) == (BatchEncoding, ["x", "y"])


@pytest.mark.parametrize("hook", ["custom_optimizer_step", "param_groups"])
def test_hooks_of_betty_that_are_never_called_are_refused(hook: str) -> None:
    kind = type("Own", (LowerProblem,), {hook: lambda self: None})
    with pytest.raises(SettingsError, match=rf"defines {hook}\(\), which is not called here; use "):
        kind("lower")


UNREAD = {field.name: field.default for field in dataclasses.fields(Config) if field.name not in READ}


def test_fields_that_are_read() -> None:
    assert {*READ} == {"unroll_steps", "gradient_accumulation", "gradient_clipping", "precision", "warmup_steps"}


@pytest.mark.parametrize(("name", "default"), UNREAD.items())
def test_fields_that_nobody_reads(name: str, default: Any) -> None:
    value = "cg" if name == "type" else not default if isinstance(default, bool) else default + 1
    with pytest.raises(SettingsError, match=f"config of level 'upper': {name}={value!r} is not read"):
        UpperProblem("upper", Config(**{name: value}), nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("unroll_steps", 0, "at least 1"),
        ("gradient_accumulation", 0, "at least 1"),
        ("warmup_steps", -1, "at least 0"),
        ("gradient_clipping", -1.0, "positive, or 0 for none"),
        ("gradient_clipping", math.nan, "positive, or 0 for none"),
        ("precision", "fp8", "known: fp32, bf16, fp16"),
    ],
)
def test_values_out_of_range(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(SettingsError, match=f"config of level 'lower': {name} is {value!r}; .*{allowed}"):
        LowerProblem("lower", Config(**{name: value}), nn.Linear(1, 1))


def test_all_faults_are_told_together() -> None:
    config = Config(type="cg", unroll_steps=0, gradient_accumulation=-2, precision="half")
    with pytest.raises(SettingsError, match="type='cg'.*; unroll_steps is 0.*; gradient_accumulation is -2.*'half'"):
        check_config(config, level="lower")


@pytest.mark.parametrize(
    "settings",
    [{}, dict(unroll_steps=4, gradient_accumulation=2, gradient_clipping=1.0, precision="bf16", warmup_steps=8)],
)
def test_good_configs_pass(settings: dict[str, Any]) -> None:
    check_config(Config(**settings), level="lower")
