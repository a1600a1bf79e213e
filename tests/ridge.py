"""A ridge regression whose penalties the upper level learns: everything about its hypergradient has a closed form."""

from dataclasses import dataclass
from typing import Any

from betty.engine import Engine
from torch import Tensor, nn

from bilora.tensors import Tensors, dot, norm

DIRECT = 0.1


class Vector(nn.Module):
    """One float64 tensor as a module."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value.clone().double())


class LowerLoss:
    """L1(V, E) = mean (X V - y)^2 + sum_j exp(E_j) V_j^2, with a log-penalty per feature."""

    module: Vector
    upper: Any

    def training_step(self, batch: Any) -> Tensor:
        inputs, targets = batch
        penalty = (self.upper.module.value.exp() * self.module.value**2).sum()
        return ((inputs @ self.module.value - targets) ** 2).mean() + penalty


class UpperLoss:
    """L2(V, E) = mean (Z V - t)^2 + DIRECT |E|^2."""

    module: Vector
    lower: Any

    def training_step(self, batch: Any) -> Tensor:
        inputs, targets = batch
        return ((inputs @ self.lower.module.value - targets) ** 2).mean() + DIRECT * (self.module.value**2).sum()


def cosine(left: Tensors, right: Tensors) -> float:
    """Return the cosine of the angle between two vectors, each of one tensor per parameter."""
    return dot(left, right) / (norm(left) * norm(right))


def run_engine(engine: Engine, micro_batches: int) -> None:
    """Step an engine of Betty's; its own ``run`` would also close it."""
    engine.train()
    for _ in range(micro_batches):
        engine.global_step += 1
        engine.train_step()


@dataclass
class Ridge:
    """Both levels, wired and ready to step, and the batches that they were given."""

    engine: Any
    lower: Any
    upper: Any
    lower_batches: list[tuple[Tensor, Tensor]]
    upper_batches: list[tuple[Tensor, Tensor]]

    @property
    def V(self) -> Tensor:
        """The lower parameters."""
        return self.lower.module.value  # type: ignore[no-any-return]

    @property
    def E(self) -> Tensor:
        """The upper parameters."""
        return self.upper.module.value  # type: ignore[no-any-return]

    def run(self, micro_batches: int = 1) -> None:
        """Give the lower level so many micro-batches, and the upper level the batches that follow from them."""
        run_engine(self.engine, micro_batches)

    def v(self) -> Tensor:
        """Return d_V L2 on the first upper batch at the lower parameters as they are now."""
        return self.error_gradient(self.upper_batches[0])

    def error_gradient(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the gradient of the mean squared error in V."""
        inputs, targets = batch
        return 2 * inputs.T @ (inputs @ self.V.detach() - targets) / len(targets)

    def lower_gradient(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return d_V L1."""
        return self.error_gradient(batch) + 2 * self.E.detach().exp() * self.V.detach()
