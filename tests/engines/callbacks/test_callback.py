"""Every hook, at its time, in order."""

from collections.abc import Callable
from typing import Any

import pytest
from betty.configs import Config

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.callback import Callback
from bilora.errors import SettingsError

Make = Callable[..., BilevelEngine]


class Diary(Callback):
    must_work = True

    def __init__(self, events: list[str], name: str = "", fail_at: str | None = None) -> None:
        self.events, self.name, self.fail_at = events, name, fail_at

    def write(self, event: str) -> None:
        self.events.append(self.name + event)
        if event == self.fail_at:
            raise OSError(f"failed at {event}")

    def on_run_start(self, engine: BilevelEngine) -> None:
        assert engine.step == 0
        self.write("start")

    def on_stage_start(self, engine: BilevelEngine) -> None:
        self.write(f"stage {engine.place.name}")

    def on_step(self, engine: BilevelEngine, record: Any) -> None:
        assert engine.step == record.step
        above = "" if record.upper is None else f" upper {record.upper.step}"
        self.write(f"step {record.step}{above}")

    def on_validation(self, engine: BilevelEngine, record: Any) -> None:
        assert (engine.step, engine.last_validation) == (record.step, record)
        self.write(f"validation {record.step}")

    def on_step_end(self, engine: BilevelEngine) -> None:
        self.write(f"step end {engine.step}")

    def on_stage_end(self, engine: BilevelEngine) -> None:
        self.write("stage end")

    def on_run_end(self, engine: BilevelEngine) -> None:
        self.write("end")

    def on_close(self, engine: BilevelEngine) -> None:
        self.write("close")


HOOKS = sorted(name for name in vars(Callback) if name.startswith("on_"))


def test_order_of_the_hooks(make_engine: Make) -> None:
    assert set(HOOKS) <= set(vars(Diary))
    events: list[str] = []
    make_engine(steps=5, callbacks=[Diary(events)], validate=lambda: {"loss": 1.0}, validate_every=2).run()
    assert events == [
        *("start", "stage single"),
        *("step 1", "step end 1", "step 2 upper 1", "validation 2", "step end 2"),
        *("step 3", "step end 3", "step 4 upper 2", "validation 4", "step end 4"),
        *("step 5", "step end 5", "validation 5"),
        *("stage end", "end", "close"),
    ]


def test_a_step_is_an_optimizer_step_not_a_micro_batch_and_is_silent_of_validations(make_engine: Make) -> None:
    events: list[str] = []
    config = Config(unroll_steps=1, gradient_accumulation=3)
    engine = make_engine(steps=2, callbacks=[Diary(events)], lower_config=config)
    engine.run()
    steps = ["step 1 upper 1", "step end 1", "step 2 upper 2", "step end 2"]
    assert events == ["start", "stage single", *steps, "stage end", "end", "close"]
    assert engine.global_step == 6


def test_callbacks_are_called_in_the_order_given(make_engine: Make) -> None:
    events: list[str] = []
    make_engine(steps=2, single=True, callbacks=[Diary(events, "a "), Diary(events, "b ")]).run()
    order = ("start", "stage single", "step 1", "step end 1", "step 2", "step end 2", "stage end", "end", "close")
    assert events == [f"{name} {hook}" for hook in order for name in ("a", "b")]


@pytest.mark.parametrize(
    "where", ["start", "stage single", "step 2 upper 1", "validation 2", "step end 2", "stage end", "end"]
)
def test_close_comes_also_when_something_raises(make_engine: Make, where: str) -> None:
    events: list[str] = []
    engine = make_engine(steps=2, callbacks=[Diary(events), Diary([], fail_at=where)], validate=lambda: {"loss": 1.0})
    with pytest.raises(OSError, match=f"failed at {where}"):
        engine.run()
    assert events[-2:] == [where, "close"]


def test_close_comes_when_a_training_step_raises(make_engine: Make) -> None:
    events: list[str] = []
    engine = make_engine(single=True, callbacks=[Diary(events)])
    engine.lower_level.train_data_loader[0][2].clear()
    with pytest.raises(KeyError, match="row"):
        engine.run()
    assert events == ["start", "stage single", "step 1", "step end 1", "step 2", "step end 2", "close"]


def test_base_hooks_do_nothing(make_engine: Make) -> None:
    ends = []
    for callbacks in ([], [Callback()]):
        engine = make_engine(callbacks=callbacks, validate=lambda: {}, validate_every=1)
        engine.run()
        ends.append((engine.step, engine.stop_reason, engine.lower_level.module.below.tolist()))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_callback_that_only_looks_on_fails_once_and_is_left_out(make_engine: Make, hook: str) -> None:
    calls = []

    def fail(*_: Any) -> None:
        calls.append(hook)
        raise OSError("the tracker is down")

    failing = type("Tracker", (Callback,), {hook: fail})()
    events: list[str] = []
    engine = make_engine(callbacks=[failing, Diary(events)], validate=lambda: {"loss": 1.0}, validate_every=1)
    with pytest.warns(RuntimeWarning, match=r"callback Tracker failed at step \d \(OSError: the tracker is down\)"):
        engine.run()
    assert (engine.step, calls) == (5, [hook])
    assert events[-1] == "close"


def test_an_error_of_the_library_ends_the_run_whoever_raises_it(make_engine: Make) -> None:
    class Typo(Callback):
        def on_step(self, engine: BilevelEngine, record: Any) -> None:
            raise SettingsError("there is no such metric")

    with pytest.raises(SettingsError, match="no such metric"):
        make_engine(callbacks=[Typo()]).run()


def test_mode_of_the_model_at_each_hook(make_engine: Make) -> None:
    modes: dict[str, bool] = {}

    class Modes(Diary):
        def write(self, event: str) -> None:
            modes[event] = engine.lower_level.module.training

    engine = make_engine(steps=2, callbacks=[Modes([])], validate=lambda: {})
    engine.run()
    assert all(modes[event] for event in ("start", "step 2 upper 1", "validation 2"))
    assert not engine.lower_level.module.training, "a trained model is left ready for use"


@pytest.mark.parametrize("broken", [0, 1])
def test_all_are_closed_even_if_one_cannot_be(make_engine: Make, broken: int) -> None:
    events: list[str] = []
    callbacks = [Diary(events), Diary(events)]
    callbacks[broken].fail_at = "close"
    with pytest.raises(OSError, match="failed at close"):
        make_engine(callbacks=callbacks).run()
    assert events[-2:] == ["close", "close"]
