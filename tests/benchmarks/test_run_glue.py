"""The main job from end to end, with a tiny model: what it prints and every file that it writes."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from bilora.commands.command_line import parse_config
from bilora.files.formats import load_json
from bilora.problems.catalog import VARIANTS
from bilora.runs.config import RunConfig
from bilora.runs.folder import remove_run
from bilora.runs.plan import RunPlan, plan_run
from bilora.runs.run import prepare
from bilora.tasks.catalog import find_task
from bilora.tasks.sources import take_rows
from bilora.tasks.task import Inference

METHODS = list(VARIANTS)
SPLIT = {name for name, variant in VARIANTS.items() if variant.splits_rows(variant.settings())}
WITH_VALUES = {name for name, variant in VARIANTS.items() if variant.has_values}
BILEVEL = {name for name, variant in VARIANTS.items() if variant.upper is not None}
RETRAINED = ("learned_decay", "learned_decay_bilora", "autolora", "bidora")
STAGES = {**dict.fromkeys(RETRAINED, ["bilevel", "retrain"]), "two_stage": ["vectors", "values"]}
"""Methods whose runs have more than one stage."""
RUNS = [(method, seed) for method in METHODS for seed in (0, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results") / "new"


@pytest.fixture(scope="module")
def words(small: list[str], folder: Path) -> list[str]:
    return [*small, "--seeds", "0", "1", "--method", *METHODS, "--validate-every", "2", "--output", str(folder)]


@pytest.fixture(scope="module")
def ended(run_command: Any, words: list[str]) -> Any:
    """All methods with two seeds on the embedded sentences, once for the whole file."""
    return run_command(words)


@pytest.fixture(scope="module")
def rows(ended: Any, folder: Path, read_results: Any) -> Any:
    assert ended.code == 0, ended.err
    return read_results(folder)


@pytest.fixture(scope="module")
def plan(run_glue: Any, words: list[str]) -> RunPlan:
    return plan_run(run_glue.PROGRAM.parse(words).runs[0], find_task("rotten_tomatoes").load_rows(None))


def test_every_variant_is_run() -> None:
    assert WITH_VALUES | SPLIT | {"lora", "dora", "adalora"} == set(METHODS)
    assert set(STAGES) < SPLIT


def test_prints_the_command_the_table_and_the_folder(ended: Any, words: list[str], folder: Path) -> None:
    assert (ended.code, ended.err) == (0, "")
    first, *_ = ended.out.splitlines()
    assert first == f"command: python benchmarks/run_glue.py {' '.join(words)}"
    assert "rotten_tomatoes: 2 seeds" in ended.out
    for column in ("accuracy", "train loss", "validation loss", "gap", "parameters", "seconds", "peak MB"):
        assert column in ended.out
    for method in METHODS:
        assert f"│ {method} " in ended.out
    assert "…" not in ended.out
    assert ended.out.splitlines()[-1].endswith(str(folder))


def test_one_row_a_run(rows: Any) -> None:
    assert sorted((row["method"], row["seed"]) for row in rows) == sorted(RUNS)
    assert [row["seed"] for row in rows] == [0] * len(METHODS) + [1] * len(METHODS), "methods alternate within a seed"


def test_rows_say_what_was_run(rows: Any) -> None:
    for row in rows:
        assert (row["task"], row["metric"]) == ("rotten_tomatoes", "accuracy")
        assert row["steps"] == (6 if row["method"] == "two_stage" else 8 if row["method"] in STAGES else 4)
        assert (row["formulation"] is not None) == (row["method"] in WITH_VALUES - {"autolora"})
        assert (row["hypergradient"] is not None) == (row["method"] in BILEVEL)
        assert row["score"] == row["metrics"]["accuracy"]
        assert row["validation_loss"] == row["metrics"]["loss"]
        assert row["seconds"] > 0
        assert row["peak_memory_mb"] > 50
        assert set(row["versions"]) >= {"python", "bilora", "torch", "transformers", "peft", "betty-ml"}


def test_methods_and_seeds_make_a_difference(rows: Any) -> None:
    # In a run this short, LoRA on D1 is never stopped early.
    different = [row for row in rows if row["method"] != "lora_early_stopping"]
    assert len({row["validation_loss"] for row in different}) == len(different)
    assert len({row["config_sha256"] for row in rows}) == len(RUNS)


def test_trainable_parameters_are_those_of_the_adapter_and_the_head(rows: Any) -> None:
    """Query and value of one layer of width 16 at rank 8, and a head of 2 x 16 weights and 2 biases."""
    head, vectors = 2 * 16 + 2, 2 * (16 * 8 + 8 * 16)
    found = {row["method"]: row["trainable_parameters"] for row in rows}
    assert found["lora"] == vectors + head
    assert found["bilora"] == found["pseudo_svd"] == vectors + 2 * 8 + head
    assert found["adalora"] == 2 * (16 * 12 + 12 * 16 + 12) + head, "it starts with one and a half times the rank"


def test_files_of_a_comparison(rows: Any, folder: Path) -> None:
    expected = {"results.jsonl", "config.yaml", *(f"loss-{method}.png" for method in METHODS)}
    assert {path.name for path in folder.iterdir()} == expected | {f"{name}-seed{seed}" for name, seed in RUNS}
    for method in METHODS:
        assert (folder / f"loss-{method}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(("method", "seed"), RUNS)
def test_files_of_a_run(rows: Any, folder: Path, method: str, seed: int) -> None:
    run = folder / f"{method}-seed{seed}"
    (row,) = [each for each in rows if (each["method"], each["seed"]) == (method, seed)]
    files = {"config.yaml", "metrics.jsonl", "times.jsonl", "adapter", "all_results.json", "trainer_state.json"}
    files |= {"label_map.json", "predictions-validation.jsonl"}
    files |= {"lora", "spectrum.json", "values.jsonl"} if method in WITH_VALUES else set()
    files |= {"split.json"} if method in SPLIT else set()
    files |= {"learned.json"} if method.startswith("learned_decay") else set()
    assert {path.name for path in run.iterdir()} == files
    assert load_json(run / "all_results.json").items() >= row.items()
    config = parse_config(RunConfig, ["--config", str(run / "config.yaml")], prog="", description="")
    assert (config.method, config.seed) == (method, seed)
    assert config.sha256() == row["config_sha256"]


@pytest.mark.parametrize(("method", "seed"), RUNS)
def test_metrics_of_a_run(rows: Any, folder: Path, method: str, seed: int) -> None:
    (row,) = [each for each in rows if (each["method"], each["seed"]) == (method, seed)]
    text = (folder / f"{method}-seed{seed}" / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert [line["step"] for line in lines][:6] == [1, 2, 2, 3, 4, 4]
    steps = [line["step"] for line in lines if "validation" not in line]
    assert steps == list(range(1, row["steps"] + 1))
    assert [line["step"] for line in lines if "validation" in line] == list(range(2, row["steps"] + 1, 2))
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    assert stages == STAGES.get(method, stages[:1])
    if method != "lora_early_stopping":  # it ends with the parameters of another step than the last
        assert lines[-1]["validation"] == row["metrics"]
    assert ("upper_loss" in lines[1]) == (method in BILEVEL)


@pytest.mark.parametrize("seed", [0, 1])
def test_split_holds_row_ids_of_the_data_set(rows: Any, folder: Path, plan: RunPlan, seed: int) -> None:
    splits = load_json(folder / f"bilora-seed{seed}" / "split.json")
    taken = take_rows(plan.rows.train, 40, seed=seed)
    labels = dict(zip(taken.ids, taken.labels, strict=True))
    for split in splits:
        assert (len(split["lower"]), len(split["upper"])) == (32, 8)
        assert not set(split["lower"]) & set(split["upper"])
        assert {*split["lower"], *split["upper"]} == set(taken.ids)
        assert sum(labels[row] for row in split["upper"]) == 4


@pytest.mark.parametrize("form", ["adapter", "lora"])
@pytest.mark.parametrize("method", METHODS)
def test_saved_adapters_give_the_same_scores(
    rows: Any, folder: Path, plan: RunPlan, tiny_encoder: Path, method: str, form: str
) -> None:
    saved = folder / f"{method}-seed0" / form
    if form == "lora" and method not in WITH_VALUES:
        assert not saved.exists(), "they need no export"
        return
    (row,) = [each for each in rows if (each["method"], each["seed"]) == (method, 0)]
    base = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=2)

    def score(model: Any) -> dict[str, float | None]:
        prepared = prepare([plan])
        data = prepared.validation["validation"]
        return plan.task.validate(Inference(model, prepared.tokenizer.own), data).metrics

    without = score(base)
    with warnings.catch_warnings():
        # PEFT 0.21 does not know AdaLoRA's own keys when it reads them back.
        warnings.filterwarnings("ignore", message="The following rank_pattern keys", category=RuntimeWarning)
        model = PeftModel.from_pretrained(base, saved)
    found = score(model)
    assert found["accuracy"] == row["score"]
    assert found["loss"] == pytest.approx(row["validation_loss"], abs=1e-6)
    assert without["loss"] != pytest.approx(row["validation_loss"], abs=1e-3), "the adapter changes nothing"
    if form == "lora":
        config = json.loads((saved / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["peft_type"] == "LORA"


def test_the_same_command_twice_writes_the_same_numbers(
    rows: Any, run_command: Any, read_results: Any, words: list[str], folder: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    assert run_command([*words, "--method", "bilora", "--seeds", "1", "--output", str(again)]).code == 0
    (row,) = read_results(again)
    (before,) = [each for each in rows if (each["method"], each["seed"]) == ("bilora", 1)]
    changing = {"seconds", "peak_memory_mb"}
    assert {key: row[key] for key in row.keys() - changing} == {key: before[key] for key in row.keys() - changing}
    for name in ("metrics.jsonl", "split.json", "adapter/adapter_model.safetensors"):
        once, twice = (root / "bilora-seed1" / name for root in (folder, again))
        assert once.read_bytes() == twice.read_bytes(), name


@pytest.mark.usefixtures("rows")
def test_overwriting_would_leave_nothing_of_it(folder: Path, tmp_path: Path) -> None:
    assert remove_run(Path(shutil.copytree(folder, tmp_path / "copy"))) == []
