"""Every committed config loads."""

import functools
from pathlib import Path

import pytest
import yaml
from tracked_files import tracked_files

from bilora.commands.command_line import parse_config
from bilora.compare.config import ComparisonConfig
from bilora.runs.config_hash import config_hash
from bilora.runs.several_runs import SeveralRuns

ALL = tracked_files("benchmarks/configs/*.yaml")
RESULTS = [path for path in ALL if path.stem.startswith("results_")]
COMPARISONS = [*RESULTS, *(path for path in ALL if path.stem.startswith(("decays_", "demo")))]
# The protocols of the studies are read by their own tests.
CONFIGS = [path for path in ALL if path not in COMPARISONS and not path.stem.startswith(("study", "trusted"))]


@functools.cache
def comparison(path: Path) -> ComparisonConfig:
    return parse_config(ComparisonConfig, ["--config", str(path)], prog="test", description="")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_loads_with_every_setting_that_it_names(path: Path) -> None:
    loaded = parse_config(SeveralRuns, ["--config", str(path)], prog="test", description="")
    for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        if not isinstance(value, dict):
            assert getattr(loaded if name in ("method", "seeds") else loaded.run, name) == value
    assert all(config_hash(run) for run in loaded.runs)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_have_the_seeds_and_candidates_of_the_page(path: Path) -> None:
    loaded = comparison(path)
    assert loaded.run.task == path.stem.removeprefix("results_")
    assert loaded.seed_list == list(range(5))
    assert {len(loaded.candidates(label)) for label in loaded.methods} == {3}


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_comparison_loads_and_is_fair(path: Path) -> None:
    loaded = comparison(path)
    said = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert loaded.methods == said["methods"]
    assert set(loaded.entries) >= set(loaded.methods) - {"lora", "adalora", "pseudo_svd", "self_tuned"}
    budgets = {(run.steps, run.train_rows, run.lower.batch_size) for run in map(loaded.config_of, loaded.methods)}
    assert len(budgets) == 1


def test_comparisons_do_not_write_over_each_other() -> None:
    places = [(loaded.output, loaded.run.task) for loaded in map(comparison, COMPARISONS)]
    assert len(set(places)) == len(places)


def test_there_are_the_demo_and_comparisons_on_four_tasks() -> None:
    assert "embedded" in [path.stem for path in CONFIGS]
    assert "demo" in [path.stem for path in COMPARISONS]
    assert [path.stem for path in RESULTS] == [f"results_{task}" for task in ("cola", "mrpc", "sst2", "stsb")]
