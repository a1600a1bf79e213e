"""Every approximation over levels that are not one tidy float64 vector: idle parameters, two types, accumulation."""

from typing import Any

import pytest
import torch
from betty.configs import Config
from torch import Tensor, nn

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.hypergradients.catalog import HYPERGRADIENTS, build_hypergradient
from bilora.engines.hypergradients.exact import ExactProducts
from bilora.errors import SettingsError
from bilora.problems import LowerProblem, UpperProblem

SIZE = 6
# Damped where the solver needs it; central where a difference is compared to 1e-6.
SETTINGS: dict[str, Any] = {"conjugate_gradient": {"damping": 0.1}, "nystrom": {"damping": 1.0}}
CENTRAL = {"finite_difference": "central"}
CHOICES: list[Any] = [
    {"name": name, **SETTINGS.get(name, {}), **products}
    for name in sorted(HYPERGRADIENTS)
    for products in ([{}] if name == "first_order" else [CENTRAL, {"products": "exact"}])
]


class Levels(nn.Module):
    """Parameters of both levels, each cut into two tensors, which may have two types; one more of each is idle."""

    def __init__(self, types: tuple[torch.dtype, torch.dtype], *, idle: bool) -> None:
        super().__init__()
        values = {"below": torch.linspace(-1.0, 2.0, SIZE).double(), "above": torch.linspace(0.2, 0.8, SIZE).double()}
        parts = {
            f"{name}_{index}": nn.Parameter(part.to(dtype))
            for name, value in values.items()
            for index, (part, dtype) in enumerate(zip(value.split(SIZE // 2), types, strict=True))
        }
        if idle:
            parts |= {"below_idle": nn.Parameter(torch.ones(3)), "above_idle": nn.Parameter(torch.ones(2))}
        self.parts = nn.ParameterDict(parts)

    def named(self, level: str) -> dict[str, nn.Parameter]:
        """Return the parameters of a level."""
        return {name: part for name, part in self.parts.items() if name.startswith(level)}

    def whole(self, level: str) -> Tensor:
        """Return what the losses see of a level."""
        return torch.cat([self.parts[f"{level}_{index}"].double() for index in range(2)])


class Below(LowerProblem):
    """A ridge regression on inputs that the upper level scales."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        return self.module.named("below")

    def training_step(self, batch: Any) -> Tensor:
        inputs, targets = batch
        below, above = self.module.whole("below"), self.module.whole("above")
        return ((inputs @ (above * below) - targets) ** 2).mean() + 0.2 * (below**2).sum()


class Above(UpperProblem):
    """The error on other rows."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        return self.module.named("above")

    def training_step(self, batch: Any) -> Tensor:
        inputs, targets = batch
        return ((inputs @ self.module.whole("below") - targets) ** 2).mean() + 0.1 * self.module.whole("above").sum()


def _rows(seed: int, count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, SIZE, generator=generator).double(), torch.randn(count, generator=generator).double()


def _micro_batches() -> list[tuple[Tensor, Tensor]]:
    """Return two micro-batches, and their rows as one batch."""
    inputs, targets = _rows(2, 16)
    return [*zip(inputs.split(8), targets.split(8), strict=True), (inputs, targets)]


def _upper_gradient(
    choice: Any,
    *,
    types: tuple[torch.dtype, torch.dtype] = (torch.float64, torch.float64),
    idle: bool = False,
    below: list[Any] | None = None,
    above: list[Any] | None = None,
) -> dict[str, Tensor]:
    """Return the hypergradient that one upper step of a real engine steps along, by parameter name."""
    module = Levels(types, idle=idle)
    below, above = below or [_rows(0)], above or [_rows(1)]
    # Three steps: the first of Adam has a derivative of zero, as its length does not depend on the gradient's.
    lower = Below("lower", Config(gradient_accumulation=len(below), unroll_steps=3), module)
    upper = Above("upper", Config(gradient_accumulation=len(above)), module)
    before = {name: E.detach().clone() for name, E in module.named("above").items()}
    lower.optimizer = torch.optim.AdamW(lower.trainable_parameters(), lr=0.05, weight_decay=0.0)
    upper.optimizer = torch.optim.SGD(upper.trainable_parameters(), lr=1.0)
    lower.train_data_loader, upper.train_data_loader = below, above
    # The lower level keeps still between the micro-batches of the upper one, so that they are one step's.
    if len(above) > 1:
        lower.optimizer = torch.optim.SGD(lower.trainable_parameters(), lr=0.0)
    BilevelEngine(lower, upper, steps=3 * len(above), hypergradient=choice, device="cpu").run()
    return {name: before[name] - E.detach() for name, E in module.named("above").items()}


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_parameters_that_no_loss_uses_get_zeros_and_change_nothing(choice: Any) -> None:
    plain, with_idle = _upper_gradient(choice), _upper_gradient(choice, idle=True)
    assert torch.equal(with_idle.pop("above_idle"), torch.zeros(2))
    # The sketch of nystrom is drawn over all parameters, idle ones too, and so is another one.
    if choice["name"] != "nystrom":
        torch.testing.assert_close(with_idle, plain, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_levels_may_hold_parameters_of_two_types(choice: Any) -> None:
    plain, mixed = _upper_gradient(choice), _upper_gradient(choice, types=(torch.float32, torch.float64))
    assert {name: part.dtype for name, part in mixed.items()} == {"above_0": torch.float32, "above_1": torch.float64}
    for name, part in mixed.items():
        torch.testing.assert_close(part.double(), plain[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_micro_batch_of_the_lower_step_enters(choice: Any) -> None:
    one, two, joined = _micro_batches()
    accumulated, whole = _upper_gradient(choice, below=[one, two]), _upper_gradient(choice, below=[joined])
    torch.testing.assert_close(accumulated, whole, rtol=1e-6, atol=1e-9)
    if choice["name"] != "first_order":
        last = _upper_gradient(choice, below=[two])
        assert not torch.allclose(last["above_0"], whole["above_0"], rtol=1e-3)


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice["name"] != "conjugate_gradient"], ids=str)
def test_every_micro_batch_of_the_upper_step_enters(choice: Any) -> None:
    # Conjugate gradients are not linear in v before they have come to an end.
    one, two, joined = _micro_batches()
    accumulated, whole = _upper_gradient(choice, above=[one, two]), _upper_gradient(choice, above=[joined, joined])
    torch.testing.assert_close(accumulated, whole, rtol=1e-6, atol=1e-9)


def test_products_may_be_a_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    target = "bilora.engines.hypergradients.exact.own_products"
    monkeypatch.setattr(target, lambda settings: ExactProducts(around=settings.around), raising=False)
    gradient = _upper_gradient({"name": "darts", "products": "bilora.engines.hypergradients.exact:own_products"})
    torch.testing.assert_close(gradient, _upper_gradient({"name": "darts", "products": "exact"}), rtol=0, atol=0)


def test_unknown_products_are_told_with_what_there_is() -> None:
    with pytest.raises(SettingsError, match="products 'exakt' is unknown; known: exact, .*Did you mean 'exact'"):
        build_hypergradient({"name": "darts", "products": "exakt"})
