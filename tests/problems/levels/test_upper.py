"""The upper level: direct gradient and v from one pass, the implicit term added, in closed form."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from betty.configs import Config
from betty.problems import ImplicitProblem
from torch import Tensor

from bilora.errors import SettingsError
from bilora.problems import UpperProblem

MakeRidge = Callable[..., Any]
RATE = 0.05  # of both levels' SGD, and the weight of the direct part of L2, in the ridge problem
DIRECT = 0.1


def test_v_is_taken_at_the_parameters_after_the_lower_step(make_ridge: MakeRidge, stub: Any) -> None:
    ridge = make_ridge(hypergradient=stub())
    ridge.run(1)
    ((v,),) = ridge.upper.hypergradient.vectors
    torch.testing.assert_close(v, ridge.error_gradient(ridge.upper_batches[0]), rtol=1e-13, atol=1e-14)


def test_step_is_direct_gradient_plus_implicit_term(make_ridge: MakeRidge, stub: Any) -> None:
    """E <- E - rate (2 c E + answer(v))."""
    ridge = make_ridge(hypergradient=stub(answer=lambda vector, lower: (3 * vector[0],)))
    E = ridge.E.detach().clone()
    ridge.run(1)
    v = ridge.error_gradient(ridge.upper_batches[0])
    torch.testing.assert_close(ridge.E.detach(), E - RATE * (2 * DIRECT * E + 3 * v), rtol=1e-13, atol=1e-14)
    assert ridge.upper.direct_norm == pytest.approx((2 * DIRECT * E).norm().item(), rel=1e-13)
    assert ridge.upper.implicit_norm == pytest.approx((3 * v).norm().item(), rel=1e-13)
    whole = (2 * DIRECT * E + 3 * v).norm().item()
    assert ridge.upper.report.gradient_norm == pytest.approx(whole, rel=1e-13)


def test_one_backward_pass_for_direct_gradient_and_v(make_ridge: MakeRidge, monkeypatch: pytest.MonkeyPatch) -> None:
    ridge = make_ridge()
    passes: list[list[Any]] = []

    def count(name: str) -> None:
        original = getattr(torch.autograd, name)

        def counted(outputs: Any, inputs: Any, **kwargs: Any) -> Any:
            passes.append(list(inputs))
            return original(outputs, inputs=inputs, **kwargs)

        monkeypatch.setattr(torch.autograd, name, counted)

    count("grad")
    count("backward")
    ridge.run(1)
    below, above = passes
    assert [id(each) for each in below] == [id(ridge.V)]
    assert [id(each) for each in above] == [id(ridge.E), id(ridge.V)]


def test_loss_without_a_direct_part_gives_zeros(make_ridge: MakeRidge, stub: Any) -> None:
    ridge = make_ridge(hypergradient=stub(answer=lambda vector, lower: (vector[0],)))
    module = ridge.lower.module
    ridge.upper.training_step = lambda batch: ((batch[0] @ module.value - batch[1]) ** 2).mean()
    E = ridge.E.detach().clone()
    ridge.run(1)
    assert ridge.upper.direct_norm == 0.0
    v = ridge.error_gradient(ridge.upper_batches[0])
    torch.testing.assert_close(ridge.E.detach(), E - RATE * v, rtol=1e-13, atol=1e-14)


def test_loss_that_no_lower_parameter_enters_gives_a_zero_v(make_ridge: MakeRidge, stub: Any) -> None:
    ridge = make_ridge(hypergradient=stub())
    ridge.upper.training_step = lambda batch: (ridge.upper.module.value**2).sum()
    E = ridge.E.detach().clone()
    ridge.run(1)
    ((v,),) = ridge.upper.hypergradient.vectors
    assert torch.equal(v, torch.zeros_like(v))
    torch.testing.assert_close(ridge.E.detach(), E - RATE * 2 * E, rtol=1e-13, atol=1e-14)


def test_accumulation_is_the_mean_over_upper_batches(make_ridge: MakeRidge, stub: Any) -> None:
    """Lower parameters held still, two upper micro-batches a step give the mean of their hypergradients."""
    answer = stub(answer=lambda vector, lower: (vector[0],))
    ridge = make_ridge(upper_config=Config(gradient_accumulation=2), hypergradient=answer)
    ridge.lower.optimizer.param_groups[0]["lr"] = 0.0
    E = ridge.E.detach().clone()
    ridge.run(1)
    assert torch.equal(ridge.E, E)
    ridge.run(1)
    v = sum(ridge.error_gradient(batch) for batch in ridge.upper_batches[:2]) / 2
    torch.testing.assert_close(ridge.E.detach(), E - RATE * (2 * DIRECT * E + v), rtol=1e-13, atol=1e-14)


def test_upper_step_leaves_the_lower_level_alone(make_ridge: MakeRidge) -> None:
    ridge = make_ridge()
    V, first = ridge.V.detach().clone(), ridge.lower_gradient(ridge.lower_batches[0])
    ridge.run(1)
    torch.testing.assert_close(ridge.V.detach(), V - RATE * first, rtol=1e-13, atol=1e-14)
    assert ridge.V.grad is None
    assert ridge.E.grad is None


def test_fp16_scale_is_taken_out_of_v_and_of_the_step(make_ridge: MakeRidge, stub: Any) -> None:
    """float64 does not overflow, so under a loss scale the numbers must be those without one."""
    answer = stub(answer=lambda vector, lower: (vector[0],))
    scaled = make_ridge(upper_config=Config(precision="fp16"), hypergradient=answer)
    plain = make_ridge(hypergradient=stub(answer=lambda vector, lower: (vector[0],)))
    scaled.upper.autocast_dtype = None  # the scale alone
    scaled.run(3)
    plain.run(3)
    assert scaled.upper.scaler.get_scale() == 2.0**16
    torch.testing.assert_close(scaled.E, plain.E, rtol=1e-13, atol=1e-14)
    for ours, theirs in zip(answer.vectors, plain.upper.hypergradient.vectors, strict=True):
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-13, atol=1e-14)
    assert scaled.upper.report.gradient_norm == pytest.approx(plain.upper.report.gradient_norm, rel=1e-12)


def test_fp16_overflow_skips_step_and_hypergradient(make_ridge: MakeRidge, stub: Any) -> None:
    """A gradient that overflows only under the loss scale, as float16 does: here beyond 1e3 in float64."""
    ridge = make_ridge(upper_config=Config(precision="fp16"), hypergradient=stub())
    ridge.upper.autocast_dtype = None
    module, plain = ridge.lower.module, ridge.upper.training_step

    def training_step(batch: Any) -> Tensor:
        loss: Tensor = plain(batch)
        if loss.requires_grad:
            module.value.register_hook(overflowing)
        return loss

    ridge.upper.training_step = training_step
    E = ridge.E.detach().clone()
    ridge.run(1)
    assert torch.equal(ridge.E, E)
    assert ridge.upper.hypergradient.vectors == []
    assert ridge.upper.scaler.get_scale() == 2.0**15


def overflowing(gradient: Tensor) -> Tensor:
    return torch.where(gradient.abs() > 1e3, torch.inf, gradient)


def test_level_outside_an_engine_is_told_so(make_ridge: MakeRidge) -> None:
    ridge = make_ridge()
    ridge.upper.hypergradient = None
    with pytest.raises(SettingsError, match="level 'upper' has no hypergradient; run it in a BilevelEngine"):
        ridge.run(1)


def test_level_below_must_be_a_lower_problem(make_ridge: MakeRidge) -> None:
    ridge = make_ridge(kinds=(ImplicitProblem, UpperProblem))
    with pytest.raises(SettingsError, match="below 'upper' is a Ridge; it must be a LowerProblem"):
        ridge.run(1)
