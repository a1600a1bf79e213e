"""Rows 13 to 17, 29 and 33: losses that jump, memory that is too small, a base that must not move."""

import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from fingerprint import assert_same
from small_runs import HALVED, MONITOR, Adapted, At, Run, tiny_base, trained
from torch import Tensor

from bilora.artifacts.fingerprint import base_tensors
from bilora.engines.callbacks.progress import SpikeWarning
from bilora.engines.checkpoints.files import checkpoints, fault, open_checkpoint
from bilora.engines.hypergradients.exact import FusedAttentionNotice
from bilora.engines.settings import LevelSettings
from bilora.metrics.classes import compute_metrics
from bilora.metrics.metric import UndefinedMetricWarning
from bilora.problems.levels.level import Level
from bilora.problems.levels.out_of_memory import OutOfMemory
from bilora.tasks.catalog import TASKS


def test_row_13_a_loss_that_jumps_is_told_and_the_best_parameters_stay(run: Run) -> None:
    script = iter([0.9] + [0.1] * 40)
    on, best = Adapted(), {}

    def explode(engine: Any) -> None:
        best.update(trained(on.model))
        engine.lower_level.learning_rate_scheduler.base_lrs = [1e4]

    watched = {"validate": lambda: {"score": next(script)}, "monitor": MONITOR, "keep_best": True}
    with pytest.warns(RuntimeWarning, match="the lower loss is .*, the median of the steps before it"):
        run(on=on, steps=24, validate_every=12, callbacks=[At(12, explode), SpikeWarning(times=3.0)], **watched)
    assert_same(trained(on.model), best)


@pytest.mark.parametrize("hypergradient", ["darts", "neumann", {"name": "darts", "products": "exact"}, "unrolled"])
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
    run: Run, tmp_path: Path, hypergradient: Any, error: Exception
) -> None:
    """For every approximation that replays, with every product; all of them are in tests/engines."""
    on, held = Adapted(), {}

    def harm(engine: Any) -> None:
        lower = engine.lower_level
        optimizer_step, replayed_gradient = lower.optimizer_step, lower.replayed_gradient

        def fails(_: Any) -> Any:
            torch.rand(3)
            raise error

        def step(*arguments: Any, **named: Any) -> None:
            optimizer_step(*arguments, **named)
            held["parameters"] = trained(on.model)

        def replay(*arguments: Any, **named: Any) -> Any:
            held.update(mode=lower.module.training, random=torch.get_rng_state())
            try:
                with patch.object(lower, "training_step", fails):
                    return replayed_gradient(*arguments, **named)
            finally:
                held["random after"] = torch.get_rng_state()

        lower.optimizer_step, lower.replayed_gradient = step, replay

    said = "out of memory in the hypergradient of the upper level: batch size 8, length 6, level 'lower'"
    with pytest.raises(OutOfMemory, match=said):
        run(on=on, hypergradient=hypergradient, callbacks=[At(5, harm)], save_every=2)
    assert_same(trained(on.model), held["parameters"])
    assert held["mode"]
    assert torch.equal(held["random"], held["random after"])
    assert [(step, fault(folder)) for step, folder in checkpoints(tmp_path / "run")] == [(4, None), (2, None)]


def test_row_15_displaced_passes_see_the_masks_of_their_step(run: Run) -> None:
    """The meter holds the finite difference against the exact derivative of the masked network."""
    lines = run(meter=1, hypergradient={"name": "darts", "finite_difference": "central"}).lines()
    cosines = [line["meter_cosine"] for line in lines if "meter_cosine" in line]
    assert len(cosines) == 4
    assert min(cosines) >= 0.99


def test_row_16_fused_attention_gives_way_where_two_derivatives_are_needed(run: Run) -> None:
    with pytest.warns(FusedAttentionNotice, match="attn_implementation='eager'"):
        run(on=Adapted(base=tiny_base(attention="sdpa")), hypergradient={"name": "darts", "products": "exact"})


HALVE = {"on_out_of_memory": "halve"}


def too_large(step: int, level: str = "lower", *, rows: int = 4) -> At:
    """Let memory be too small for more than ``rows`` rows of a level, after a step or, with 0, from the first one."""

    def shrink(engine: Any) -> None:
        harmed = getattr(engine, f"{level}_level")
        original = harmed.training_step

        def training_step(batch: Any) -> Any:
            if len(batch["labels"]) > rows:
                raise MemoryError
            return original(batch)

        harmed.training_step = training_step

    return At(step, shrink)


@pytest.mark.parametrize("level", ["lower", "upper"])
def test_row_17_out_of_memory_names_what_can_be_changed(run: Run, level: str) -> None:
    with pytest.raises(OutOfMemory) as told:
        run(callbacks=[too_large(3, level)])
    assert str(told.value) == (
        f"out of memory in a step of the {level} level: batch size 8, length 6, level '{level}'. Halve "
        f"{level}.batch_size and double {level}.accumulation (--on-out-of-memory halve does so), or lower max_length"
    )


STARTS_AGAIN: dict[str, tuple[int, str, dict[str, Any]]] = {
    "at the lower first step": (0, "lower", {}),
    "at the upper first step": (0, "upper", {}),
    "upper": (6, "upper", {"save_every": 4}),
    "inside an unroll": (6, "lower", {"save_every": 5}),
    "by length": (6, "lower", {"save_every": 4, "group_by_length": True}),
    "short last batch": (6, "lower", {"save_every": 4, "split_ratio": 0.7, "unroll_steps": 1}),
}


