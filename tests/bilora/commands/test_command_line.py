"""The words of a command line: every way to say a setting, and one line for every mistake."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bilora.commands.command_line import parse_config
from bilora.engines.settings import LevelSettings
from bilora.errors import SettingsError
from bilora.runs.config import RunConfig
from bilora.runs.several_runs import SeveralRuns

ROWS = ("--train-file", "rows.csv", "--text-columns", "text")

DARTS = {"name": "darts", "scale": "learning_rate"}


def parse(*words: str) -> SeveralRuns:
    return parse_config(SeveralRuns, words, prog="program", description="A program.")


def ended_with(code: int, *words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*words)
    assert ended.value.code == code


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line of the standard error, behind the name of the program."""
    ended_with(2, *words)
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("program: error: ")
    return line.removeprefix("program: error: ")


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--steps", "10"], "steps", 10),
        (["--steps=10"], "steps", 10),
        (["--unroll-steps", "3"], "unroll_steps", 3),
        (["--unroll_steps", "3"], "unroll_steps", 3),
        (["--unroll-steps=3"], "unroll_steps", 3),
        (["--seeds", "4"], "seeds", [4]),
        (["--seed", "4"], "seeds", [4]),
        (["--seeds", "4", "--seed=5"], "seeds", [5]),
        (["--seeds", "4", "5", "6"], "seeds", [4, 5, 6]),
        (["--seeds", "[4, 5]"], "seeds", [4, 5]),
        (["--seeds=[4,5]"], "seeds", [4, 5]),
        (["--method", "lora"], "method", ["lora"]),
        (["--method", "lora", "pseudo_svd", "--steps", "3"], "method", ["lora", "pseudo_svd"]),
        (["--data-dir", "a-b_c"], "data_dir", "a-b_c"),
        (["--model", "org/a-model"], "model", "org/a-model"),
        (["--keep-best", "true", "--validate-every", "1"], "keep_best", True),
        (["--lower.learning-rate", "5e-4"], "lower", LevelSettings(learning_rate=5e-4)),
        (["--lower.learning_rate=5e-4", "--lower.batch-size", "4"], "lower", LevelSettings(5e-4, batch_size=4)),
        (["--upper.batch-size", "4"], "upper", LevelSettings(learning_rate=0.1, batch_size=4)),
        (["--upper.batch-size", "4"], "lower", RunConfig().lower),
        (["--hypergradient", "first_order"], "hypergradient", "first_order"),
        (["--hypergradient.products", "exact"], "hypergradient", {**DARTS, "products": "exact"}),
        (["--hypergradient.name", "neumann"], "hypergradient", {"name": "neumann"}),
        (
            ["--hypergradient.name", "darts", "--hypergradient.finite_difference", "forward"],
            *("hypergradient", {**DARTS, "finite_difference": "forward"}),
        ),
        (["--method-settings.bilora.rank", "4"], "method_settings", {"bilora": {"rank": 4}}),
        (["--steps", "3", "--steps", "4"], "steps", 4),
        (["--seeds", "1", "2", "--seeds", "3"], "seeds", [3]),
        ([*ROWS, "--text-columns", "a,b"], "text_columns", ["a", "b"]),
        ([*ROWS, "--text-columns", "a", "b"], "text_columns", ["a", "b"]),
        ([*ROWS, "--text-columns", "a"], "text_columns", ["a"]),
        ([*ROWS, "--text-columns=a,b"], "text_columns", ["a", "b"]),
        ([*ROWS, "--class-weights", "auto", "--text-columns", "a"], "class_weights", "auto"),
        ([*ROWS, "--class-weights", "{ham: 1, spam: 4.5}"], "class_weights", {"ham": 1, "spam": 4.5}),
        ([*ROWS, "--class-weights.spam", "4.5"], "class_weights", {"spam": 4.5}),
        ([*ROWS, "--class-weights", "{0: 1, 1: 4.5}"], "class_weights", {"0": 1.0, "1": 4.5}),
    ],
)
def test_ways_to_say_a_setting(words: list[str], field: str, value: Any) -> None:
    several = parse(*words)
    assert getattr(several if field in ("method", "seeds") else several.run, field) == value


def test_what_stands_later_wins(tmp_path: Path) -> None:
    # PyYAML alone would read 5e-4 as a string.
    first = write(tmp_path / "a.yaml", "steps: 10\nunroll_steps: 2\nlower: {learning_rate: 5E-4}\n")
    second = write(tmp_path / "b.yaml", "unroll_steps: 5\n")
    config = parse("--config", first, "--config", second, "--lower.batch-size", "4").run
    assert (config.steps, config.unroll_steps) == (10, 5)
    assert config.lower == LevelSettings(learning_rate=5e-4, batch_size=4)
    assert parse("--config", first, "--steps", "20").run.steps == 20
    assert parse("--steps", "20", "--config", first).run.steps == 10


