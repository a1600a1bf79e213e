"""Files as people have them: each is trained on as a colleague would, or refused in one line with what to do."""

import contextlib
import functools
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from practitioner.making import OddFile, Refused, Trained
from practitioner.odd_files import ODD_FILES
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from bilora.commands import doctor as doctor_command
from bilora.commands.doctor import DOCTOR
from bilora.commands.train import TRAIN
from bilora.runs.plan import RunPlan
from bilora.tasks.kinds import kind_of, read_task

Models = tuple[Path, Path]
pytestmark = pytest.mark.filterwarnings("default::RuntimeWarning")

# A tokenizer of thirty thousand words takes a while to be read, and is the same for all files.
tokenizer_of = functools.cache(AutoTokenizer.from_pretrained)

RUNS = [name for name, odd in ODD_FILES.items() if odd.runs]
SHORT = (
    "--steps",
    "2",
    "--validate-every",
    "2",
    "--keep-best",
    "false",
    "--early-stopping",
    "0",
    "--self-check",
    "false",
)


@pytest.fixture(scope="session")
def models(tiny_encoder: Path, causal_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """An encoder for labels, and a random GPT-2 of one layer for texts."""
    folder = tmp_path_factory.mktemp("tiny-decoder")
    torch.manual_seed(0)
    sizes = {"vocab_size": len(causal_tokenizer), "n_positions": 256, "n_embd": 16, "n_layer": 1, "n_head": 2}
    with contextlib.redirect_stderr(io.StringIO()):
        GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    causal_tokenizer.save_pretrained(folder)
    return tiny_encoder, folder


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[RunPlan]:
    """The plans that are made, the one of the file last; versions and disk are not looked at each time."""
    made: list[RunPlan] = []
    plan_of = doctor_command.plan_of

    def kept(columns: Any) -> RunPlan:
        made.append(plan_of(columns))
        return made[-1]

    monkeypatch.setattr(doctor_command, "plan_of", kept)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", tokenizer_of)
    monkeypatch.setattr(doctor_command, "check_versions", lambda: [])
    return made


def words_of(odd: OddFile, folder: Path, encoder: Path, decoder: Path) -> list[str]:
    words = ["--train-file", str(odd.make(folder)), "--device", "cpu", *odd.words]
    if isinstance(odd.end, Trained) and odd.end.kind == "generation":
        return [*words, "--model", str(decoder), "--max-length", "160"]
    return [*words, "--model", str(encoder), "--max-length", "32"]


def check_task(end: Trained, task: Any) -> None:
    kinds = {"classification": "text", "regression": "text", "multilabel_classification": "multilabel"}
    kind = kinds.get(end.kind, "tokens" if end.kind == "token_classification" else end.kind)
    assert kind_of(task) == kind
    if kind != "generation":
        assert (task.text_columns, task.columns.label_field) == (end.texts, end.label)
    assert (getattr(task, "label_names", None) or ()) == end.labels


def test_there_are_sixty_of_them_and_a_dozen_are_trained() -> None:
    assert len(ODD_FILES) >= 60
    assert 10 <= len(RUNS) <= 14


@pytest.mark.parametrize("name", ODD_FILES)
def test_every_file_comes_to_its_end(
    name: str, plans: list[RunPlan], models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = ODD_FILES[name]
    code, printed = DOCTOR.run(words_of(odd, tmp_path, *models)), capsys.readouterr()
    if isinstance(odd.end, Refused):
        assert code == 2
        (fault,) = re.findall(r"^FAULT data: .*(?:\n  .*)*", printed.out, re.MULTILINE)
        assert all(said in fault for said in odd.end.said), fault
        return
    assert code == 0, printed
    check_task(odd.end, plans[-1].task)
    # Nothing is decided without a word: the columns, the kind of task, and whatever is odd about the file.
    told = printed.out + printed.err
    assert f"the text is in {' and '.join(map(repr, odd.end.texts))}" in told
    assert f"make it {odd.end.kind}" in told
    assert all(said in told for said in odd.end.said), told


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.filterwarnings("ignore::bilora.metrics.metric.UndefinedMetricWarning")
def test_some_of_every_kind_are_trained(
    name: str, models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd, run = ODD_FILES[name], tmp_path / "run"
    assert isinstance(odd.end, Trained)
    code = TRAIN.run([*words_of(odd, tmp_path, *models), *SHORT, "--output", str(run)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert all(said in printed.out + printed.err for said in odd.end.said)
    task, _ = read_task(run / "adapter")
    check_task(odd.end, task)
    assert json.loads((run / "all_results.json").read_text(encoding="utf-8"))["train_loss"] > 0
