"""A resumed run ends like one that was never interrupted: every file of its last checkpoint, to the bit."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from betty.configs import Config

from bilora.engines.callbacks.files import MetricsFile
from bilora.engines.checkpoints.files import checkpoints, read_parts
from bilora.engines.checkpoints.run_state import RunState
from bilora.engines.settings import LevelSettings
from bilora.errors import CheckpointError
from bilora.files.formats import load_json, read_lines
from bilora.files.state import pack, unpack
from bilora.files.whole_folders import MANIFEST
from bilora.metrics.monitor import Monitor
from bilora.problems.catalog import VARIANTS
from bilora.problems.replay.buffers import ChangedBuffers

Fit = Callable[..., Any]
MONITOR = Monitor("drawn", greater_is_better=True)


def level(batch_size: int = 8, **settings: Any) -> LevelSettings:
    return LevelSettings(batch_size=batch_size, **{"learning_rate": 1e-2, **settings})


# 40 rows: D1 has 32 and D2 has 8, so that an epoch of D1 is 4 batches of 8 (8 of 4) and one of D2 is 1 (2, or 3).
SCHEDULES: dict[str, dict[str, Any]] = {
    "plain": {"steps": 10},
    "inside warm-up": {"steps": 10, "warmup_steps": 5, "lower": level(warmup=0.5)},
    "long unroll": {"steps": 10, "unroll_steps": 5, "hypergradient": {"name": "unrolled", "steps": 3}},
    "adaptive": {"steps": 8, "unroll_steps": 4, "hypergradient": "adaptive"},
    "forward differences": {"steps": 8, "hypergradient": {"name": "darts", "finite_difference": "forward"}},
    "accumulation": {"steps": 10, "lower": level(4, accumulation=2), "upper": level(3, accumulation=3)},
    "refresh": {"steps": 12, "refresh": 1, "upper": level(3)},
    "loss scaled": {"steps": 8, "precision": "fp16"},
    "grouped by length": {"steps": 8, "group_by_length": True},
    "meter": {"steps": 8, "meter": 3},
    "watched": {"steps": 10, "validate_every": 3, "early_stopping": 9, "keep_best": True},
    "retrain": {"steps": 4, "ending": "retrain", "validate_every": 3, "keep_best": True},
    "cut and retrain": {"steps": 4, "ending": {"name": "retrain", "ranks": {"name": "budget", "total": 5}}},
    "single level": {"steps": 9, "validate_every": 4, "keep_best": True},
    "pruned": {"steps": 12, "lower": level(4)},
}
METHODS = {"single level": {"method": "lora"}, "pruned": {"method": "adalora", "initial_rank": 4}}
# The schedule that is resumed from every step; the others are from the second, the fifth and the last but one.
EVERY = ("plain",)


def drawn() -> dict[str, float | None]:
    return {"drawn": float(torch.rand(1))}


@pytest.fixture
def fit_saved(fit_adapter: Fit) -> Fit:
    """Fit in a folder, with dropout, a metrics file, and a checkpoint after every step."""

    def run(name: str, folder: Path, **options: Any) -> Any:
        settings = {"save_every": 1, **SCHEDULES[name], **options.pop("settings", {})}
        folder.mkdir(exist_ok=True)
        options |= {"validate": drawn, "monitor": MONITOR, "callbacks": [MetricsFile(folder / "metrics.jsonl")]}
        options |= METHODS.get(name, {"method": "bilora"})
        return fit_adapter(settings=settings, dropout=0.1, folder=folder, **options)

    return run


# Whole runs and their folders, by schedule: each is made once.
WHOLE: dict[str, tuple[Any, Path]] = {}


@pytest.fixture
def whole_run(fit_saved: Fit, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return the whole run of a schedule, whose folder is copied to ``whole``."""

    def run(name: str) -> Any:
        if name not in WHOLE:
            folder = tmp_path_factory.mktemp("whole") / "run"
            WHOLE[name] = fit_saved(name, folder), folder
        fitted, folder = WHOLE[name]
        shutil.copytree(folder, tmp_path / "whole")
        return fitted

    return run


def copied(whole: Path, step: int, target: Path) -> Path:
    """Return a folder as a process that was killed some time after the step would leave it."""
    target.mkdir()
    shutil.copytree(whole / f"checkpoint-{step}", target / f"checkpoint-{step}")
    lines = (whole / "metrics.jsonl").read_text(encoding="utf-8")
    (target / "metrics.jsonl").write_text(lines + '{"step": 99, "lower_lo', encoding="utf-8")
    return target


