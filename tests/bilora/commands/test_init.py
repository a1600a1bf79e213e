"""``bilora init``: what it writes reads back as the same config, says what every setting is, and runs."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from bilora.commands.init import INIT, InitConfig, init_text, setting_texts
from bilora.commands.train import TRAIN
from bilora.commands.train_config import TrainConfig
from bilora.problems.catalog import VARIANTS
from bilora.settings.sections import resolved


@pytest.mark.parametrize("method", sorted(VARIANTS))
def test_reads_back_as_the_defaults_of_train(method: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(init_text(InitConfig(task="mrpc", method=method)), encoding="utf-8")
    read = TRAIN.parse(["--config", str(path)])
    plain = TRAIN.parse(["--task", "mrpc", "--method", method])
    assert read.settings_of(method) == plain.settings_of(method)
    assert {**resolved(read), "method_settings": None} == {**resolved(plain), "method_settings": None}


def test_every_setting_has_a_comment_above_it() -> None:
    text = init_text(InitConfig(task="mrpc"))
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.strip() and not line.lstrip().startswith("#"):
            assert "#" in lines[number - 1] or lines[number - 1].endswith(":"), line
    assert set(yaml.safe_load(text)) == {field.name for field in dataclasses.fields(TrainConfig)}


def test_what_a_docstring_says_is_whole() -> None:
    texts = setting_texts(TrainConfig)
    # Inherited, replaced, and one of two lines.
    assert texts["lower"] == "Settings of the lower level, or of the only one."
    assert texts["seed"] == "Of the split, the data order and the dropout masks."
    assert texts["task"].endswith("unless there is a train_file.")


# After a few steps all of the twelve validation rows may be of one class.
@pytest.mark.filterwarnings("ignore::bilora.metrics.metric.UndefinedMetricWarning")
def test_the_file_that_is_written_runs(command_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    given = command_run.words[:4]  # the model and the file
    assert INIT.run([*given, "--output", str(path)]) == 0
    assert f"bilora train --config {path}" in capsys.readouterr().out
    short = "--max-length 32 --steps 8 --keep-best false --early-stopping 0 --device cpu --lower.learning-rate 0.05"
    words = ["--config", str(path), *short.split(), "--output", str(tmp_path / "run")]
    assert TRAIN.run(words) == 0, capsys.readouterr().err
    assert "method: self_tuned\n" in path.read_text(encoding="utf-8")
    assert INIT.run([*given, "--output", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_is_printed_without_an_output_unless_the_method_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert INIT.run(["--task", "mrpc"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["task"] == "mrpc"
    assert INIT.run(["--method", "bilorra"]) == 2
    assert "Did you mean 'bilora'?" in capsys.readouterr().err
