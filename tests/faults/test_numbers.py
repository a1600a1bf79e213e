"""Rows 12 to 17, 29 and 33: numbers that are no numbers, memory that is too small, a base that must not move."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bilora import level_parameters
from bilora.artifacts.fingerprint import base_tensors
from bilora.engines.callbacks.progress import SpikeWarning
from bilora.engines.checkpoints.files import checkpoints, fault, open_checkpoint
from bilora.engines.hypergradients.exact import FusedAttentionNotice
from bilora.engines.settings import LevelSettings
from bilora.errors import DivergedError
from bilora.metrics.classes import compute_metrics
from bilora.metrics.metric import UndefinedMetricWarning
from bilora.problems.levels.level import Level
from bilora.problems.levels.out_of_memory import OutOfMemory
from bilora.tasks.catalog import TASKS

Run = Callable[..., Any]


def nan_loss(level: Any) -> None:
    original = level.loss_and_parts

    def broken(batch: Any) -> Any:
        loss, parts = original(batch)
        return loss * torch.nan, parts

    level.loss_and_parts = broken


def nan_hypergradient(engine: Any) -> None:
    upper = engine.upper_level
    upper.hypergradient = SimpleNamespace(
        needs=upper.hypergradient.needs,
        implicit_term=lambda *_: tuple(weight * torch.nan for weight in upper.trainable_parameters()),
    )


@torch.no_grad()
def nan_parameter(engine: Any) -> None:
    engine.lower_level.trainable_parameters()[0].view(-1)[0] = torch.nan


HARM: dict[str, Callable[[Any], None]] = {
    "lower loss": lambda engine: nan_loss(engine.lower_level),
    "upper loss": lambda engine: nan_loss(engine.upper_level),
    "hypergradient": nan_hypergradient,
    "parameter": nan_parameter,
}


@pytest.mark.parametrize("where", HARM)
def test_row_12_a_number_that_is_none_stops_the_run_before_the_step(
    run: Run, faults: Any, tmp_path: Path, where: str
) -> None:
    on, before = faults.adapted(), {}

    def harm(engine: Any) -> None:
        HARM[where](engine)
        before.update(on.trained())

    with pytest.raises(DivergedError, match="no parameter was moved by this step") as told:
        run(on=on, callbacks=[faults.at(5, harm)], save_every=2)
    assert str(tmp_path / "run" / "checkpoint-4") in str(told.value)
    assert fault(tmp_path / "run" / "checkpoint-4") is None
    # The harm is done after step 5, and the upper level steps after step 6: the lower one has stepped once by then.
    stepped = where in ("upper loss", "hypergradient")
    upper = {id(each) for each in level_parameters(on.model).upper.values()}
    for name, value in on.model.named_parameters():
        if value.requires_grad and (not stepped or id(value) in upper):
            assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name
        assert torch.isfinite(value).all() or where == "parameter"
    batches = json.loads((tmp_path / "run" / "diverged.json").read_text(encoding="utf-8"))["batches"]
    assert set(batches) == {"lower", "upper"}
    assert len(batches["lower"]["labels"]) == 8


def test_row_13_a_loss_that_jumps_is_told_and_the_best_parameters_stay(run: Run, faults: Any) -> None:
    script = iter([0.9] + [0.1] * 40)
    on, best = faults.adapted(), {}

    def explode(engine: Any) -> None:
        best.update(on.trained())
        engine.lower_level.learning_rate_scheduler.base_lrs = [1e4]

    watched = {"validate": lambda: {"score": next(script)}, "monitor": faults.monitor, "keep_best": True}
    with pytest.warns(RuntimeWarning, match="the lower loss is .*, the median of the steps before it"):
        run(on=on, steps=24, validate_every=12, callbacks=[faults.at(12, explode), SpikeWarning(times=3.0)], **watched)
    assert faults.same(on.trained(), best)


@pytest.mark.parametrize("chosen", ["darts", "neumann", {"name": "darts", "products": "exact"}, "unrolled"])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_rows_14_and_17_out_of_memory_in_a_displaced_pass(
    run: Run, faults: Any, tmp_path: Path, chosen: Any, error: Exception
) -> None:
    """For every approximation that replays, with every product; all of them are in tests/engines."""
    on, held = faults.adapted(), {}

    def harm(engine: Any) -> None:
        lower, calls = engine.lower_level, []
        original = lower.replayed_gradient

        def replayed(*arguments: Any, **named: Any) -> Any:
            held.update(parameters=lower_before, mode=lower.module.training)
            step = lower.training_step

            def fails(_: Any) -> Any:
                calls.append(1)
                torch.rand(3)
                raise error

            lower.training_step = fails
            held["random"] = torch.get_rng_state()
            try:
                return original(*arguments, **named)
            finally:
                lower.training_step = step
                held["random after"] = torch.get_rng_state()

        lower_before: dict[str, Tensor] = {}
        original_step = lower.optimizer_step

        def stepped(*arguments: Any, **named: Any) -> None:
            original_step(*arguments, **named)
            lower_before.update(on.trained())

        lower.replayed_gradient, lower.optimizer_step = replayed, stepped

    said = "out of memory in the hypergradient of the upper level: batch size 8, length 6, level 'lower'"
    with pytest.raises(OutOfMemory, match=said):
        run(on=on, hypergradient=chosen, callbacks=[faults.at(5, harm)], save_every=2)
    assert faults.same(on.trained(), held["parameters"])
    assert held["mode"]
    assert torch.equal(held["random"], held["random after"])
    assert [(step, fault(folder)) for step, folder in checkpoints(tmp_path / "run")] == [(4, None), (2, None)]


def test_row_15_displaced_passes_see_the_masks_of_their_step(run: Run) -> None:
    """The meter holds the finite difference against the exact derivative of the masked network."""
    lines = run(meter=1, hypergradient={"name": "darts", "finite_difference": "central"}).lines()
    cosines = [line["meter_cosine"] for line in lines if "meter_cosine" in line]
    assert len(cosines) == 4
    assert min(cosines) >= 0.99


def test_row_16_fused_attention_gives_way_where_two_derivatives_are_needed(run: Run, faults: Any) -> None:
    on = faults.adapted(base=faults.tiny_base(attention="sdpa"))
    with pytest.warns(FusedAttentionNotice, match="attn_implementation='eager'"):
        run(on=on, hypergradient={"name": "darts", "products": "exact"})


def too_large(engine: Any, level: str, *, rows: int) -> None:
    """Let memory be too small for more than ``rows`` rows of a level."""
    own = getattr(engine, f"{level}_level")
    original = own.training_step

    def step(batch: Any) -> Any:
        if len(batch["labels"]) > rows:
            raise MemoryError
        return original(batch)

    own.training_step = step


@pytest.mark.parametrize("level", ["lower", "upper"])
def test_row_17_out_of_memory_names_what_can_be_changed(run: Run, faults: Any, level: str) -> None:
    with pytest.raises(OutOfMemory) as told:
        run(callbacks=[faults.at(3, lambda engine: too_large(engine, level, rows=4))])
    assert str(told.value) == (
        f"out of memory in a step of the {level} level: batch size 8, length 6, level '{level}'. Halve "
        f"{level}.batch_size and double {level}.accumulation (--on-out-of-memory halve does so), or lower max_length"
    )


HALVE = {"on_out_of_memory": "halve"}


def small(faults: Any, level: str = "lower", *, rows: int = 4) -> Any:
    """Return a callback by which memory is too small for more rows, from the first step of each attempt."""

    class Small(faults.at):  # type: ignore[misc,name-defined]
        def on_stage_start(self, engine: Any) -> None:
            too_large(engine, level, rows=rows)

    return Small(99, print)


def once(action: Callable[[Any], None]) -> Callable[[Any], None]:
    done: list[Any] = []
    return lambda engine: None if done else (done.append(1), action(engine))[1]


def fill_at(faults: Any, step: int, level: str = "lower") -> Any:
    return faults.at(step, once(lambda engine: too_large(engine, level, rows=4)))


@pytest.mark.parametrize("level", ["lower", "upper"])
def test_row_17_a_stage_starts_again_with_the_same_rows_per_step(run: Run, faults: Any, level: str) -> None:
    """The run equals one that had the smaller batches from its first step, by every number and every line."""
    with pytest.warns(RuntimeWarning, match=rf"'bilevel' starts again with {level}.batch_size 4 and {level}.accum.* 2"):
        halved = run("halved", **HALVE, callbacks=[small(faults, level)])
    chosen = run("chosen", **{level: faults.smaller})
    halved.check_same(chosen)
    assert (halved.result.steps, halved.result.upper_steps) == (chosen.result.steps, chosen.result.upper_steps)


def test_row_17_a_later_stage_starts_again_alone(run: Run, faults: Any) -> None:
    """After ranks were cut, too, and with the lines and checkpoints of the stage before."""
    ending = {"name": "retrain", "ranks": {"name": "budget", "total": 5}}
    how = {**HALVE, "ending": ending, "steps": 4, "save_every": 2}
    with pytest.warns(RuntimeWarning, match="stage 'retrain' starts again with lower.batch_size 4"):
        ended = run(callbacks=[fill_at(faults, 5)], **how)
    assert [line["step"] for line in ended.lines()] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [(stage.name, stage.steps) for stage in ended.result.stages] == [("bilevel", 4), ("retrain", 4)]
    manifests = {step: open_checkpoint(folder).manifest for step, folder in checkpoints(ended.folder)}
    batches = {step: manifest["run"]["lower"]["batch_size"] for step, manifest in manifests.items()}
    assert batches == {2: 8, 4: 8, 6: 4, 8: 4}


def padded(rows: Any) -> dict[str, Tensor]:
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True), "labels": labels}


@pytest.mark.parametrize("how", ["halve", "stop"])
def test_row_17_the_longest_rows_are_tried_before_the_first_step(
    run: Run, faults: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Where batches may be halved; a run that stops never meets so many long rows in one batch."""
    rows = [{"input_ids": [1] * (5 if place % 4 else 20), "labels": place // 4 % 2} for place in range(40)]
    original = Level.training_step

    def step(level: Any, batch: Any) -> Any:
        if (batch["input_ids"] > 0).sum() > 130:  # six long rows and more of the eight
            raise MemoryError
        return original(level, batch)

    monkeypatch.setattr(Level, "training_step", step)
    if how == "stop":
        assert run(rows=rows, collate=padded).result.steps == 8
        return
    told = "^out of memory in the trial of the longest rows: batch size 8, length 20, level 'lower'; .* starts again"
    with pytest.warns(RuntimeWarning, match=told):
        halved = run(rows=rows, collate=padded, **HALVE)
    halved.check_same(run("chosen", rows=rows, collate=padded, lower=faults.smaller))


@pytest.mark.parametrize("method", ["bilora", "lora"])
def test_row_17_the_trial_leaves_no_trace(run: Run, faults: Any, method: str) -> None:
    """With dropout, batch norm's statistics, and a resume: each file of each checkpoint is that of a run without it."""

    def normed() -> Any:
        on = faults.adapted(method)
        on.model.norm = torch.nn.BatchNorm1d(16, affine=False)
        on.model.get_base_model().bert.embeddings.register_forward_hook(
            lambda _, __, out: on.model.norm(out.transpose(1, 2)).transpose(1, 2)
        )
        return on

    stop, halve = (run(name, on=normed(), save_every=4, on_out_of_memory=name) for name in ("stop", "halve"))
    halve.check_same(stop)
    assert halve.digests(8) == stop.digests(8)
    shutil.rmtree(halve.folder / "checkpoint-8")
    run("halve", on=normed(), save_every=4, **HALVE, resume=True).check_same(stop)


def test_row_17_a_checkpoint_that_smaller_batches_fit_is_gone_on_from(run: Run, faults: Any) -> None:
    """To rounding what smaller batches from the start give: 32 rows of D1 are whole batches of both sizes."""

    def without_dropout() -> Any:
        on = faults.adapted()
        for module in on.model.modules():
            module.p = 0.0
        return on

    how = {"save_every": 4, "steps": 12}
    with pytest.warns(RuntimeWarning, match=r"'bilevel' goes on from step 4 with lower.batch_size 4"):
        ended = run("halved", **how, **HALVE, on=without_dropout(), callbacks=[fill_at(faults, 6)])
    chosen = run("chosen", **how, on=without_dropout(), lower=faults.smaller)
    for name, value in chosen.parameters().items():
        torch.testing.assert_close(ended.parameters()[name], value, rtol=0, atol=1e-5, msg=name)
    assert [line["step"] for line in ended.lines()] == list(range(1, 13))
    assert all(fault(folder) is None for _, folder in checkpoints(ended.folder))


INEXACT: dict[str, tuple[dict[str, Any], str]] = {
    "upper": ({}, "upper"),
    "inside an unroll": ({"save_every": 5}, "lower"),
    "by length": ({"group_by_length": True}, "lower"),
    "short last batch": ({"split_ratio": 0.7, "unroll_steps": 1}, "lower"),
}


@pytest.mark.parametrize("case", INEXACT)
def test_row_17_any_other_checkpoint_is_not(run: Run, faults: Any, case: str) -> None:
    options, level = INEXACT[case]
    how = {"save_every": 4, **HALVE, **options}
    with pytest.warns(RuntimeWarning, match=f"stage 'bilevel' starts again with {level}.batch_size 4"):
        ended = run(callbacks=[fill_at(faults, 6, level)], **how)
    ended.check_same(run("chosen", **(how | {level: faults.smaller})))


def test_row_17_a_resumed_run_cannot_start_a_stage_again_that_it_did_not_start(run: Run, faults: Any) -> None:
    shutil.rmtree(run(save_every=4, **HALVE).folder / "checkpoint-8")
    with pytest.raises(OutOfMemory, match=r"checkpoint inside stage 'bilevel', .* the upper level makes fewer steps"):
        run(save_every=4, **HALVE, resume=True, callbacks=[fill_at(faults, 6, "upper")])


def test_row_17_a_run_that_was_halved_is_resumed_with_its_smaller_batches(run: Run, faults: Any) -> None:
    how = {**HALVE, "save_every": 4}
    with pytest.warns(RuntimeWarning, match="lower.batch_size 4"):
        whole = run(callbacks=[small(faults)], **how)
    numbers = whole.metrics()
    shutil.rmtree(whole.folder / "checkpoint-8")
    resumed = run(resume=True, **how)
    assert faults.same(resumed.parameters(), whole.parameters())
    assert resumed.metrics() == numbers


@pytest.mark.parametrize("size", [1, 3])
def test_row_17_a_batch_that_cannot_be_halved_stops_the_run(run: Run, faults: Any, size: int) -> None:
    batches = LevelSettings(batch_size=size, learning_rate=1e-2)
    said = rf"batch size {size}, .* lower.batch_size {size} cannot be halved; lower max"
    with pytest.raises(OutOfMemory, match=said):
        run(**HALVE, lower=batches, callbacks=[small(faults, rows=0)])


def test_row_29_an_undefined_metric_is_null_and_never_the_best(run: Run, faults: Any) -> None:
    with pytest.warns(UndefinedMetricWarning):
        found = compute_metrics(TASKS["cola"], [1, 1, 1, 1], [0, 1, 0, 1])
    assert found == {"matthews_correlation": None}
    script = iter([{"score": None}, {"score": 0.5}, {"score": None}, {"score": 0.4}])
    watched = {"validate": lambda: next(script), "monitor": faults.monitor, "keep_best": True, "validate_every": 2}
    ended = run(**watched)
    assert ended.result.best_step == 4
    assert b'{"score": null}' in ended.metrics()


@pytest.mark.parametrize("method", ["bilora", "lora", "adalora", "pseudo_svd"])
def test_row_33_the_base_is_the_same_to_the_bit(run: Run, faults: Any, method: str) -> None:
    def sha(model: Any) -> str:
        found = hashlib.sha256()
        for name, each in base_tensors(model):
            found.update(name.encode() + each.detach().numpy().tobytes())
        return found.hexdigest()

    on = faults.adapted(method, steps=12)
    before = sha(on.model)
    run(on=on, steps=12)
    assert sha(on.model) == before
