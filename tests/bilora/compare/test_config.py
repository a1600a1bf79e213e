"""What a comparison may say: labels, equal numbers of candidates, and nothing chosen by what is reported."""

import operator
from typing import Any

import pytest

from bilora.commands.compare import COMPARE
from bilora.compare.config import NO_OPTIONS, ComparisonConfig, Entry, with_values
from bilora.engines.settings import LevelSettings
from bilora.errors import SettingsError
from bilora.runs.config import RunConfig

DARTS = {"name": "darts", "scale": "learning_rate"}
NEUMANN = {"name": "neumann", "terms": 7}


def test_an_entry_is_a_method_with_settings_of_its_own() -> None:
    of_run = {"refresh": 1, "lower.weight_decay": 0.5, "upper": {"batch_size": 4}}
    entry = {"method": "bilora", "settings": {"formulation": "real"}, "run": of_run}
    run = RunConfig(method_settings={"bilora": {"rank": 4}})
    config = ComparisonConfig(methods=["lora", "b"], entries={"b": entry}, run=run)
    changed = config.config_of("b", {"lower.learning_rate": 0.5, "settings.orthogonality": 0.0})
    settings = changed.settings_of("bilora")
    assert (changed.method, changed.refresh, changed.upper.batch_size) == ("bilora", 1, 4)
    assert (settings.formulation, settings.rank, settings.orthogonality) == ("real", 4, 0.0)
    assert (changed.lower.weight_decay, changed.lower.learning_rate) == (0.5, 0.5)
    assert config.config_of("lora").method_settings == {"lora": {}}
    assert config.config_of("lora").refresh == 0


@pytest.mark.parametrize(
    ("base", "values", "hypergradient"),
    [
        ("darts", {"hypergradient.radius": 0.1}, {**DARTS, "radius": 0.1, "finite_difference": "forward"}),
        ("darts", {"hypergradient.products": "exact"}, {**DARTS, "products": "exact"}),
        ("neumann", {"hypergradient.terms": 7}, NEUMANN),
        (NEUMANN, {"hypergradient.radius": 0.5}, {**NEUMANN, "radius": 0.5}),
        ("darts", {"hypergradient.terms": 7, "hypergradient.name": "neumann"}, NEUMANN),
        ("darts", {"hypergradient": "neumann", "hypergradient.terms": 7}, NEUMANN),
    ],
)
def test_a_dotted_name_changes_one_setting_of_the_hypergradient(base: Any, values: Any, hypergradient: Any) -> None:
    config = Entry(run=values).config(RunConfig(hypergradient=base), "bilora")
    assert config.hypergradient == hypergradient


def test_a_dotted_name_changes_one_setting_of_the_ending() -> None:
    entry = Entry(run={"ending": "retrain", "ending.steps": 9, "refresh": 1})
    config = entry.config(RunConfig(), "bilora")
    assert (config.ending, config.refresh) == ({"name": "retrain", "steps": 9}, 1)
    changed = with_values(config, {"ending.steps": 5}, method="bilora", label="b")
    assert changed.ending == {"name": "retrain", "steps": 5}


