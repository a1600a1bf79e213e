"""Compiled levels: one graph for both and for the displaced passes, the same numbers, nothing left behind."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from bilora.engines.bilevel import BilevelEngine, compiled
from bilora.engines.settings import FitSettings
from bilora.errors import SettingsError
from bilora.problems import LowerProblem, UpperProblem


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Forget the graphs of other tests."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


CENTRAL = {"name": "darts", "finite_difference": "central"}


def _values(make: Callable[..., Any], backend: Any, *, mode: Any = "default") -> torch.Tensor:
    problem = make("bert", dropout=0.1, hypergradient=CENTRAL, steps=4, unroll=2)
    problem.model.config.problem_type = "single_label_classification"
    problem.upper.optimizer.param_groups[0]["lr"] = 0.1
    torch.manual_seed(5)
    with compiled(problem.model, mode, levels=problem.engine.levels, backend=backend):
        problem.engine.run()
    return torch.cat([weight.detach().flatten() for weight in problem.model.parameters() if weight.requires_grad])


def test_levels_and_displaced_passes_share_one_graph(make_transformer: Callable[..., Any]) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    _values(make_transformer, backend)
    assert len(graphs) == 1


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_the_numbers_are_those_of_the_eager_model(make_transformer: Callable[..., Any], mode: str) -> None:
    eager = _values(make_transformer, "eager", mode="off")
    # aot_eager runs the graphs that autograd makes, which is where the masks of a replay could get lost.
    same = _values(make_transformer, "aot_eager", mode=mode)
    torch.testing.assert_close(same, eager, rtol=1e-4, atol=1e-6)


class Masked(nn.Module):
    """One layer per level with dropout between them, small enough for inductor to build in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.dropout, self.upper = nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.upper(self.dropout(self.lower(x))).square().mean()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own, of torch.jit
def test_inductor_replays_the_masks_of_the_lower_step() -> None:
    torch.manual_seed(0)
    model, levels = Masked(), []
    for name, kind in (("lower", LowerProblem), ("upper", UpperProblem)):
        parameters = dict(getattr(model, name).named_parameters())
        level: Any = type("Level", (kind,), {"level_parameters": lambda self, own=parameters: own})(name, None, model)
        # At a rate of zero, so that the replay is at the parameters of the step.
        level.optimizer, level.train_data_loader = torch.optim.SGD(parameters.values(), lr=0.0), [torch.randn(6, 8)]
        level.training_step = model
        levels.append(level)
    hypergradient = {"name": "darts", "finite_difference": "forward"}
    engine = BilevelEngine(*levels, steps=3, hypergradient=hypergradient, device="cpu")
    with compiled(model, "default"):
        engine.run()
        engine.train()
        again = levels[0].replayed_gradient(levels[0].trainable_parameters())
    for replayed, first in zip(again, levels[0].recorded_step().lower_gradient, strict=True):
        assert first.any()
        torch.testing.assert_close(replayed, first, rtol=1e-4, atol=1e-7)


def test_the_model_is_afterwards_as_it_was() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="stop"), compiled(model, "default", backend="eager"):
        assert model._compiled_call_impl is not None
        raise RuntimeError("stop")
    assert model._compiled_call_impl is None


def test_with_cuda_graphs_losses_and_gradients_are_copies(make_transformer: Callable[..., Any]) -> None:
    problem = make_transformer("bert", dropout=0.0, hypergradient=CENTRAL)
    problem.engine.run()
    problem.engine.train()
    level = problem.lower
    batch = level.train_data_loader[0][0]
    given: list[torch.Tensor] = []
    real = torch.autograd.grad
    with compiled(problem.model, "reduce-overhead", levels=problem.engine.levels, backend="eager"):
        assert level.copies_outputs and problem.upper.copies_outputs
        loss = level.training_step_exec(batch)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.autograd, "grad", lambda *a, **k: given.extend(real(*a, **k)) or tuple(given))
            copies = level.scaled_gradients(loss, level.trainable_parameters())
    for one, other in zip(given, copies, strict=True):
        assert torch.equal(one, other) and one.data_ptr() != other.data_ptr()
    assert not level.copies_outputs


@pytest.mark.parametrize(
    ("mode", "settings", "fault"),
    [
        ("default", {"hypergradient": {"name": "darts", "products": "exact"}}, "no second derivative"),
        ("default", {"meter": 2}, "no second derivative"),
        ("fast", {}, "allowed: off, default"),
    ],
)
def test_second_derivatives_and_unknown_modes_are_refused(mode: Any, settings: dict[str, Any], fault: str) -> None:
    FitSettings(**settings)
    with pytest.raises(SettingsError, match=fault):
        FitSettings(torch_compile=mode, **settings)
