"""When a run is stopped early, by its validations or by its loss on D2."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.early_stopping import EarlyStopping, HeldOut, mean_loss
from bilora.errors import SettingsError
from bilora.metrics.monitor import Monitor
from bilora.problems import LowerProblem
from bilora.problems.stage import Watch

Make = Callable[..., BilevelEngine]
Values = list[float | None]


@pytest.mark.parametrize(
    ("values", "patience", "greater", "stops_at"),
    [
        ([0.1, 0.2, 0.2, 0.3, 0.4], 1, True, 3),  # equal is not better
        ([0.1, 0.2, 0.2, 0.3, 0.4], 2, True, None),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 3, True, 4),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 1, False, None),
        ([0.5, 0.6, 0.4, 0.6, 0.5, 0.1], 2, False, 5),  # the count starts again after a gain
        ([0.1, None, 0.2, None, None, 0.3], 2, True, 5),  # undefined is never a gain
        ([None, None, None, 0.3], 3, True, 3),
        ([0.1, float("nan"), 0.2, 0.3], 1, True, 2),
    ],
)
def test_stops_after_so_many_validations_without_a_gain(
    make_engine: Make, values: Values, patience: int, greater: bool, stops_at: int | None
) -> None:
    script = iter(values)
    watch = EarlyStopping(Monitor("score", greater_is_better=greater), patience=patience)
    options = {"validate": lambda: {"score": next(script)}, "validate_every": 1, "callbacks": [watch]}
    engine = make_engine(steps=len(values), **options)
    engine.run()
    assert engine.step == (stops_at or len(values))
    assert (engine.stop_reason is not None) == (stops_at is not None)


def test_a_misspelt_metric_stops_the_run_at_the_first_validation(make_engine: Make) -> None:
    watch = EarlyStopping(Monitor("scroe", greater_is_better=True), patience=1)
    engine = make_engine(validate=lambda: {"score": 1.0}, validate_every=1, callbacks=[watch])
    with pytest.raises(SettingsError, match="'scroe' is not among the validation's: score"):
        engine.run()
    assert engine.step == 1


@pytest.mark.parametrize("patience", [0, -1])
def test_patience_must_be_positive(patience: int) -> None:
    with pytest.raises(SettingsError, match=f"patience is {patience}; it counts validations"):
        EarlyStopping(Monitor("score", greater_is_better=True), patience=patience)


@pytest.mark.parametrize(
    ("scores", "every", "patience", "steps", "reason"),
    [
        ([0.5, 0.25, 0.125, 1.0], 2, 2, 6, "score was not better than 0.5 for 2 validations"),
        ([0.5, 0.5], 4, 1, 8, None),  # patience that is spent at the last step stops nothing
    ],
)
def test_through_fit(
    fit_pair: Callable[..., Any], scores: list[float], every: int, patience: int, steps: int, reason: str | None
) -> None:
    script = iter(scores)
    monitor = Monitor("score", greater_is_better=True)
    fitted = fit_pair(
        validate=lambda: {"score": next(script)}, monitor=monitor, validate_every=every, early_stopping=patience
    )
    assert (fitted.result.steps, fitted.result.stop_reason) == (steps, reason)
    assert fitted.result.metrics == {"score": scores[steps // every - 1]}


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


@pytest.mark.parametrize("every", [1, 2, 3])
def test_looking_changes_nothing(make_engine: Make, every: int) -> None:
    """The lower loss draws noise in every call, so that a look that moved the random state would show."""

    class Steps(Callback):
        def on_step(self, engine: BilevelEngine, record: Any) -> None:
            losses[-1].append(record.loss)
            assert engine.lower_level.module.training

    losses: list[list[float]] = []
    for look in (False, True):
        losses.append([])
        engine = make_engine(single=True, steps=5, callbacks=[Steps()])
        if look:
            held_out = HeldOut(list(engine.lower_level.train_data_loader[0]), Watch(every=every, patience=100))
            engine.callbacks = (*engine.callbacks, held_out)
        engine.run()
    assert losses[0] == losses[1]
    assert [step for step, _ in held_out.losses] == sorted({*range(every, 5, every), 5}), "the last step is looked at"
