"""What a lower level remembers, when, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from betty.configs import Config
from torch import Tensor, nn
from torch.optim import SGD

from bilora.problems import LowerProblem, Needs

MakeRidge = Callable[..., Any]
EVERYTHING = Needs(steps=1, parameters_before=True, upper_gradient=True)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of forward passes that were recorded, one entry each."""
    count: list[int] = []
    original = torch.get_rng_state

    def counted() -> Tensor:
        count.append(1)
        return original()

    monkeypatch.setattr(torch, "get_rng_state", counted)
    return count


@pytest.mark.parametrize(("unroll", "gas", "warmup"), [(1, 1, 0), (3, 1, 0), (2, 4, 0), (1, 3, 6), (2, 1, 3)])
def test_only_steps_that_an_upper_step_follows_are_recorded(
    make_ridge: MakeRidge, stub: Any, taken: list[int], unroll: int, gas: int, warmup: int
) -> None:
    """All micro-batches of the last optimizer step before an upper step, and no other."""
    config = Config(unroll_steps=unroll, gradient_accumulation=gas, warmup_steps=warmup)
    ridge = make_ridge(lower_config=config, hypergradient=stub(needs=Needs(steps=1)))
    recorded = []
    for _ in range(24):
        before = len(taken)
        ridge.run(1)
        recorded.append(len(taken) - before)
    steps = [-(-micro // gas) for micro in range(1, 25)]
    followed = [step for step in set(steps) if step % unroll == 0 and step * gas > warmup]
    assert recorded == [int(step in followed) for step in steps]
    assert len(ridge.lower.recorded_step().micro_batches) == gas


def test_nothing_is_recorded_unless_asked_for(make_ridge: MakeRidge, taken: list[int]) -> None:
    ridge = make_ridge()
    ridge.run(3)
    assert taken == []
    assert not ridge.lower._steps
    with pytest.raises(RuntimeError, match="level 'lower' has recorded 0 steps, not 1; set its 'needs'"):
        ridge.lower.replayed_gradient([ridge.V])


def test_single_level_records_nothing(train: Any, taken: list[int]) -> None:
    module = nn.Linear(3, 1)
    optimizer = SGD(module.parameters(), lr=0.1)
    level: Any = LowerProblem("lower", None, module, optimizer, train_data_loader=[torch.ones(2, 3)])
    level.training_step = lambda batch: module(batch).mean()
    level.needs = EVERYTHING
    train(level, 2)
    assert not taken and not level._steps


def test_recorded_step_in_closed_form(make_ridge: MakeRidge, stub: Any) -> None:
    """Parameters before the step, d_E L1 = exp(E) V^2 there, the rate it was taken at, and its batches."""
    config = Config(gradient_accumulation=2)
    ridge = make_ridge(lower_config=config, hypergradient=stub(needs=EVERYTHING))
    before = ridge.V.detach().clone()
    gradient = sum(ridge.lower_gradient(batch) for batch in ridge.lower_batches[:2]) / 2
    expected = ridge.E.detach().exp() * before**2
    ridge.run(2)
    step = ridge.lower.recorded_step()
    assert torch.equal(step.parameters_before[0], before)
    torch.testing.assert_close(step.upper_gradient[0], expected, rtol=1e-13, atol=0)
    assert step.learning_rates == (0.05,)
    pairs = zip(step.micro_batches, ridge.lower_batches[:2], strict=True)
    assert all(torch.equal(micro.batch[0], batch[0]) for micro, batch in pairs)
    torch.testing.assert_close(ridge.V.detach(), before - 0.05 * gradient, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("needs", "before", "gradient"),
    [
        (Needs(steps=1), False, False),
        (Needs(steps=1, parameters_before=True), True, False),
        (Needs(steps=1, upper_gradient=True), False, True),
    ],
)
def test_only_what_is_needed_is_held(
    make_ridge: MakeRidge, stub: Any, needs: Needs, before: bool, gradient: bool
) -> None:
    ridge = make_ridge(hypergradient=stub(needs=needs))
    ridge.run(1)
    step = ridge.lower.recorded_step()
    assert (step.parameters_before is not None, step.upper_gradient is not None) == (before, gradient)


def test_recording_changes_no_step(make_ridge: MakeRidge, stub: Any) -> None:
    config = Config(gradient_accumulation=2, unroll_steps=2)
    plain = make_ridge(lower_config=config)
    recording = make_ridge(lower_config=config, hypergradient=stub(needs=EVERYTHING))
    plain.run(12)
    recording.run(12)
    assert torch.equal(plain.V, recording.V)
    assert torch.equal(plain.E, recording.E)


def test_upper_gradient_costs_no_pass_of_its_own(
    make_ridge: MakeRidge, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ridge = make_ridge(hypergradient=stub(needs=EVERYTHING))
    inputs: list[int] = []
    original = torch.autograd.grad

    def counted(outputs: Any, given: Any, **kwargs: Any) -> Any:
        inputs.append(len(given))
        return original(outputs, given, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    ridge.run(1)
    # One for the lower step with V and E, one for the upper step with E and V.
    assert inputs == [2, 2]


def test_learning_rates_follow_the_param_groups(make_ridge: MakeRidge, stub: Any) -> None:
    """One rate a parameter, in the order of the parameters, as it was when the step was taken."""
    ridge = make_ridge(hypergradient=stub(needs=Needs(steps=1)))
    second = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    ridge.lower._named_parameters = {"first": ridge.V, "second": second}
    groups = [{"params": [second], "lr": 0.3}, {"params": [ridge.V], "lr": 0.2}]
    ridge.lower.optimizer = SGD(groups)
    ridge.lower.learning_rate_scheduler = torch.optim.lr_scheduler.StepLR(ridge.lower.optimizer, 1, gamma=0.1)
    ridge.run(1)
    assert ridge.lower.recorded_step().learning_rates == (0.2, 0.3)
    ridge.run(1)
    assert ridge.lower.recorded_step().learning_rates == pytest.approx((0.02, 0.03), rel=1e-15)


def test_gradient_in_parameters_of_either_level(make_ridge: MakeRidge, stub: Any) -> None:
    """d_V L1 and d_E L1 of the recorded step at the parameters as they are now; zeros for a stranger."""
    config = Config(gradient_accumulation=2)
    ridge = make_ridge(lower_config=config, hypergradient=stub(needs=Needs(steps=1)))
    ridge.run(2)
    stranger = nn.Parameter(torch.ones(3))
    with torch.no_grad():
        ridge.V.mul_(2)
    found: tuple[Tensor, ...] = ridge.lower.replayed_gradient([ridge.V, ridge.E, stranger])
    expected = sum(ridge.lower_gradient(batch) for batch in ridge.lower_batches[:2]) / 2
    torch.testing.assert_close(found[0], expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found[1], ridge.E.detach().exp() * ridge.V.detach() ** 2, rtol=1e-12, atol=0)
    assert torch.equal(found[2], torch.zeros(3))
    assert ridge.V.grad is None
    assert ridge.E.grad is None
