"""Folders that commit 23866d7 made still open: predict, evaluate, export, report and resume.

``made_by_23866d7`` holds rows.csv (sentences written for this test), what ``bilora train --config base.yaml`` gave
(``--output finished --steps 12 --validate-every 6``), a run that SIGINT ended (``--output interrupted --steps 24
--validate-every 6 --save-every 4 --save-total-limit 1``), the metrics of the same run without the signal
(uninterrupted.jsonl), and the answers of ``bilora predict finished --file rows.csv`` (answers.jsonl). ``base`` in their
configurations is a link to the embedded MiniLM.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bilora.commands.evaluate import EVALUATE
from bilora.commands.export import EXPORT
from bilora.commands.predict import PREDICT
from bilora.commands.report import REPORT
from bilora.commands.train import TRAIN
from bilora.files.formats import load_json, read_lines
from bilora.models import embedded_model_folder

MADE = Path(__file__).with_name("made_by_23866d7")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folders, with the base model beside them and as the working folder."""
    copy = shutil.copytree(MADE, tmp_path / "made")
    (copy / "base").symlink_to(embedded_model_folder())
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize("adapter", ["finished", "finished/adapter", "finished/lora"])
def test_answers_are_the_ones_of_then(folder: Path, adapter: str) -> None:
    assert PREDICT.run([adapter, "--file", "rows.csv", "--output", "out.jsonl"]) == 0
    for now, then in zip(read_lines(folder / "out.jsonl"), read_lines(folder / "answers.jsonl"), strict=True):
        assert now["prediction"] == then["prediction"]
        assert now["probabilities"] == pytest.approx(then["probabilities"], abs=1e-5)


def test_the_score_is_the_one_of_then(folder: Path) -> None:
    assert EVALUATE.run(["finished", "--output", "metrics.json"]) == 0
    now, then = load_json(folder / "metrics.json"), load_json(folder / "finished" / "all_results.json")
    assert now["accuracy"] == then["score"]
    assert now["loss"] == pytest.approx(then["d2_loss"], abs=1e-5)


def test_the_export_is_the_one_of_then(folder: Path) -> None:
    assert EXPORT.run(["finished", "--output", "lora"]) == 0
    now, then = (load_file(path / "adapter_model.safetensors") for path in (folder / "lora", folder / "finished/lora"))
    assert now.keys() == then.keys()
    for name, tensor in then.items():
        torch.testing.assert_close(now[name], tensor)


def test_a_report_is_written(folder: Path) -> None:
    assert REPORT.run(["finished"]) == 0
    page = (folder / "finished" / "report.html").read_text(encoding="utf-8")
    assert "bilora" in page and "accuracy" in page


@pytest.mark.filterwarnings("default:hypergradient darts:RuntimeWarning")
def test_an_interrupted_run_goes_on_where_it_stopped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert TRAIN.run(["--resume", "interrupted"]) == 0
    # With the scale that was the default then, of which a run is warned today.
    assert capsys.readouterr().err.count("warning: hypergradient darts has scale 'one'") == 1
    now, then = read_lines(folder / "interrupted" / "metrics.jsonl"), read_lines(folder / "uninterrupted.jsonl")
    assert [line["step"] for line in now] == [line["step"] for line in then]
    assert now[-1]["d2"] == pytest.approx(then[-1]["d2"], abs=1e-4)
