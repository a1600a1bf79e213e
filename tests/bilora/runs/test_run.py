"""What a run prepares and how it names itself; tests/benchmarks has it from end to end."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from bilora.data.sets import TaskRows
from bilora.engines.hypergradients.darts import Darts
from bilora.engines.settings import LevelSettings
from bilora.errors import DataError, SettingsError
from bilora.files.formats import write_json, write_yaml
from bilora.runs.config import RunConfig
from bilora.runs.plan import plan_run
from bilora.runs.results import spoken_hypergradient
from bilora.runs.run import prepare
from bilora.tasks.catalog import find_task


@pytest.fixture(scope="module")
def reviews() -> TaskRows:
    rows = find_task("rotten_tomatoes").load_rows(None)
    return TaskRows(
        rows.task, rows.train.select(range(200)), {"validation": rows.validation["validation"].select(range(20))}
    )


def test_prepares_what_all_runs_share(reviews: TaskRows) -> None:
    prepared = prepare([plan_run(RunConfig(max_length=16), reviews)])
    encoded = prepared.validation["validation"].encoded
    assert len(encoded) == 20
    assert max(len(row["input_ids"]) for row in encoded) == 16


@pytest.mark.parametrize(
    ("own", "error", "said"),
    [
        ({"train_rows": 201}, DataError, "201 rows are asked for"),
        ({"train_rows": 70}, DataError, "the upper part has 14 rows, fewer than a batch of 16"),
        ({"split_ratio": 0.05}, DataError, "the lower part has 10 rows, fewer than a batch of 16"),
        ({"upper": LevelSettings(batch_size=41)}, DataError, "the upper part has 40 rows, fewer than a batch of 41"),
        ({"device": "cpu:x"}, SettingsError, "device is 'cpu:x'"),
        ({"max_length": 513}, DataError, "the bert model has 512 positions"),
        ({"model": "org/model"}, DataError, "no model can be loaded"),
    ],
)
def test_refuses_before_a_model_is_loaded(reviews: TaskRows, own: dict[str, Any], error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        prepare([plan_run(RunConfig(**own), reviews)])


def test_a_single_level_method_needs_room_for_one_batch_only(reviews: TaskRows) -> None:
    for method in ("lora", "adalora"):
        assert plan_run(RunConfig(method=method, train_rows=16), reviews).split is None
    with pytest.raises(DataError, match="the lower part has 15 rows, fewer than a batch of 16"):
        plan_run(RunConfig(method="lora", train_rows=15), reviews)


@pytest.mark.parametrize(
    ("chosen", "spoken"),
    [
        ("first_order", "first_order"),
        ("darts", "darts(finite_difference=forward)"),
        ({"products": "exact"}, "darts(products=exact)"),
        ({"name": "darts", "radius": 0.01, "finite_difference": "central"}, "darts"),
        ({"name": "darts", "finite_difference": "forward"}, "darts(finite_difference=forward)"),
        ({"around": "after_step", "scale": "learning_rate"}, "darts(around=after_step, scale=learning_rate)"),
        (
            {"name": "bilora.engines.hypergradients.darts:Darts", "radius": 0.1, "finite_difference": "central"},
            "bilora.engines.hypergradients.darts:Darts(radius=0.1)",
        ),
    ],
)
def test_a_result_names_what_of_the_hypergradient_is_not_the_default(chosen: Any, spoken: str) -> None:
    assert spoken_hypergradient(RunConfig(hypergradient=chosen).hypergradient) == spoken
    assert Darts().radius == 0.01


def test_json_is_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": math.nan, "b": [1.0, {"c": math.inf}]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": None, "b": [1.0, {"c": None}]}
    assert text.endswith("}\n")


def test_yaml_keeps_the_order_of_the_settings(tmp_path: Path) -> None:
    value = {"task": "mrpc", "lower": {"learning_rate": 1e-05}, "a": None}
    write_yaml(tmp_path / "a.yaml", value)
    text = (tmp_path / "a.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == value
    assert list(yaml.safe_load(text)) == list(value)
