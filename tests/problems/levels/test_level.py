"""The step of a level: accumulation, clipping, schedules, losses and hooks, against plain torch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from betty.configs import Config
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR
from transformers.modeling_outputs import SequenceClassifierOutput

from bilora.errors import SettingsError
from bilora.problems import LowerProblem

Train = Callable[[LowerProblem, int], None]
Batch = dict[str, Tensor]


class Regression(nn.Module):
    """A linear model that answers as transformers' models do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1, dtype=torch.float64)

    def forward(self, x: Tensor, y: Tensor) -> SequenceClassifierOutput:
        prediction = self.linear(x).squeeze(-1)
        return SequenceClassifierOutput(loss=((prediction - y) ** 2).mean(), logits=prediction)


@pytest.fixture
def batches() -> list[Batch]:
    return [{"x": torch.randn(6, 3).double(), "y": torch.randn(6).double()} for _ in range(8)]


def make(batches: list[Batch], *, rate: float = 0.1, scheduler: Any = None, **config: Any) -> Any:
    torch.manual_seed(2)
    module = Regression()
    optimizer = SGD(module.parameters(), lr=rate)
    made = None if scheduler is None else scheduler(optimizer)
    return LowerProblem("lower", Config(**config), module, optimizer, made, batches)


def weights(level: LowerProblem) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in level.trainable_parameters()])


@pytest.mark.parametrize("clipping", [0.0, 0.05])
@pytest.mark.parametrize("sizes", [(6, 6, 6, 6), (1, 6, 2, 5)])
def test_accumulated_gradient_is_the_full_batch_gradient(
    batches: list[Batch], train: Train, clipping: float, sizes: tuple[int, ...]
) -> None:
    batches = [
        {key: rows[:size] for key, rows in batch.items()} for batch, size in zip(batches, 2 * sizes, strict=True)
    ]
    small = make(batches, gradient_accumulation=4, gradient_clipping=clipping)
    halves = (batches[:4], batches[4:])
    whole = [{key: torch.cat([batch[key] for batch in half]) for key in ("x", "y")} for half in halves]
    large = make(whole, gradient_clipping=clipping)
    start = weights(small)
    train(small, 3)
    assert torch.equal(weights(small), start)
    train(small, 5)
    train(large, 2)
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-13, atol=1e-14)
    assert not torch.equal(weights(small), start)
    assert small.report.loss == pytest.approx(large.report.loss, rel=1e-13)
    assert small.report.gradient_norm == pytest.approx(large.report.gradient_norm, rel=1e-13)


def test_clipping_is_torchs(batches: list[Batch], train: Train) -> None:
    level = make(batches, gradient_clipping=0.5)
    twin = make(batches).module
    twin(**batches[0])["loss"].backward()
    norm = nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
    SGD(twin.parameters(), lr=0.1).step()
    train(level, 1)
    assert norm > 0.5
    assert level.report.gradient_norm == norm.item()  # as it was before clipping
    assert torch.equal(weights(level), nn.utils.parameters_to_vector(twin.parameters()))


def test_small_gradients_are_not_clipped(batches: list[Batch], train: Train) -> None:
    clipped, free = make(batches, gradient_clipping=1e6), make(batches)
    for level in (clipped, free):
        train(level, 3)
    assert torch.equal(weights(clipped), weights(free))


@pytest.mark.parametrize(
    "scheduler", [partial(StepLR, step_size=2, gamma=0.5), partial(OneCycleLR, max_lr=0.1, total_steps=10)]
)
def test_scheduler_steps_once_an_optimizer_step(
    batches: list[Batch], train: Train, scheduler: Callable[[Any], LRScheduler]
) -> None:
    level = make(batches, scheduler=scheduler, gradient_accumulation=4)
    trace = []
    for _ in range(6):
        train(level, 4)
        trace += [level.report.learning_rates[0], level.optimizer.param_groups[0]["lr"]]
    optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    plain, expected = scheduler(optimizer), [optimizer.param_groups[0]["lr"]]
    for _ in range(6):
        optimizer.step()
        plain.step()
        expected += [optimizer.param_groups[0]["lr"]] * 2  # after this step, and in the next one
    assert trace == expected[:-1]


