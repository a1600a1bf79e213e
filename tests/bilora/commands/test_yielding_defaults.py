"""What a default says gives way to what the user says; what the user says is held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bilora.commands.command_line import parse_config
from bilora.commands.train import TRAIN
from bilora.commands.yielding_defaults import given_way
from bilora.errors import SettingsError
from bilora.runs.config import RunConfig

FORWARD = {"name": "darts", "finite_difference": "forward"}
NEUMANN = ["--hypergradient.name", "neumann", "--hypergradient.products", "exact"]


def compared(*words: str, default: Path) -> RunConfig:
    return parse_config(RunConfig, words, prog="program", description="", before=["--config", str(default)])


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A config that a program reads before the user's words, as run_glue.py does."""
    path = tmp_path / "demo.yaml"
    path.write_text(f"hypergradient: {FORWARD}\nmethod_settings: {{bilora: {{formulation: real, normalized: true}}}}\n")
    return path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], FORWARD),
        (NEUMANN, {"name": "neumann", "products": "exact"}),
        (["--hypergradient.products", "exact"], {"name": "darts", "products": "exact"}),
        (["--hypergradient.name", "first_order"], {"name": "first_order"}),
        # What fits stays: neumann takes its products by finite differences too.
        (["--hypergradient.name", "neumann"], {**FORWARD, "name": "neumann"}),
        (["--hypergradient.radius", "0.1"], {**FORWARD, "radius": 0.1}),
        (["--hypergradient", "{name: neumann}"], {"name": "neumann"}),
        (["--hypergradient", "neumann"], "neumann"),
    ],
)
def test_a_default_that_does_not_fit_gives_way(demo: Path, words: list[str], expected: Any) -> None:
    assert TRAIN.parse(words).hypergradient == expected
    assert compared(*words, default=demo).hypergradient == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*NEUMANN, "--hypergradient.finite_difference", "forward"], "leave out finite_difference"),
        ([*NEUMANN, "--hypergradient.radius", "0.1"], "leave out radius"),
        (["--hypergradient.name", "first_order", "--hypergradient.radius", "1"], "no setting 'radius'"),
        (["--hypergradient.name", "neumann", "--hypergradient.termz", "3"], "Did you mean 'terms'"),
        (["--hypergradient.name", "neuman"], "Did you mean 'neumann'"),
    ],
)
def test_what_the_user_says_is_held_to(demo: Path, words: list[str], said: str) -> None:
    for parse in (TRAIN.parse, lambda own: compared(*own, default=demo)):
        with pytest.raises(SettingsError, match=said):
            parse(words)


def test_a_file_of_the_user_s_is_what_the_user_says(demo: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(f"hypergradient: {FORWARD}\n")
    with pytest.raises(SettingsError, match="leave out finite_difference"):
        compared("--config", str(own), "--hypergradient.products", "exact", default=demo)
    own.write_text("hypergradient: {name: neumann, terms: 3}\n")
    found = compared("--config", str(own), "--hypergradient.products", "exact", default=demo)
    assert found.hypergradient == {"name": "neumann", "terms": 3, "products": "exact"}


def test_a_formulation_for_all_methods_is_not_overruled_by_a_default(demo: Path) -> None:
    for config in (TRAIN.parse(["--formulation", "softmax"]), compared("--formulation", "softmax", default=demo)):
        own = config.settings_of("bilora")
        assert (own.formulation, own.normalized) == ("softmax", True)
    nearer = compared("--formulation", "softmax", "--method-settings.bilora.formulation", "binary", default=demo)
    assert nearer.settings_of("bilora").formulation == "binary"


def test_the_config_that_is_printed_is_the_one_that_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        TRAIN.parse([*NEUMANN, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["hypergradient"] == {"name": "neumann", "products": "exact"}


def test_an_ending_gives_way_too() -> None:
    default = {"ending": {"name": "retrain", "steps": 5}}
    assert given_way(default, {"ending": {"name": "prune"}}) == {"ending": {"name": "retrain"}}
