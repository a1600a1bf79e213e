"""The loss on held-out rows: its mean over rows, and that looking at it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.early_stopping import HeldOut, mean_loss
from bilora.problems import LowerProblem
from bilora.problems.stage import Watch


class MeanLabel(LowerProblem):
    """The loss is the mean label of the batch; a penalty of one is not part of it."""

    def training_step(self, batch: Any) -> Any:
        task_loss = batch["labels"].double().mean() + 0 * self.module.weight.sum()
        return {"loss": task_loss + 1, "task_loss": task_loss, "penalty": torch.ones(())}


def test_a_mean_over_rows_not_over_batches() -> None:
    level = MeanLabel("lower", module=nn.Linear(1, 1))
    level.device = torch.device("cpu")
    batches = [{"labels": torch.tensor([1.0, 2.0, 3.0])}, {"labels": torch.tensor([10.0])}]
    assert mean_loss(level, batches) == pytest.approx(4.0)


@pytest.mark.parametrize("every", [1, 2])
def test_looking_changes_nothing(make_engine: Callable[..., BilevelEngine], every: int) -> None:
    """The lower loss draws noise in every call, so that a look that moved the random state would show."""

    class Steps(Callback):
        def __init__(self) -> None:
            self.losses: list[float] = []

        def on_step(self, engine: BilevelEngine, record: Any) -> None:
            self.losses.append(record.loss)
            assert engine.lower_level.module.training

    found = []
    for look in (False, True):
        steps = Steps()
        engine = make_engine(single=True, steps=4, callbacks=[steps])
        if look:
            held_out = HeldOut(list(engine.lower_level.train_data_loader[0]), Watch(every=every, patience=100))
            engine.callbacks = (steps, held_out)
        engine.run()
        found.append(steps.losses)
    assert found[0] == found[1]
    assert [step for step, _ in held_out.losses] == list(range(every, 5, every))


def test_the_last_step_is_looked_at(make_engine: Callable[..., BilevelEngine]) -> None:
    engine = make_engine(single=True, steps=5)
    held_out = HeldOut(list(engine.lower_level.train_data_loader[0]), Watch(every=3, patience=100))
    engine.callbacks = (held_out,)
    engine.run()
    assert [step for step, _ in held_out.losses] == [3, 5]