def test_plateau_scheduler_sees_the_mean_loss_of_the_step(batches: list[Batch], train: Train) -> None:
    """With a learning rate of next to nothing the loss of two batches stays where it is, and patience ends."""
    level = make(
        batches[:2],
        rate=1e-12,
        scheduler=lambda optimizer: ReduceLROnPlateau(optimizer, patience=2, factor=0.5, threshold=1e-6, eps=0),
        gradient_accumulation=2,
    )
    expected_best = sum(level.module(**batch)["loss"].item() for batch in batches[:2]) / 2
    rates = []
    for _ in range(6):
        train(level, 2)
        rates.append(level.optimizer.param_groups[0]["lr"])
    assert level.learning_rate_scheduler.best == pytest.approx(expected_best, rel=1e-12)
    assert rates == [1e-12, 1e-12, 1e-12, 5e-13, 5e-13, 5e-13]


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (lambda output: output["loss"], {}),
        (lambda output: {"loss": output["loss"], "constant": torch.tensor(2.0)}, {"constant": 2.0}),
        (lambda output: output, {}),
    ],
    ids=["tensor", "dict", "ModelOutput"],
)
def test_training_step_may_return(batches: list[Batch], train: Train, answer: Any, parts: dict[str, float]) -> None:
    level, plain = make(batches), make(batches)
    level.training_step = lambda batch: answer(level.module(**batch))
    train(level, 2)
    train(plain, 2)
    assert torch.equal(weights(level), weights(plain))
    assert level.report.parts == parts


def test_penalty_is_added_and_told_apart(batches: list[Batch], train: Train) -> None:
    level = make(batches[:1])
    plain = level.module(**batches[0])["loss"].item()
    square = (level.module.linear.weight**2).sum().item()
    level.penalty = lambda: 0.3 * (level.module.linear.weight**2).sum()
    before = level.module.linear.bias.detach().clone(), level.module.linear.weight.detach().clone()
    gradients = torch.autograd.grad(level.module(**batches[0])["loss"], list(level.module.parameters()))
    train(level, 1)
    assert level.report.loss == pytest.approx(plain + 0.3 * square, rel=1e-14)
    assert level.report.parts == pytest.approx({"task_loss": plain, "penalty": 0.3 * square}, rel=1e-14)
    torch.testing.assert_close(level.module.linear.bias, before[0] - 0.1 * gradients[1])
    torch.testing.assert_close(level.module.linear.weight, before[1] - 0.1 * (gradients[0] + 0.6 * before[1]))


@pytest.mark.parametrize(
    ("output", "match"),
    [
        (lambda loss: None, "'lower' returned NoneType without a loss tensor"),
        (lambda loss: {"total": loss}, "'lower' returned dict without a loss tensor"),
        (lambda loss: loss.expand(3), r"'lower' has shape \(3,\)"),
        (lambda loss: loss.detach(), "'lower' depends on no trainable parameter"),
    ],
)
def test_loss_that_cannot_be_trained_on(
    batches: list[Batch], train: Train, output: Callable[[Tensor], Any], match: str
) -> None:
    level = make(batches)
    start = weights(level)
    level.training_step = lambda batch: output(level.module(**batch)["loss"])
    with pytest.raises(SettingsError, match=match):
        train(level, 1)
    assert torch.equal(weights(level), start)


def test_hooks_fire_when_they_say(batches: list[Batch], train: Train) -> None:
    level = make(batches[:3], gradient_accumulation=2)
    fired: list[str] = []
    for name in ("on_inner_loop_start", "grad_callback", "param_callback", "epoch_callback"):
        setattr(level, name, lambda name=name: fired.append(name))
    train(level, 4)
    assert fired == [
        *["on_inner_loop_start", "grad_callback", "grad_callback", "param_callback"],
        # The loader of three is at its end when the fourth batch is asked for.
        *["on_inner_loop_start", "grad_callback", "epoch_callback", "grad_callback", "param_callback"],
    ]


def test_take_step_is_where_an_optimizer_is_added_to(batches: list[Batch], train: Train) -> None:
    """It sees clipped gradients, and runs once an optimizer step."""

    class Noting(LowerProblem):
        norms: list[float] = []

        def take_step(self) -> None:
            grads = [parameter.grad for parameter in self.trainable_parameters()]
            self.norms.append(nn.utils.get_total_norm(grads).item())
            super().take_step()

    module = Regression()
    optimizer = Adam(module.parameters())
    config = Config(gradient_accumulation=2, gradient_clipping=0.01)
    level = Noting("lower", config, module, optimizer, train_data_loader=batches)
    train(level, 6)
    assert level.norms == pytest.approx([0.01] * 3, rel=1e-3)


class Tall(LowerProblem):
    """A tall matrix that its loss takes transposed, and whose gradient autograd therefore gives transposed."""

    def training_step(self, batch: Tensor) -> Tensor:
        return ((self.module.weight.T.contiguous() - batch) ** 2).mean()


def test_a_fused_optimizer_steps_as_one_that_is_not(train: Train) -> None:
    ended, target = [], torch.arange(10.0).double().reshape(2, 5)
    for fused in (True, False):
        torch.manual_seed(0)
        module = nn.Linear(2, 5, bias=False).double()
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=fused)
        level = Tall("lower", Config(gradient_accumulation=2), module, optimizer, None, [target])
        (gradient,) = torch.autograd.grad(level.training_step(target), [module.weight])
        assert gradient.stride() != module.weight.stride()
        train(level, 6)
        ended.append(module.weight.detach())
    assert torch.allclose(ended[0], ended[1], rtol=1e-12, atol=0.0)