def files(folder: Path, step: int) -> dict[str, Any]:
    """Return the hash of every part of a checkpoint and of every file of its adapter; the time taken is left out."""
    read = read_parts(folder / f"checkpoint-{step}")
    del read["stages"].tree["seconds"]
    parts = {name: packed.digest() for name, packed in read.items()}
    named: dict[str, Any] = load_json(folder / f"checkpoint-{step}" / MANIFEST)["files"]
    return parts | {name: entry["sha256"] for name, entry in named.items() if name.startswith("adapter/")}


def resumed_from(step: int, whole: Path, fitted: Callable[..., Any]) -> Any:
    """Return a run resumed from a checkpoint of the whole one, after comparing its files with the whole one's."""
    last = checkpoints(whole)[0][0]
    folder = copied(whole, step, whole.with_name(f"from-{step}"))
    resumed = fitted(folder, resume=True)
    assert files(folder, last) == files(whole, last), f"resumed from step {step}"
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    return resumed


@pytest.mark.parametrize("name", SCHEDULES)
def test_ends_like_the_whole_run(whole_run: Fit, fit_saved: Fit, tmp_path: Path, name: str) -> None:
    whole = whole_run(name)
    steps = sorted(step for step, _ in checkpoints(tmp_path / "whole"))
    last = steps[-1]
    assert len(steps) == last >= 8
    for step in steps[:-1] if name in EVERY else (2, 5, last - 1):
        resumed = resumed_from(step, tmp_path / "whole", partial(fit_saved, name))
        for parameter, value in whole.parameters().items():
            assert torch.equal(resumed.parameters()[parameter], value)
        for field in ("best_step", "splits", "stages"):
            assert getattr(resumed.result, field) == getattr(whole.result, field)


@pytest.mark.parametrize("method", sorted(VARIANTS))
def test_every_variant(fit_adapter: Fit, tmp_path: Path, method: str) -> None:
    def fitted(folder: Path, **more: Any) -> None:
        settings = {"steps": 8, "save_every": 1}
        files = [MetricsFile(folder / "metrics.jsonl")]
        fit_adapter(method, settings=settings, dropout=0.1, callbacks=files, folder=folder, **more)

    (tmp_path / "whole").mkdir()
    fitted(tmp_path / "whole")
    for step in (3, checkpoints(tmp_path / "whole")[0][0] - 1):
        resumed_from(step, tmp_path / "whole", fitted)


AVERAGED = [
    ("self_tuned", {"values": "shuffled"}),
    ("self_tuned", {"values": "off", "rate": "learned"}),
    ("self_tuned", {"classes": "always"}),
]


