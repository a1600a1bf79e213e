"""The upper level: direct gradient and v from one pass, the implicit term added, in closed form."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from betty.configs import Config
from betty.problems import ImplicitProblem
from torch import Tensor

from bilora.errors import SettingsError
from bilora.problems import LowerProblem, Needs, UpperProblem
from bilora.tensors import Tensors

MakeRidge = Callable[..., Any]
RATE = 0.05  # of both levels' SGD, and the weight of the direct part of L2, in the ridge problem
DIRECT = 0.1


def assert_near(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), expected, rtol=1e-13, atol=1e-14)


def thrice(vector: Tensors, lower: LowerProblem) -> Tensors:
    return (3 * vector[0],)


def test_step_is_direct_gradient_plus_implicit_term(make_ridge: MakeRidge, stub: Any) -> None:
    """E <- E - rate (2 c E + answer(v)), with v at the lower parameters after their step."""
    ridge = make_ridge(hypergradient=stub(answer=thrice))
    E = ridge.E.detach().clone()
    ridge.run(1)
    v = ridge.v()
    assert_near(ridge.upper.hypergradient.vectors[0][0], v)
    assert_near(ridge.E, E - RATE * (2 * DIRECT * E + 3 * v))
    assert ridge.upper.direct_norm == pytest.approx((2 * DIRECT * E).norm().item(), rel=1e-13)
    assert ridge.upper.implicit_norm == pytest.approx((3 * v).norm().item(), rel=1e-13)
    assert ridge.upper.report.gradient_norm == pytest.approx((2 * DIRECT * E + 3 * v).norm().item(), rel=1e-13)


@pytest.mark.parametrize("recorded", [False, True])
def test_one_backward_pass_a_level(
    make_ridge: MakeRidge, stub: Any, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    """The recorded d_E L1, and the direct gradient beside v, cost no pass."""
    ridge = make_ridge(hypergradient=stub(needs=Needs(steps=int(recorded), upper_gradient=recorded)))
    passes: list[list[int]] = []

    def count(name: str) -> None:
        original = getattr(torch.autograd, name)

        def counted(outputs: Any, inputs: Any, **kwargs: Any) -> Any:
            passes.append([id(parameter) for parameter in inputs])
            return original(outputs, inputs=inputs, **kwargs)

        monkeypatch.setattr(torch.autograd, name, counted)

    count("grad")
    count("backward")
    ridge.run(1)
    V, E = id(ridge.V), id(ridge.E)
    assert passes == [[V, E] if recorded else [V], [E, V]]


def test_loss_without_a_direct_part_gives_zeros(make_ridge: MakeRidge, stub: Any) -> None:
    ridge = make_ridge(hypergradient=stub(answer=thrice))
    ridge.upper.training_step = lambda batch: ((batch[0] @ ridge.V - batch[1]) ** 2).mean()
    E = ridge.E.detach().clone()
    ridge.run(1)
    assert ridge.upper.direct_norm == 0.0
    assert_near(ridge.E, E - RATE * 3 * ridge.v())


def test_loss_that_no_lower_parameter_enters_gives_a_zero_v(make_ridge: MakeRidge, stub: Any) -> None:
    ridge = make_ridge(hypergradient=stub())
    ridge.upper.training_step = lambda batch: (ridge.E**2).sum()
    E = ridge.E.detach().clone()
    ridge.run(1)
    ((v,),) = ridge.upper.hypergradient.vectors
    assert torch.equal(v, torch.zeros_like(v))
    assert_near(ridge.E, E - RATE * 2 * E)


def test_accumulation_is_the_mean_over_upper_batches(make_ridge: MakeRidge, stub: Any) -> None:
    """Lower parameters held still, two upper micro-batches a step give the hypergradient of their mean."""
    ridge = make_ridge(upper_config=Config(gradient_accumulation=2), hypergradient=stub(answer=thrice))
    ridge.lower.optimizer.param_groups[0]["lr"] = 0.0
    E = ridge.E.detach().clone()
    ridge.run(1)
    v = sum(ridge.error_gradient(batch) for batch in ridge.upper_batches[:2]) / 2
    assert_near(ridge.E, E - RATE * (2 * DIRECT * E + 3 * v))


def test_upper_step_leaves_the_lower_level_alone(make_ridge: MakeRidge) -> None:
    ridge = make_ridge()
    V, first = ridge.V.detach().clone(), ridge.lower_gradient(ridge.lower_batches[0])
    ridge.run(1)
    assert_near(ridge.V, V - RATE * first)
    assert ridge.V.grad is None
    assert ridge.E.grad is None


def test_fp16_scale_is_taken_out_of_v_and_of_the_step(make_ridge: MakeRidge, stub: Any) -> None:
    """float64 does not overflow, so under a loss scale the numbers must be those without one."""
    scaled = make_ridge(upper_config=Config(precision="fp16"), hypergradient=stub(answer=thrice))
    plain = make_ridge(hypergradient=stub(answer=thrice))
    scaled.upper.autocast_dtype = None  # the scale alone
    scaled.run(3)
    plain.run(3)
    assert scaled.upper.scaler.get_scale() == 2.0**16
    assert_near(scaled.E, plain.E.detach())
    vectors = (ridge.upper.hypergradient.vectors for ridge in (scaled, plain))
    for ours, theirs in zip(*vectors, strict=True):
        assert_near(ours[0], theirs[0])
    assert scaled.upper.report.gradient_norm == pytest.approx(plain.upper.report.gradient_norm, rel=1e-12)


def test_fp16_overflow_skips_step_and_hypergradient(make_ridge: MakeRidge, stub: Any) -> None:
    """A gradient that overflows only under the loss scale, as float16 does: here beyond 1e3 in float64."""
    ridge = make_ridge(upper_config=Config(precision="fp16"), hypergradient=stub())
    ridge.upper.autocast_dtype = None
    plain = ridge.upper.training_step

    def training_step(batch: Any) -> Any:
        ridge.V.register_hook(lambda gradient: torch.where(gradient.abs() > 1e3, torch.inf, gradient))
        return plain(batch)

    ridge.upper.training_step = training_step
    E = ridge.E.detach().clone()
    ridge.run(1)
    assert torch.equal(ridge.E, E)
    assert ridge.upper.hypergradient.vectors == []
    assert ridge.upper.scaler.get_scale() == 2.0**15


def test_level_outside_an_engine_is_told_so(make_ridge: MakeRidge) -> None:
    ridge = make_ridge()
    ridge.upper.hypergradient = None
    with pytest.raises(SettingsError, match="level 'upper' has no hypergradient; run it in a BilevelEngine"):
        ridge.run(1)


def test_level_below_must_be_a_lower_problem(make_ridge: MakeRidge) -> None:
    ridge = make_ridge(kinds=(ImplicitProblem, UpperProblem))
    with pytest.raises(SettingsError, match="below 'upper' is a Ridge; it must be a LowerProblem"):
        ridge.run(1)