def test_learning_rates_of_the_upper_level_keep_their_ratio() -> None:
    run = RunConfig(lower=LevelSettings(learning_rate=3e-3), upper=LevelSettings(learning_rate=0.1))
    config = ComparisonConfig(run=run, learning_rates=[3e-4, 3e-3])
    assert config.candidates("bilora") == [
        {"lower.learning_rate": 3e-4, "upper.learning_rate": 0.01},
        {"lower.learning_rate": 3e-3, "upper.learning_rate": 0.1},
    ]
    assert config.candidates("lora") == [{"lower.learning_rate": 3e-4}, {"lower.learning_rate": 3e-3}]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"methods": []}, "methods is .*give at least one"),
        ({"methods": ["lora", "lora"]}, "each may stand once"),
        ({"methods": ["bilora"]}, "baseline is 'lora', it must be one of the methods: bilora"),
        ({"seeds": 0}, "seeds is 0, give at least one"),
        ({"seeds": [1, 1]}, "each once"),
        ({"seeds": [-1]}, "none may be negative"),
        ({"learning_rates": [0.0]}, "all above 0"),
        ({"choose_share": 1.0}, "above 0 and below 1"),
        ({"seeds": 2, "choose_seeds": 3}, "choose_seeds is 3"),
        ({"jobs": 0}, "jobs is 0"),
        ({"methods": ["lora", "loar"]}, "'loar' is unknown.*Did you mean 'lora'"),
        ({"entries": {"lora": {"grid": [{"refresh": 1}]}}}, "equally many candidates.*bilora 3, lora 1"),
        ({"entries": {"lora": {"methode": "lora"}}}, "entry 'lora' has no setting 'methode'.*Did you mean 'method'"),
        ({"entries": {"lora": {"run": {"steps": "many"}}}}, "entry 'lora': run: steps: Expected"),
        ({"entries": {"lora": {"run": {"lower.rate": 1.0}}}}, "entry 'lora': lower has no setting 'rate'"),
        ({"entries": {"lora": {"run": {"loewr.warmup": 0.1}}}}, "there is no setting 'loewr.warmup'.*'lower.warmup'"),
        ({"entries": {"lora": {"run": {"seed": 1}}}}, "run.seed is not for an entry to decide"),
        ({"entries": {"lora": {"settings": {"rnak": 1}}}}, "entry 'lora': method 'lora' has no setting 'rnak'"),
        ({"entries": {"lora": {"run": {"keep_best": True, "validate_every": 2}}}}, "validation rows that are reported"),
        ({"run": RunConfig(early_stopping=2, validate_every=2)}, "validation rows that are reported"),
        ({"run": RunConfig(seed=3)}, "run.seed is 3, but the comparison decides it"),
        ({"run": RunConfig(output="a")}, "run.output is 'a', but the comparison decides it"),
    ],
)
def test_refused_before_any_file_is_read(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(SettingsError, match=error):
        ComparisonConfig(**settings)


def test_an_entry_need_not_be_compared_nor_have_a_method() -> None:
    assert ComparisonConfig(entries={"other": {"method": "no such method"}}).methods == ["bilora", "lora"]
    assert Entry().config(RunConfig(), "adalora").method == "adalora"


@pytest.mark.parametrize(
    ("words", "setting", "value"),
    [
        ("--methods bilora,lora,adalora", "methods", ["bilora", "lora", "adalora"]),
        ("--methods bilora lora", "methods", ["bilora", "lora"]),
        ("--seeds 5", "seed_list", [0, 1, 2, 3, 4]),
        ("--seeds 6 5", "seed_list", [6, 5]),
        ("--seeds=[5]", "seed_list", [5]),
        ("--learning-rates 3e-4 1e-3", "learning_rates", [3e-4, 1e-3]),
        ("--lower.batch-size 4", "run.lower.batch_size", 4),
        ("--run.task mrpc --jobs 2", "run.task", "mrpc"),
        ("--train-file F --text-columns a b", "run.text_columns", ["a", "b"]),
    ],
)
def test_the_words_of_the_verb(words: str, setting: str, value: Any) -> None:
    assert operator.attrgetter(setting)(COMPARE.parse(words.split())) == value


def test_a_seed_is_not_taken_for_a_number_of_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        COMPARE.parse(["--seed", "5"])
    assert "unrecognized arguments: --seed 5 Did you mean '--seeds'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", NO_OPTIONS)
def test_what_a_comparison_decides_is_no_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither listed nor taken, though it be the default."""
    with pytest.raises(SystemExit) as ended:
        COMPARE.run([f"--run.{name}={getattr(RunConfig(), name)}"])
    assert ended.value.code == 2
    assert f"unrecognized arguments: --run.{name}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        COMPARE.run(["--help"])
    assert f"--run.{name}" not in capsys.readouterr().out.split()


def test_the_verb_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert COMPARE.run(["--methods", "bilora", "--baseline", "lora"]) == 2
    assert "bilora compare: error: comparison: baseline is 'lora'" in capsys.readouterr().err
