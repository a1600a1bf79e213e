"""Stock Betty's hypergradients, taken of the same levels at the same point."""

from typing import Any

import torch
from betty.configs import Config
from betty.hypergradient import jvp_fn_mapping
from betty.problems import ImplicitProblem
from known_problems import KnownProblem
from torch import Tensor, nn

from bilora.problems import LowerProblem, UpperProblem
from bilora.tensors import Tensors


class StockProblem(ImplicitProblem):  # type: ignore[misc]  # Betty carries no types
    """Betty's own problem with the module, loss, last batch and optimizer of one of our levels."""

    def __init__(self, level: LowerProblem | UpperProblem, config: Config) -> None:
        super().__init__(level.name, config, level.module, level.optimizer)
        self.level = level
        self.cur_batch = level.cur_batch
        self._strategy = "default"

    def training_step(self, batch: Any) -> Tensor:
        """Return the level's loss."""
        return self.level.training_step_exec(batch)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the level's parameters."""
        # Without the frozen base, as Betty's users with adapters do: its own returns all parameters of the module, and
        # its Neumann series then stops at the first frozen one.
        return self.level.trainable_parameters()


class StockBetty:
    """One of Betty's approximations, by its name there, on a known problem."""

    def __init__(self, problem: KnownProblem, name: str, settings: dict[str, Any]) -> None:
        self.problem = problem
        self.function = jvp_fn_mapping[name]
        self.below = StockProblem(problem.lower, Config(type=name, **settings))
        self.above = StockProblem(problem.upper, Config())
        if name == "sama":
            self._remember_gradient()

    def implicit_term(self, vector: Tensors) -> Tensors:
        """Return Betty's implicit term; the masks it draws are new ones, as always in Betty."""
        # Cloned, since Betty scales some of its arguments in place.
        term = self.function([tensor.clone() for tensor in vector], self.below, self.above, False)
        return tuple(tensor.detach() for tensor in term)

    def hypergradient(self) -> None:
        """Take the passes that Betty takes for one upper step: loss, direct gradient, v, and the implicit term."""
        above, below = self.above.trainable_parameters(), self.below.trainable_parameters()
        loss = self.above.training_step_exec(self.above.cur_batch)
        torch.autograd.grad(loss, above, retain_graph=True, allow_unused=True)
        self.implicit_term(torch.autograd.grad(loss, below))

    def _remember_gradient(self) -> None:
        """Leave in the optimizer's state what Betty's own optimizer step leaves there for ``sama``."""
        gradient = self.problem.lower.recorded_step().lower_gradient
        assert gradient is not None  # the problem was run for Adaptive, which needs it
        for parameter, tensor in zip(self.below.trainable_parameters(), gradient, strict=True):
            self.below.optimizer.state[parameter]["last_grad"] = tensor
