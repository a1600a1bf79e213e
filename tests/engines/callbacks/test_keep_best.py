"""A run ends with the parameters of its best validation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.keep_best import KeepBest
from bilora.metrics.monitor import Monitor


class Snapshots(Callback):
    def __init__(self) -> None:
        self.at: dict[int, list[Tensor]] = {}

    def on_validation(self, engine: BilevelEngine, record: Any) -> None:
        self.at[record.step] = everything(engine)


def everything(engine: BilevelEngine) -> list[Tensor]:
    return [tensor.detach().clone() for level in engine.levels for tensor in level.trainable_parameters()]


@pytest.mark.parametrize(
    ("values", "greater", "best_step"),
    [
        ([0.1, 0.9, 0.5], True, 4),
        ([0.1, 0.9, 0.05], False, 6),
        ([0.9, 0.9, 0.5], True, 2),  # the first of equals
        ([None, 0.1, None], True, 4),
        ([float("nan"), 0.1, float("nan")], False, 4),
        ([0.1, 0.2, 0.3], True, 6),
        ([None, None, None], True, None),  # the last parameters stay
    ],
)
def test_parameters_of_the_best_validation_bit_for_bit(
    make_engine: Callable[..., BilevelEngine], values: list[float | None], greater: bool, best_step: int | None
) -> None:
    script = iter(values)
    keep, snapshots = KeepBest(Monitor("score", greater_is_better=greater)), Snapshots()
    scores = {"validate": lambda: {"score": next(script)}, "validate_every": 2}
    engine = make_engine(steps=2 * len(values), callbacks=[snapshots, keep], **scores)
    engine.run()
    assert keep.best_step == best_step
    for step, parameters in snapshots.at.items():
        same = [torch.equal(a, b) for a, b in zip(everything(engine), parameters, strict=True)]
        # Both levels move between any two validations, so that nothing but the right step passes.
        assert all(same) if step == (best_step or 6) else not any(same)


def test_what_a_level_has_beside_parameters_comes_back_too(make_engine: Callable[..., BilevelEngine]) -> None:
    """A copy, not the object: the state of the best step must not change with later steps."""
    state, loaded, script = {"ranks": [8, 8]}, list[Any](), iter([0.1, 0.9, 0.5])

    class Prune(Callback):
        def on_step(self, engine: BilevelEngine, record: Any) -> None:
            state["ranks"][0] -= 1

    callbacks = [Prune(), KeepBest(Monitor("score", greater_is_better=True))]
    engine = make_engine(steps=3, validate=lambda: {"score": next(script)}, validate_every=1, callbacks=callbacks)
    lower: Any = engine.lower_level
    lower.extra_state, lower.load_extra_state = lambda: state, loaded.append
    engine.run()
    assert loaded == [{"ranks": [6, 8]}]


def test_through_fit(fit_pair: Callable[..., Any]) -> None:
    script = iter([0.5, 0.75, 0.25, 0.25])
    snapshots, monitor = Snapshots(), Monitor("score", greater_is_better=True)
    watched = {"validate": lambda: {"score": next(script)}, "monitor": monitor, "callbacks": [snapshots]}
    fitted = fit_pair(validate_every=2, keep_best=True, **watched)
    assert fitted.result.best_step == 4
    assert torch.equal(fitted.model.below, snapshots.at[4][0])
    assert torch.equal(fitted.model.above, snapshots.at[4][1])
