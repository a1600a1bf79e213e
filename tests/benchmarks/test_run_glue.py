"""The main job from end to end, with a tiny model: what it prints and every file that it writes."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from programs import Ended, program, results, run_glue
from transformers import AutoModelForSequenceClassification

from bilora.commands.command_line import parse_config
from bilora.files.formats import load_json
from bilora.problems.catalog import VARIANTS
from bilora.runs.config import RunConfig
from bilora.runs.config_hash import config_hash
from bilora.runs.folder import remove_run
from bilora.runs.plan import RunPlan, plan_run
from bilora.runs.run import prepare
from bilora.tasks.catalog import find_task
from bilora.tasks.sources import take_rows
from bilora.tasks.task import Inference

# Those whose road is that of learned_noise, and those of trusted rows; the sentences name neither sources nor trusted
# rows.
LEFT_OUT = {"learned_sources", "learned_classes", "learned_rows", "learned_loss"}
LEFT_OUT |= {"noisy_then_trusted", "correction_then_trusted"}
METHODS = [name for name in VARIANTS if name not in LEFT_OUT]
SPLIT = {name for name in METHODS if VARIANTS[name].splits_rows(VARIANTS[name].settings())}
WITH_VALUES = {name for name in METHODS if VARIANTS[name].has_values}
BILEVEL = {name for name in METHODS if VARIANTS[name].upper is not None}
RETRAINED = ("self_tuned", "learned_decay", "learned_decay_bilora", "autolora", "bidora", "learned_noise")
STAGES = {**dict.fromkeys(RETRAINED, ["bilevel", "retrain"]), "two_stage": ["vectors", "values"]}
"""Methods whose runs have more than one stage."""
RUNS = [(method, seed) for seed in (0, 1) for method in METHODS]
Rows = dict[tuple[str, int], dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results") / "new"


@pytest.fixture(scope="module")
def words(small: list[str], folder: Path) -> list[str]:
    return [*small, "--seeds", "0", "1", "--method", *METHODS, "--validate-every", "2", "--output", str(folder)]


@pytest.fixture(scope="module")
def ended(words: list[str]) -> Ended:
    """All methods with two seeds on the embedded sentences, once for the whole file."""
    return run_glue(*words)


@pytest.fixture(scope="module")
def rows(ended: Ended, folder: Path) -> Rows:
    """The rows of results by method and seed."""
    assert ended.code == 0, ended.err
    rows = results(folder)
    assert [(row["method"], row["seed"]) for row in rows] == RUNS, "methods alternate within a seed"
    return dict(zip(RUNS, rows, strict=True))


@pytest.fixture(scope="module")
def plan(words: list[str]) -> RunPlan:
    return plan_run(program("run_glue").parse(words).runs[0], find_task("rotten_tomatoes").load_rows(None))


def test_every_variant_is_run() -> None:
    assert WITH_VALUES | SPLIT | {"lora", "dora", "adalora"} == set(METHODS)
    assert set(STAGES) < SPLIT


def test_prints_the_command_the_table_and_the_folder(ended: Ended, words: list[str], folder: Path) -> None:
    assert (ended.code, ended.err) == (0, "")
    first, *_, last = ended.out.splitlines()
    assert first == f"command: python benchmarks/run_glue.py {' '.join(words)}"
    assert "rotten_tomatoes: 2 seeds" in ended.out
    for column in ("accuracy", "train loss", "validation loss", "gap", "parameters", "seconds", "peak MB"):
        assert column in ended.out
    assert [method for method in METHODS if f"│ {method} " not in ended.out] == []
    assert "…" not in ended.out
    assert last.endswith(str(folder))


def test_rows_say_what_was_run(rows: Rows) -> None:
    for (method, _), row in rows.items():
        assert (row["task"], row["metric"]) == ("rotten_tomatoes", "accuracy")
        assert row["steps"] == (6 if method == "two_stage" else 8 if method in STAGES else 4)
        assert (row["formulation"] is not None) == (method in WITH_VALUES - {"autolora", "self_tuned"})
        assert (row["hypergradient"] is not None) == (method in BILEVEL)
        assert row["score"] == row["metrics"]["accuracy"]
        assert row["validation_loss"] == row["metrics"]["loss"]
        assert row["seconds"] > 0
        assert row["peak_memory_mb"] > 50
        assert set(row["versions"]) >= {"python", "bilora", "torch", "transformers", "peft", "betty-ml"}


def test_methods_and_seeds_make_a_difference(rows: Rows) -> None:
    # In a run this short, LoRA on D1 is never stopped early.
    losses = [row["validation_loss"] for (method, _), row in rows.items() if method != "lora_early_stopping"]
    assert len(set(losses)) == len(losses)
    assert len({row["config_sha256"] for row in rows.values()}) == len(RUNS)


def test_trainable_parameters_are_those_of_the_adapter_and_the_head(rows: Rows) -> None:
    """Query and value of one layer of width 16 at rank 8, and a head of 2 x 16 weights and 2 biases."""
    head, vectors = 2 * 16 + 2, 2 * (16 * 8 + 8 * 16)
    counts = {method: row["trainable_parameters"] for (method, _), row in rows.items()}
    assert counts["lora"] == vectors + head
    assert counts["bilora"] == counts["pseudo_svd"] == vectors + 2 * 8 + head
    assert counts["adalora"] == 2 * (16 * 12 + 12 * 16 + 12) + head, "it starts with one and a half times the rank"


@pytest.mark.usefixtures("rows")
def test_files_of_a_comparison(folder: Path) -> None:
    plots = {f"loss-{method}.png" for method in METHODS}
    runs = {f"{method}-seed{seed}" for method, seed in RUNS}
    assert {path.name for path in folder.iterdir()} == {"results.jsonl", "config.yaml"} | plots | runs
    assert {(folder / plot).read_bytes()[:8] for plot in plots} == {b"\x89PNG\r\n\x1a\n"}


@pytest.mark.parametrize(("method", "seed"), RUNS)
def test_files_of_a_run(rows: Rows, folder: Path, method: str, seed: int) -> None:
    run, row = folder / f"{method}-seed{seed}", rows[method, seed]
    files = {"config.yaml", "metrics.jsonl", "times.jsonl", "adapter", "all_results.json", "trainer_state.json"}
    files |= {"label_map.json", "predictions-validation.jsonl"}
    files |= {"lora", "spectrum.json", "values.jsonl"} if method in WITH_VALUES else set()
    files |= {"split.json"} if method in SPLIT else set()
    files |= {"learned.json"} if method.startswith(("learned_", "self_tuned")) else set()
    assert {path.name for path in run.iterdir()} == files
    assert load_json(run / "all_results.json").items() >= row.items()
    config = parse_config(RunConfig, ["--config", str(run / "config.yaml")], prog="", description="")
    assert (config.method, config.seed) == (method, seed)
    assert config_hash(config) == row["config_sha256"]
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert [line["step"] for line in lines][:6] == [1, 2, 2, 3, 4, 4]
    assert [line["step"] for line in lines if "validation" not in line] == list(range(1, row["steps"] + 1))
    assert [line["step"] for line in lines if "validation" in line] == list(range(2, row["steps"] + 1, 2))
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    assert stages == STAGES.get(method, stages[:1])
    if method != "lora_early_stopping":  # it ends with the parameters of another step than the last
        assert lines[-1]["validation"] == row["metrics"]
    assert ("upper_loss" in lines[1]) == (method in BILEVEL)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.usefixtures("rows")
def test_split_holds_row_ids_of_the_data_set(folder: Path, plan: RunPlan, seed: int) -> None:
    taken = take_rows(plan.rows.train, 40, seed=seed)
    labels = dict(zip(taken.ids, taken.labels, strict=True))
    for split in load_json(folder / f"bilora-seed{seed}" / "split.json"):
        assert (len(split["lower"]), len(split["upper"])) == (32, 8)
        assert not set(split["lower"]) & set(split["upper"])
        assert {*split["lower"], *split["upper"]} == set(taken.ids)
        assert sum(labels[row] for row in split["upper"]) == 4


@pytest.fixture(scope="module")
def score(plan: RunPlan) -> Callable[[Any], dict[str, float | None]]:
    prepared = prepare([plan])
    data = prepared.validation["validation"]
    return lambda model: plan.task.validate(Inference(model, prepared.tokenizer.own), data).metrics


def tiny_classifier(folder: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)


@pytest.fixture(scope="module")
def loss_without(score: Any, tiny_encoder: Path) -> float:
    """The loss of the model without any adapter."""
    return float(score(tiny_classifier(tiny_encoder))["loss"])


@pytest.mark.parametrize(
    ("method", "form"), [*((name, "adapter") for name in METHODS), *((name, "lora") for name in sorted(WITH_VALUES))]
)
def test_saved_adapters_give_the_same_scores(
    rows: Rows, folder: Path, score: Any, loss_without: float, tiny_encoder: Path, method: str, form: str
) -> None:
    """Those of methods without singular values are plain and need no export, see the files of a run."""
    saved = folder / f"{method}-seed0" / form
    with warnings.catch_warnings():
        # PEFT 0.21 does not know AdaLoRA's own keys when it reads them back.
        warnings.filterwarnings("ignore", message="The following rank_pattern keys", category=RuntimeWarning)
        metrics = score(PeftModel.from_pretrained(tiny_classifier(tiny_encoder), saved))
    row = rows[method, 0]
    assert metrics["accuracy"] == row["score"]
    assert metrics["loss"] == pytest.approx(row["validation_loss"], abs=1e-6)
    assert loss_without != pytest.approx(row["validation_loss"], abs=1e-3), "the adapter changes nothing"
    assert form != "lora" or load_json(saved / "adapter_config.json")["peft_type"] == "LORA"


def test_the_same_command_twice_writes_the_same_numbers(
    rows: Rows, words: list[str], folder: Path, tmp_path: Path
) -> None:
    assert run_glue(*words, "--method", "bilora", "--seeds", "1", "--output", tmp_path / "again").code == 0
    (row,) = results(tmp_path / "again")
    changing = {"seconds": None, "peak_memory_mb": None}
    assert row | changing == rows["bilora", 1] | changing
    for name in ("metrics.jsonl", "split.json", "adapter/adapter_model.safetensors"):
        once, twice = (root / "bilora-seed1" / name for root in (folder, tmp_path / "again"))
        assert once.read_bytes() == twice.read_bytes(), name


@pytest.mark.usefixtures("rows")
def test_overwriting_would_leave_nothing_of_it(folder: Path, tmp_path: Path) -> None:
    assert remove_run(Path(shutil.copytree(folder, tmp_path / "copy"))) == []
