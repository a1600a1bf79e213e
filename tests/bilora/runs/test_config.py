"""The configuration of a run: what it refuses, what its hash knows, and that its parts load again."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bilora.commands.command_line import parse_config
from bilora.engines.checkpoints.config_change import FREE
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.errors import SettingsError
from bilora.files.formats import write_yaml
from bilora.problems.catalog import VARIANTS
from bilora.runs.config import RunConfig
from bilora.runs.config_hash import config_hash
from bilora.runs.several_runs import SeveralRuns, SharedSettings
from bilora.settings.sections import resolved

FILES: dict[str, Any] = {"train_file": "rows.csv", "text_columns": ["text"]}

# Another allowed value for every field.
OF_A_FIT: dict[str, Any] = {
    "seed": 9,
    "steps": 7,
    "unroll_steps": 3,
    "warmup_steps": 1,
    "hypergradient": "first_order",
    "ending": "prune",
    "lower": LevelSettings(batch_size=3),
    "upper": LevelSettings(batch_size=5),
    "split_ratio": 0.5,
    "meter": 5,
    "refresh": 2,
    "validate_every": 4,
    "early_stopping": 6,
    "keep_best": True,
    "save_every": 3,
    "save_total_limit": 2,
    "skip_diverged": 3,
    "on_save_error": "warn",
    "on_out_of_memory": "halve",
    "precision": "bf16",
    "group_by_length": True,
    "torch_compile": "default",
    "device": "cpu",
}
OF_A_RUN: dict[str, Any] = {
    "task": "mrpc",
    "train_file": "others.csv",
    "text_columns": ["text", "more"],
    "label_column": "y",
    "label_separator": ",",
    "validation_file": "validation.csv",
    "validation_share": 0.2,
    "task_type": "regression",
    "on_bad_row": "skip",
    "task_settings": {"beams": 4},
    "class_weights": "auto",
    "shard_base": True,
    "data_dir": "folder",
    "model": "folder",
    "formulation": "softmax",
    "rank": 3,
    "alpha": 3.0,
    "dropout": 0.2,
    "target_modules": ["key"],
    "trusted_file": "trusted.csv",
    "trusted_column": "checked",
    "road": "trusted_only",
    "source_column": "source",
    "weight_column": "weight",
    "group_column": "customer",
    "revision": "v1",
    "train_rows": 10,
    "flip_labels": 0.2,
    "max_length": 64,
    "output": "elsewhere",
    "overwrite": True,
    "resume": "auto",
    "allow_config_change": True,
    "debug": True,
}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "mrcp"}, "task 'mrcp' is unknown.* Did you mean 'mrpc'"),
        ({"method": "bilroa"}, "method 'bilroa' is unknown.* Did you mean 'bilora'"),
        ({"seed": -1}, "seed is -1, it must not be negative"),
        ({"train_rows": 1}, "train_rows is 1, it must be at least 2"),
        ({"flip_labels": 1.0}, r"flip_labels is 1.0, it is a share of the training rows, in \[0, 1\)"),
        ({"max_length": 0}, "max_length is 0, it must be at least 1"),
        ({"steps": 0}, "settings: steps is 0"),
        ({"keep_best": True}, "validate_every is 0, early_stopping and keep_best look at"),
        ({"overwrite": True}, "overwrite is True, it belongs to output, which is not given"),
        ({"overwrite": True, "output": "a", "resume": "auto"}, "resume goes on with what it removes; take one"),
        ({"hypergradient": "drats"}, "hypergradient 'drats' is unknown"),
        ({"ending": "retain"}, "ending 'retain' is unknown.* Did you mean 'retrain'"),
        ({"ending": {"name": "retrain", "step": 3}}, "ending 'retrain' has no setting 'step'.* Did you mean 'steps'"),
        ({"ending": {"name": "prune", "ranks": {"name": "enrgy"}}}, "rank rule 'enrgy' is unknown"),
        ({"ending": "prune", "method": "lora"}, "ending is 'prune', which means nothing for method lora"),
        ({"formulation": "sofmax", "method": "bilora"}, "sofmax.* Did you mean 'softmax'"),
        ({"formulation": "real", "method": "lora"}, "formulation is 'real', which means nothing for method lora"),
        ({"formulation": "real"}, "means nothing for method self_tuned; leave it out, or choose another method"),
        ({"method_settings": {"bilroa": {}}}, "method 'bilroa' is unknown.* Did you mean 'bilora'"),
        ({"method_settings": {"adalora": {"rank": 0}}}, "adapter: rank is 0"),  # also where it is not run
        ({"method_settings": {"lora": {"rankk": 3}}}, "method 'lora' has no setting 'rankk'.* Did you mean 'rank'"),
        ({"method_settings": {"lora": {"rank": "many"}}}, "method 'lora': rank: Expected a <class 'int'>"),
        ({**FILES, "task": "mrpc"}, "task is 'mrpc', it stands beside train_file; leave one of them out"),
        ({**FILES, "data_dir": "folder"}, "data_dir is 'folder', it belongs to task"),
        ({"text_columns": ["a"]}, r"text_columns is \['a'\], it belongs to train_file, which is not given"),
        ({"validation_file": "a.csv"}, "validation_file is 'a.csv', it belongs to train_file"),
        ({"label_separator": ","}, "label_separator is ',', it belongs to train_file"),
        ({"on_bad_row": "skip"}, "on_bad_row is 'skip', it belongs to train_file"),
        ({"task_type": "regression"}, "task_type is 'regression', it belongs to train_file"),
        ({**FILES, "task_type": "clasification"}, "Did you mean 'classification'"),
        (
            {"train_file": "a.csv", "text_columns": []},
            r"train_file 'a.csv': text_columns is \(\), name one or two columns",
        ),
        ({"class_weights": "balanced"}, "class_weights is 'balanced'; allowed: none, auto, or a mapping"),
        ({"class_weights": {"a": -1.0}}, "the weight of 'a' is -1.0, it must be positive"),
        (
            {"class_weights": {"a": 2.0}, "method": "correction_then_trusted"},
            "class_weights is {'a': 2.0}, and method correction_then_trusted computes a loss of its own, without them",
        ),
        (
            {"class_weights": "auto", "method_settings": {"self_tuned": {"classes": "measured"}}},
            "class_weights is 'auto', and method self_tuned with classes: measured weighs rows by itself; leave one",
        ),
        ({"task": "mrpc", "task_settings": {"beams": 4}}, "task_settings of task 'mrpc' has no setting 'beams'"),
    ],
)
def test_refusals(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        RunConfig(**settings)


def test_all_faults_of_the_run_are_told_together() -> None:
    with pytest.raises(SettingsError) as raised:
        RunConfig(seed=-1, train_rows=0, max_length=0)
    assert all(word in str(raised.value) for word in ("seed is", "train_rows is", "max_length is"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": []}, r"config: method is \[\], give at least one"),
        ({"method": ["lora", "lora"]}, "method is .* each may stand once"),
        ({"seeds": []}, r"seeds is \[\], give at least one"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\], each may stand once"),
        ({"seeds": [-1]}, r"seeds is \[-1\], .* none may be negative"),
        ({"run": SharedSettings(ending="retrain"), "method": ["lora"]}, "ending is 'retrain', which means nothing"),
        (
            {"run": SharedSettings(formulation="real"), "method": ["lora"]},
            "formulation .* means nothing for the methods",
        ),
    ],
)
def test_refusals_of_several_runs(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SeveralRuns(**settings)


def test_fit_settings_take_every_field_over() -> None:
    assert set(OF_A_FIT) == {field.name for field in dataclasses.fields(FitSettings)}
    for only_meter_or_compiled in ("meter", "torch_compile"):
        settings = {name: value for name, value in OF_A_FIT.items() if name != only_meter_or_compiled}
        assert RunConfig(method="bilora", **settings).fit_settings() == FitSettings(**settings)
    assert RunConfig(method="bilora").fit_settings() == FitSettings(), "the same defaults"


def test_without_a_task_or_a_file_it_is_the_embedded_one() -> None:
    assert (RunConfig().task, RunConfig(**FILES).task) == ("rotten_tomatoes", None)


@pytest.mark.parametrize("method", sorted(VARIANTS))
def test_a_file_may_hold_settings_of_methods_that_are_not_run(method: str) -> None:
    config = RunConfig(method_settings={name: {"rank": 2 + (name == method)} for name in VARIANTS}).of(method, 0)
    assert config.method_settings == {method: {"rank": 3}}
    assert config.variant_settings.rank == 3
    assert isinstance(config.variant_settings, type(VARIANTS[method].settings()))


def test_formulation_goes_to_the_methods_that_have_one() -> None:
    run = SharedSettings(formulation="softmax", method_settings={"pseudo_svd": {"formulation": "binary"}})
    bilora, lora, pseudo_svd = SeveralRuns(["bilora", "lora", "pseudo_svd"], [0], run).runs
    assert (bilora.variant_settings.formulation, lora.formulation) == ("softmax", None)
    assert pseudo_svd.variant_settings.formulation == "binary", "the method's own section is nearer"


DECIDING = sorted({field.name for field in dataclasses.fields(RunConfig)} - {"method", "method_settings"} - FREE)


@pytest.mark.parametrize("field", DECIDING)
def test_hash_changes_with_every_setting(field: str) -> None:
    base = {"method": "bilora", "validate_every": 1} | ({} if field in ("task", "data_dir") else FILES)
    # A road is one of trusted rows, which have it instead of a method.
    base |= {"trusted_file": "trusted.csv", "method": "self_tuned"} if field == "road" else {}
    base |= {"method": "learned_sources"} if field == "source_column" else {}
    base |= {"model": "owner/name"} if field == "revision" else {}
    assert config_hash(RunConfig(**base)) != config_hash(RunConfig(**{**base, field: (OF_A_FIT | OF_A_RUN)[field]}))


def test_one_label_column_is_one_however_it_is_given() -> None:
    word, words = RunConfig(**FILES, label_column="kind"), RunConfig(**FILES, label_column=["kind"])
    assert words.label_column == "kind"
    assert config_hash(word) == config_hash(words)


@pytest.mark.parametrize("field", sorted(FREE))
def test_hash_knows_nothing_of_what_decides_no_number(field: str) -> None:
    """Of rows that are left out or refused neither: they are known by their own digest."""
    base = FILES | ({"output": "elsewhere"} if field == "overwrite" else {})
    assert config_hash(RunConfig(**{**base, field: (OF_A_FIT | OF_A_RUN)[field]})) == config_hash(RunConfig(**FILES))


def test_hash_knows_method_its_settings_and_seed_only() -> None:
    assert len({config_hash(run) for run in SeveralRuns().runs}) == 4
    alone = config_hash(RunConfig(method="lora"))
    assert config_hash(RunConfig(method="lora", output="elsewhere")) == alone
    assert config_hash(RunConfig(method="lora", method_settings={"bilora": {"rank": 3}})) == alone
    assert config_hash(SharedSettings(formulation="real").of("lora", 0)) == alone
    assert config_hash(RunConfig(method="lora", method_settings={"lora": {"rank": 3}})) != alone
    assert config_hash(RunConfig(method="lora", method_settings={"lora": {"rank": 8}})) == alone, "8 is the default"


def test_hash_of_a_run_is_what_it_was_before_the_defaults_changed() -> None:
    """Written down with all settings that commit 23866d7 had by itself."""
    paper = {"bilora": {"formulation": "softmax", "normalized": False, "orthogonality": 0.1}}
    config = RunConfig(
        method="bilora",
        method_settings=paper,
        hypergradient={"finite_difference": "central", "scale": "one"},
        lower=LevelSettings(learning_rate=1e-3),
        upper=LevelSettings(learning_rate=1e-2),
    )
    assert config_hash(config) == "669a69d064ac0e1bac03e55d21df942d585bf8d460616d0f807095a6f863fc9c"


ODD: dict[str, Any] = {
    "method": "bilora",
    "formulation": "binary",
    "method_settings": {"lora": {"rank": 3}, "bilora": {"target_modules": ["query"], "binary_entropy": 1e-5}},
    "seed": 3,
    "lower": LevelSettings(learning_rate=1e-5, schedule="cosine"),
    "hypergradient": {"name": "darts", "finite_difference": "forward", "radius": 1e-4},
    "validate_every": 2,
    "keep_best": True,
}


def loaded(kind: type[Any], settings: Any, path: Path) -> Any:
    write_yaml(path, resolved(settings))
    return parse_config(kind, ["--config", str(path)], prog="test", description="")


@pytest.mark.parametrize("config", [RunConfig(), RunConfig(**ODD)])
def test_yaml_loads_back_to_the_same_config(config: RunConfig, tmp_path: Path) -> None:
    assert loaded(RunConfig, config, tmp_path / "config.yaml") == config


@pytest.mark.parametrize("method", ["bilora", "lora", "pseudo_svd"])
def test_config_of_one_run_loads_back_with_the_same_hash(method: str, tmp_path: Path) -> None:
    config, path = RunConfig(**ODD).of(method, 3), tmp_path / "config.yaml"
    again = loaded(RunConfig, config, path)
    assert (again.variant_settings, config_hash(again)) == (config.variant_settings, config_hash(config))
    # As the run of a program that compares several, and as earlier versions wrote it: with lists of one.
    assert loaded(SeveralRuns, config, path).runs == (config,)
    earlier = resolved(config) | {"method": [method], "seeds": [3]}
    del earlier["seed"]
    assert loaded(RunConfig, earlier, path) == again
