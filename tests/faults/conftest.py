"""A run in a folder of the test's own."""

from pathlib import Path
from typing import Any

import pytest
from small_runs import BATCHES, ROWS, Adapted, Ended, Run, collate
from watched_command import QUICK

import bilora_command
from bilora.engines.callbacks.files import MetricsFile
from bilora.engines.settings import FitSettings
from bilora.engines.training.fit import fit


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is written but here."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def interrupted_run(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, review_file: Path) -> Path:
    """A run of the command with two checkpoints, the second of its last step, that was cut off before its end."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    words = ["train", "--model", str(tiny_encoder), "--train-file", str(review_file), "--output", str(folder)]
    assert bilora_command.main([*words, *QUICK, "--save-every", "1", "--method", "bilora"]) == 0
    (folder / "finished.json").write_text('{"finished": false}')
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a fit in a folder; words that ``fit`` does not know are settings."""

    def make(
        name: str = "run", *, on: Adapted | None = None, rows: Any = ROWS, callbacks: Any = (), **options: Any
    ) -> Ended:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        words = ("collate", "validate", "monitor", "resume")
        known = {"collate": collate} | {word: options.pop(word) for word in words if word in options}
        settings = {"steps": 8, "unroll_steps": 2, "lower": BATCHES, "upper": BATCHES, "device": "cpu", **options}
        on = on or Adapted()
        known |= {"variant": on.method, "variant_settings": on.settings, "settings": FitSettings(**settings)}
        metrics = MetricsFile(folder / "metrics.jsonl")
        result = fit(on.model, rows, callbacks=(metrics, *callbacks), folder=folder, **known)
        return Ended(on.model, result, folder)

    return make