def test_a_word_about_a_method_leaves_the_rest_of_its_section(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "method_settings: {bilora: {rank: 4, alpha: 2.0}, lora: {rank: 3}}\n")
    words = ["--method-settings.bilora.alpha", "5e-1", "--method-settings.bilora.dropout=0.1"]
    run = parse("--config", path, *words).run
    assert run.method_settings == {"bilora": {"rank": 4, "alpha": 0.5, "dropout": 0.1}, "lora": {"rank": 3}}


def test_printed_config_loads_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--seeds", "3", "--lower.learning-rate", "5e-4", "--hypergradient.name", "darts", "--method", "lora"]
    ended_with(0, *words, "--print_config")
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["seeds"] == [3]
    assert parse("--config", write(tmp_path / "a.yaml", printed)) == parse(*words)


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    ended_with(0, "--help")
    text = capsys.readouterr().out
    assert "A program." in text
    for option in ("--config", "--task", "--seeds", "--lower.learning_rate", "--hypergradient", "--print_config"):
        assert option in text


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        (["--stepps", "4"], "unrecognized arguments: --stepps 4 Did you mean '--steps'?"),
        (["--step", "4"], "unrecognized arguments: --step 4 Did you mean '--steps'?"),  # no abbreviations
        (["--sed", "4"], "unrecognized arguments: --sed 4 Did you mean '--seed'?"),
        (["--lower.learning-rat", "4"], "Did you mean '--lower.learning_rate'?"),
        (["--bogus", "4"], "unrecognized arguments: --bogus 4"),
        (["bogus"], "unrecognized arguments: bogus"),
        (["--steps", "many"], "Parser key \"steps\": Expected a <class 'int'>. Got value: many"),
        (["--steps", "1.5"], "Got value: 1.5"),
        (["--seeds", "0", "x"], "Got value: [0, 'x']"),
        (["--precision", "fp17"], "Got value: fp17"),
        (["--config", "none.yaml"], "none.yaml"),
        ("stepz: 3\n", "'stepz' is not accepted Did you mean '--steps'?"),
        ("lower: {batchsize: 3}\n", "Did you mean '--lower.batch_size'?"),
        ("steps: many\n", "Got value: many"),
        ("steps: [3\n", "while parsing a flow sequence"),
        ("steps:\n\t- 3\n", "cannot start any token"),
        ("just a sentence\n", "config"),
    ],
)
def test_a_mistake_in_words_or_in_a_file_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, mistake: list[str] | str, error: str
) -> None:
    words = ["--config", write(tmp_path / "a.yaml", mistake)] if isinstance(mistake, str) else mistake
    assert error in refused(capsys, *words)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--steps", "0"], "settings: steps is 0, it must be at least 1"),
        (["--method", "bilroa"], "Did you mean 'bilora'?"),
        (["--task", "mrcp"], "Did you mean 'mrpc'?"),
        (["--hypergradient", "drats"], "Did you mean 'darts'?"),
        (["--hypergradient.name", "darts", "--hypergradient.radiuss", "1"], "Did you mean 'radius'?"),
        (["--method_settings.bilora.rankk", "4"], "Did you mean 'rank'?"),
        (["--lower.batch-size", "0"], "level: batch_size is 0, it must be at least 1"),
    ],
)
def test_a_value_that_the_config_refuses(words: list[str], error: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(error)):
        parse(*words)


def test_an_option_without_its_value_is_not_told_its_own_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search("--seeds(?!.*Did you mean)", refused(capsys, "--seeds"))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("seeds: [0]\nmeter:\n", "meter"),
        ("meter:\nlower:\n  accumulation:\n", "meter, lower.accumulation"),
        ("seeds: [0]\nlower:\n", "lower"),
    ],
)
def test_an_empty_line_of_a_file(tmp_path: Path, text: str, names: str) -> None:
    path = write(tmp_path / "a.yaml", text)
    with pytest.raises(SettingsError, match=f"^{path}: config: no value for {names}; give one, or leave the line out"):
        parse("--config", path)


def test_a_value_is_told_with_the_file_that_it_stands_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.yaml", "steps: many\n")
    assert refused(capsys, "--config", path).startswith(f'{path}: Parser key "steps"')
    path = write(tmp_path / "a.yaml", "unroll_steps: 0\n")
    assert refused(capsys, "--config", path, "--steps", "more").startswith('Parser key "steps"')
    with pytest.raises(SettingsError, match=f"^{path}: .*unroll_steps is 0"):
        parse("--config", path, "--steps", "3")


def test_the_defaults_and_null_where_it_means_something(tmp_path: Path) -> None:
    assert parse() == SeveralRuns()
    assert parse("--config", write(tmp_path / "a.yaml", "train_rows: null\nmodel:\nsteps:\n")) == SeveralRuns()
