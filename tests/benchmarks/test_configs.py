"""Every committed config loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bilora.engines.command_line import parse_config
from bilora.engines.config import RunConfig

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "benchmarks" / "configs").rglob("*.yaml"))


def test_there_are_configs() -> None:
    assert "demo.yaml" in [path.name for path in CONFIGS]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_loads_with_every_setting_that_it_names(path: Path) -> None:
    loaded = parse_config(RunConfig, ["--config", str(path)], prog="test", description="")
    for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        if not isinstance(value, dict):
            assert getattr(loaded, name) == value
    for method in loaded.method:
        assert loaded.sha256(method, loaded.seeds[0])