@pytest.mark.parametrize(("method", "options"), [*AVERAGED, ("learned_noise", {}), ("learned_rows", {})])
def test_what_is_averaged_over_a_stage(fit_adapter: Fit, tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    """With enough rows of D2 for the path to count, from the middle of either stage."""

    def fitted(folder: Path, **more: Any) -> Any:
        settings = {"steps": 8, "save_every": 1, "split_ratio": 0.5, "unroll_steps": 1, "upper": level()}
        files = [MetricsFile(folder / "metrics.jsonl")]
        return fit_adapter(method, settings=settings, callbacks=files, folder=folder, **options, **more)

    (tmp_path / "whole").mkdir()
    learned = fitted(tmp_path / "whole").result.learned
    assert learned.get("fallen_back") != ["adapters", "head"]
    assert "fewer" not in learned["words"]
    for step in (5, 8, 13):
        resumed_from(step, tmp_path / "whole", fitted)


def test_the_schedules_meet_what_they_are_named_after(whole_run: Fit, tmp_path: Path) -> None:
    """A resume inside an epoch, between unroll steps and so on shows nothing if no checkpoint lies there."""

    def part(name: str, step: int, part: str) -> Any:
        return read_parts(tmp_path / name / f"checkpoint-{step}")[part].tree

    for name in ("accumulation", "refresh", "long unroll", "plain"):
        whole_run(name)
        (tmp_path / "whole").rename(tmp_path / name)
    assert [part("plain", step, "lower.loaders")[0]["read"] for step in (3, 4, 5)] == [3, 4, 1]
    assert [part("plain", step, "lower.progress")["at_unroll_start"] for step in (3, 4)] == [False, True]
    assert part("accumulation", 2, "upper.progress")["gradients"] == {}  # all its micro-batches are of one step
    assert [part("accumulation", step, "upper.progress")["count"] for step in (2, 4, 6)] == [3, 6, 9]
    assert [part("refresh", step, "split")["draws"] for step in (4, 5, 9)] == [1, 2, 3]
    assert [len(part("long unroll", step, "lower.recorded")["steps"]) for step in (2, 3, 4)] == [0, 1, 2]


@pytest.mark.parametrize("resume", [False, True])  # which begins at the start where there is no checkpoint
def test_saving_changes_nothing(whole_run: Fit, fit_saved: Fit, tmp_path: Path, resume: bool) -> None:
    saved = whole_run("refresh").parameters()
    unsaved = fit_saved("refresh", tmp_path / "unsaved", settings={"save_every": 0}, resume=resume).parameters()
    assert all(torch.equal(saved[name], value) for name, value in unsaved.items())
    assert checkpoints(tmp_path / "unsaved") == []


def test_a_chosen_checkpoint(whole_run: Fit, fit_saved: Fit, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole_run("plain")
    before = files(whole, 10)
    fit_saved("plain", whole, resume=whole / "checkpoint-3")
    assert files(whole, 10) == before


def test_mid_accumulation_of_the_lower_level(make_engine: Any) -> None:
    """No checkpoint of a fit lies there, since a step is finished first; the state is whole all the same."""
    config = Config(unroll_steps=2, gradient_accumulation=3)
    options = {"lower_config": config, "steps": 6, "hypergradient": "darts"}
    whole, begun, resumed = (make_engine(**options) for _ in range(3))
    states = [RunState(engine, None, ChangedBuffers(engine.lower_level.module)) for engine in (begun, resumed)]
    torch.manual_seed(1)
    whole.run()
    torch.manual_seed(1)
    begun.train()
    for _ in range(10):  # the third step has one of its three micro-batches
        begun._one_iteration()
    held = {name: unpack(pack(state, part=name), part=name) for name, state in states[0].collect().items()}
    assert held["lower.progress"]["gradients"]
    torch.manual_seed(7)
    states[1].restore(held)
    resumed.run()
    for name, parameter in whole.lower_level.module.named_parameters():
        assert torch.equal(resumed.lower_level.module.get_parameter(name), parameter)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 5}, "seed: 0 -> 5"),
        ({"split_ratio": 0.7}, "split_ratio: 0.8 -> 0.7"),
        ({"lower": level(4)}, "lower.batch_size: 8 -> 4"),
        ({"unroll_steps": 5}, "unroll_steps: 2 -> 5"),
    ],
)
@pytest.mark.parametrize("allow", [False, True])
def test_what_never_changes(
    whole_run: Fit, fit_saved: Fit, tmp_path: Path, change: Any, words: str, allow: bool
) -> None:
    whole_run("plain")
    with pytest.raises(CheckpointError, match=f"these cannot change within a run: {words}"):
        fit_saved("plain", tmp_path / "whole", settings=change, resume=True, allow_config_change=allow)


def test_a_learning_rate_and_the_steps_may_change_if_said(whole_run: Fit, fit_saved: Fit, tmp_path: Path) -> None:
    whole_run("plain")
    folder = copied(tmp_path / "whole", 4, tmp_path / "run")
    change = {"lower": level(learning_rate=0.04, schedule="constant", warmup=0.0)}
    with pytest.raises(CheckpointError, match=r"lower.learning_rate: 0.01 -> 0.04; .* say --allow-config-change"):
        fit_saved("plain", folder, settings=change, resume=True)
    with pytest.warns(RuntimeWarning, match=r"goes on with other settings: lower.learning_rate: 0.01 -> 0.04"):
        fit_saved("plain", folder, settings=change, resume=True, allow_config_change=True)
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["lower_learning_rates"] for line in lines if "lower_loss" in line][4:] == [[0.04]] * 6
    with pytest.warns(RuntimeWarning, match="steps: 10 -> 14"):
        fitted = fit_saved("plain", tmp_path / "whole", settings={"steps": 14}, resume=True, allow_config_change=True)
    assert fitted.result.steps == 14


def test_how_often_to_save_may_change_without_a_word(whole_run: Fit, fit_saved: Fit, tmp_path: Path) -> None:
    whole_run("plain")
    folder = copied(tmp_path / "whole", 4, tmp_path / "run")
    fit_saved("plain", folder, settings={"save_every": 5, "save_total_limit": 1}, resume=True)
    assert [step for step, _ in checkpoints(folder)] == [10]
