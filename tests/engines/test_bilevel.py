"""The engine: its schedule, its validation, and what it refuses."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from betty.configs import Config
from torch import Tensor, nn

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.callback import Callback
from bilora.errors import DivergedError, SettingsError
from bilora.problems import LowerProblem, UpperProblem

Make = Callable[..., BilevelEngine]


def parameters(engine: BilevelEngine) -> list[Tensor]:
    return [tensor.detach().clone() for level in engine.levels for tensor in level.trainable_parameters()]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("upper_accumulation", [1, 2])
@pytest.mark.parametrize("lower_accumulation", [1, 3])
@pytest.mark.parametrize(("unroll", "warmup"), [(1, 0), (2, 0), (3, 0), (2, 4), (2, 5), (3, 2)])
def test_refusal_of_too_few_steps_is_exact(
    make_engine: Make, unroll: int, warmup: int, lower_accumulation: int, upper_accumulation: int
) -> None:
    """With the fewest steps that are taken the upper level steps once; with one less the engine says so."""
    below = Config(
        unroll_steps=unroll, warmup_steps=warmup * lower_accumulation, gradient_accumulation=lower_accumulation
    )
    configs = {"lower_config": below, "upper_config": Config(gradient_accumulation=upper_accumulation)}
    fewest = (warmup // unroll + 1) * unroll
    engine = make_engine(steps=fewest, **configs)
    engine.run()
    assert (engine.step, engine.upper_step) == (fewest, 1)
    fault = f"steps is {fewest - 1}, .* for the first time at step {fewest}:" if fewest > 1 else "steps is 0;"
    with pytest.raises(SettingsError, match=fault):
        make_engine(steps=fewest - 1, **configs)


def test_upper_accumulation_steps_along_the_mean(make_engine: Make) -> None:
    """Two micro-batches of the upper level, at the same answer of the lower one, make one step."""
    below: list[Tensor] = []

    class Watch(Callback):
        def on_step(self, engine: BilevelEngine, record: Any) -> None:
            if engine.step % 2 == 0:
                below.append(engine.lower_level.module.below.detach().clone())

    engine = make_engine(steps=2, callbacks=[Watch()], upper_config=Config(gradient_accumulation=2))
    upper: Any = engine.upper_level
    before = upper.module.above.detach().clone()
    labels = [batch["labels"].double() for batch in upper.train_data_loader[0][:2]]
    engine.run()
    gradients = [2 * (below[0] + before - label) / 4 for label in labels]
    expected = before - 0.1 * (gradients[0] + gradients[1]) / 2
    torch.testing.assert_close(upper.module.above.detach(), expected, rtol=0, atol=1e-15)


def test_single_level_never_steps_above(make_engine: Make) -> None:
    engine = make_engine(single=True, steps=3)
    above = engine.lower_level.module.above.detach().clone()
    engine.run()
    assert (engine.step, engine.upper_step, engine.levels) == (3, 0, (engine.lower_level,))
    assert torch.equal(engine.lower_level.module.above, above)


@pytest.mark.parametrize(
    ("every", "steps", "at"),
    [(0, 5, [5]), (1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (2, 4, [2, 4]), (3, 7, [3, 6, 7]), (9, 4, [4])],
)
def test_validation_every_so_many_steps_and_at_the_end(
    make_engine: Make, every: int, steps: int, at: list[int]
) -> None:
    seen: list[tuple[int, bool, bool]] = []

    def validate() -> dict[str, float | None]:
        seen.append((engine.step, engine.lower_level.module.training, torch.is_grad_enabled()))
        return {"loss": float(len(seen))}

    engine = make_engine(steps=steps, validate=validate, validate_every=every)
    engine.run()
    assert seen == [(step, False, False) for step in at]
    assert torch.is_grad_enabled()
    assert engine.last_validation is not None
    assert (engine.last_validation.step, engine.last_validation.metrics) == (steps, {"loss": float(len(at))})


def test_training_does_not_notice_what_validation_draws(make_engine: Make) -> None:
    def validate() -> dict[str, float | None]:
        torch.rand(3), random.random(), np.random.rand()
        return {}

    plain, validated = make_engine(steps=6), make_engine(steps=6, validate=validate, validate_every=1)
    ends = []
    for engine in (plain, validated):
        transformers.set_seed(1)
        engine.run()
        ends.append((torch.rand(1), random.random(), np.random.rand()))
    assert equal(parameters(plain), parameters(validated))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(("every", "validated"), [(0, [3]), (3, [3]), (2, [2, 3])])
def test_a_callback_stops_after_its_step(make_engine: Make, every: int, validated: list[int]) -> None:
    seen: list[int] = []

    class StopAtThree(Callback):
        def on_step(self, engine: BilevelEngine, record: Any) -> None:
            if record.step == 3:
                engine.stop("three are enough")

    def validate() -> dict[str, float | None]:
        seen.append(engine.step)
        return {}

    engine = make_engine(steps=9, callbacks=[StopAtThree()], validate=validate, validate_every=every)
    engine.run()
    assert (engine.step, engine.stop_reason, seen) == (3, "three are enough", validated)


def test_a_run_to_the_end_gives_no_reason_and_is_silent(make_engine: Make, capfd: pytest.CaptureFixture[str]) -> None:
    engine = make_engine(validate_every=1)
    engine.run()
    assert (engine.stop_reason, engine.last_validation) == (None, None)
    assert capfd.readouterr() == ("", "")


def test_a_diverged_step_moves_no_parameter(make_engine: Make) -> None:
    before: list[Tensor] = []

    class Watch(Callback):
        def on_step(self, engine: BilevelEngine, record: Any) -> None:
            before[:] = parameters(engine)

    engine = make_engine(callbacks=[Watch()])
    engine.lower_level.train_data_loader[0][2]["labels"] = torch.tensor([float("nan")])
    with pytest.raises(DivergedError, match="level 'lower', step 3: loss nan"):
        engine.run()
    assert engine.step == 3
    assert equal(parameters(engine), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0; it counts lower optimizer steps and must be at least 1"),
        ({"steps": 0, "single": True}, "steps is 0"),
        ({"validate_every": -1}, "validate_every is -1; it must be positive, or 0"),
        ({"device": "tpu"}, "device is 'tpu'; allowed: auto, cpu, cuda, cuda:N, mps"),
        ({"hypergradient": "drats"}, "hypergradient 'drats' is unknown.* Did you mean 'darts'"),
        ({"names": ("module", "upper")}, "a level cannot be called 'module'"),
        ({"names": ("lower", "run")}, "a level cannot be called 'run'"),
        ({"names": ("lower", "steps")}, "a level cannot be called 'steps'"),
        ({"names": ("step", "upper")}, "a level cannot be called 'step'"),
        ({"names": ("level", "level")}, "a level cannot be called 'level'"),
    ],
)
def test_refusals(make_engine: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_engine(**options)


def test_shared_parameters_are_refused_by_name(make_engine: Make) -> None:
    class Greedy(UpperProblem):
        def level_parameters(self) -> dict[str, nn.Parameter]:
            return {"above": self.module.above, "below": self.module.below}

    with pytest.raises(SettingsError, match="the two levels share 1 parameters, below among them"):
        make_engine(upper_class=Greedy)


def test_the_levels_can_see_each_other_by_name(make_engine: Make) -> None:
    engine = make_engine(names=("weights", "penalties"))
    upper: Any = engine.upper_level
    assert engine.weights is engine.lower_level
    assert upper.weights is engine.lower_level
    assert isinstance(engine.lower_level.penalties, UpperProblem)
    assert isinstance(upper.lower_level(), LowerProblem)