@pytest.mark.parametrize(("step", "level", "options"), STARTS_AGAIN.values(), ids=STARTS_AGAIN)
def test_row_17_a_stage_starts_again_with_the_same_rows_per_step(
    run: Run, step: int, level: str, options: dict[str, Any]
) -> None:
    """Past a checkpoint too that smaller batches do not fit: by every number the run is one that always had them."""
    with pytest.warns(RuntimeWarning, match=rf"'bilevel' starts again with {level}.batch_size 4 and {level}.accum.* 2"):
        halved = run("halved", **HALVE, **options, callbacks=[too_large(step, level)])
    smaller = run("smaller", **options, **{level: HALVED})
    halved.check_same(smaller)
    assert (halved.result.steps, halved.result.upper_steps) == (smaller.result.steps, smaller.result.upper_steps)


def test_row_17_a_later_stage_starts_again_alone(run: Run) -> None:
    """After ranks were cut, too, and with the lines and checkpoints of the stage before."""
    ending = {"name": "retrain", "ranks": {"name": "budget", "total": 5}}
    with pytest.warns(RuntimeWarning, match="stage 'retrain' starts again with lower.batch_size 4"):
        ended = run(callbacks=[too_large(5)], **HALVE, ending=ending, steps=4, save_every=2)
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
    run: Run, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Where batches may be halved; a run that stops never meets so many long rows in one batch."""
    rows = [{"input_ids": [1] * (5 if index % 4 else 20), "labels": index // 4 % 2} for index in range(40)]
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
    halved.check_same(run("smaller", rows=rows, collate=padded, lower=HALVED))


@pytest.mark.parametrize("method", ["bilora", "lora"])
def test_row_17_the_trial_leaves_no_trace(run: Run, method: str) -> None:
    """With dropout, batch norm's statistics, and a resume: each file of each checkpoint is that of a run without it."""

    def normed() -> Any:
        on = Adapted(method)
        on.model.norm = torch.nn.BatchNorm1d(32, affine=False)
        on.model.get_base_model().bert.embeddings.register_forward_hook(
            lambda _, __, out: on.model.norm(out.transpose(1, 2)).transpose(1, 2)
        )
        return on

    stop, halve = (run(name, on=normed(), save_every=4, on_out_of_memory=name) for name in ("stop", "halve"))
    halve.check_same(stop)
    assert halve.digests(8) == stop.digests(8)
    shutil.rmtree(halve.folder / "checkpoint-8")
    run("halve", on=normed(), save_every=4, **HALVE, resume=True).check_same(stop)


def test_row_17_a_checkpoint_that_smaller_batches_fit_is_gone_on_from(run: Run) -> None:
    """To rounding what smaller batches from the start give: 32 rows of D1 are whole batches of both sizes."""

    def without_dropout() -> Any:
        on = Adapted()
        for module in on.model.modules():
            module.p = 0.0
        return on

    how = {"save_every": 4, "steps": 12}
    with pytest.warns(RuntimeWarning, match=r"'bilevel' goes on from step 4 with lower.batch_size 4"):
        ended = run("halved", **how, **HALVE, on=without_dropout(), callbacks=[too_large(6)])
    smaller = run("smaller", **how, on=without_dropout(), lower=HALVED)
    torch.testing.assert_close(trained(ended.model), trained(smaller.model), rtol=0, atol=1e-5)
    assert [line["step"] for line in ended.lines()] == list(range(1, 13))
    assert all(fault(folder) is None for _, folder in checkpoints(ended.folder))


def test_row_17_a_resumed_run_cannot_start_a_stage_again_that_it_did_not_start(run: Run) -> None:
    shutil.rmtree(run(save_every=4, **HALVE).folder / "checkpoint-8")
    with pytest.raises(
        OutOfMemory, match=r"checkpoint inside stage 'bilevel', .* the upper level has stepped with its larger"
    ):
        run(save_every=4, **HALVE, resume=True, callbacks=[too_large(6, "upper")])


def test_row_17_a_run_that_was_halved_is_resumed_with_its_smaller_batches(run: Run) -> None:
    with pytest.warns(RuntimeWarning, match="lower.batch_size 4"):
        whole = run(callbacks=[too_large(0)], **HALVE, save_every=4)
    numbers = whole.metrics()
    shutil.rmtree(whole.folder / "checkpoint-8")
    resumed = run(resume=True, **HALVE, save_every=4)
    assert_same(trained(resumed.model), trained(whole.model))
    assert resumed.metrics() == numbers


@pytest.mark.parametrize("size", [1, 3])
def test_row_17_a_batch_that_cannot_be_halved_stops_the_run(run: Run, size: int) -> None:
    said = rf"batch size {size}, .* lower.batch_size {size} cannot be halved; lower max"
    with pytest.raises(OutOfMemory, match=said):
        run(**HALVE, lower=LevelSettings(batch_size=size, learning_rate=1e-2), callbacks=[too_large(0, rows=0)])


def test_row_29_an_undefined_metric_is_null_and_never_the_best(run: Run) -> None:
    with pytest.warns(UndefinedMetricWarning):
        metrics = compute_metrics(TASKS["cola"], [1, 1, 1, 1], [0, 1, 0, 1])
    assert metrics == {"matthews_correlation": None}
    script = iter([None, 0.5, None, 0.4])
    ended = run(validate=lambda: {"score": next(script)}, monitor=MONITOR, keep_best=True, validate_every=2)
    assert ended.result.best_step == 4
    assert b'{"score": null}' in ended.metrics()


@pytest.mark.parametrize("method", ["bilora", "lora", "adalora", "pseudo_svd"])
def test_row_33_the_base_is_the_same_to_the_bit(run: Run, method: str) -> None:
    on = Adapted(method, steps=12)
    before = {name: tensor.detach().clone() for name, tensor in base_tensors(on.model)}
    run(on=on, steps=12)
    assert_same({name: tensor.detach() for name, tensor in base_tensors(on.model)}, before)
