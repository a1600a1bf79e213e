"""Rows 9, 18 to 21, 26, 30, 31 and 34: folders, rows, words, callbacks, and a long run."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import nn

from bilora.commands.exit_codes import Program
from bilora.data.rows import check_rows, read_rows
from bilora.data.split import split_rows
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.files import MetricsFile
from bilora.engines.settings import FitSettings
from bilora.engines.training.fit import fit
from bilora.errors import DataError, SettingsError
from bilora.files.lock import locked
from bilora.problems import LowerProblem, UpperProblem, Variant
from bilora.runs.folder import make_output_folder
from bilora.tasks.catalog import TASKS

Run = Callable[..., Any]
SST2 = TASKS["sst2"]


# ---- row 9: where to write ------------------------------------------------------------------------


def test_row_09_a_folder_that_is_not_empty_and_one_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(SettingsError, match="is not empty; name another one, .* or go on in it with --resume"):
        make_output_folder(str(tmp_path), task="x")
    with pytest.raises(SettingsError, match="cannot be created"):
        make_output_folder(str(tmp_path / "file"), task="x")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_row_09_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: Any) -> NoReturn:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(SettingsError, match="cannot be written to: Read-only file system"), locked(tmp_path):
        pass


def test_row_09_checkpoints_of_an_earlier_run_are_not_written_over(run: Run) -> None:
    folder = run(save_every=4).folder
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(SettingsError, match="holds checkpoints of an earlier run; resume it, or name another folder"):
        run(save_every=4)


# ---- rows 18 to 21: rows --------------------------------------------------------------------------

GOOD = b'{"sentence": "fine", "label": 1}\n'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"sentence": "cut', "train.jsonl:3: is not a JSON object"),
        (b'{"sentence": 5, "label": 1}', "train.jsonl:3 field 'sentence'"),
        (b'{"label": 1}', "train.jsonl:3 field 'sentence': is missing"),
        (b'{"sentence": "caf\xe9", "label": 1}', "train.jsonl:3: byte .* is not UTF-8"),
        (b'{"sentence": "x", "label": NaN}', "train.jsonl:3 field 'label'"),
        (b'{"sentence": " ", "label": 1}', "train.jsonl:3 field 'sentence': is empty"),
        (b'{"sentence": "x", "label": 2}', "train.jsonl:3 field 'label'"),
        (b'{"sentence": "x", "label": -1}', "train.jsonl:3 field 'label'"),
        (b'{"sentence": "x", "label": 0.5}', "train.jsonl:3 field 'label'"),
        (b'{"sentence": "x", "label": "neither"}', "train.jsonl:3 field 'label'"),
    ],
)
def test_rows_18_and_20_a_bad_row_is_named_by_line_and_field(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(GOOD * 2 + line + b"\n")
    with pytest.raises(DataError, match=said):
        read_rows(path, SST2, split="train")


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbf" + GOOD, GOOD.replace(b"\n", b"\r\n"), GOOD.replace(b"fine", b"fine " * 200_000)],
    ids=["byte order mark", "CRLF", "a megabyte of text"],
)
def test_row_18_harmless_oddities_are_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    assert read_rows(path, SST2, split="train").labels == (1,)


def test_row_18_many_faults_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"sentence": "x", "label": 7}\n' * 30)
    with pytest.raises(DataError, match="30 faults in the rows") as told:
        read_rows(path, SST2, split="train")
    assert len(str(told.value).splitlines()) < 12


@pytest.mark.parametrize(("name", "content"), [("train.jsonl", b""), ("train.csv", b"sentence,label\n")])
def test_row_19_no_row_at_all(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_rows(tmp_path / name, SST2, split="train")


def test_row_19_fewer_rows_than_a_batch(run: Run) -> None:
    rows = [{"input_ids": [1, 2], "labels": index % 2} for index in range(12)]
    with pytest.raises(DataError, match="the upper part has 2 rows, fewer than a batch of 8"):
        run(rows=rows)


def test_row_20_a_word_for_a_class_is_taken() -> None:
    rows = check_rows([(1, {"sentence": "good", "label": "positive"})], SST2, source="toy", split="train")
    assert rows.labels == (1,)


def test_row_21_a_rare_class_is_in_both_parts_or_refused() -> None:
    split = split_rows([0] * 198 + [1, 1], seed=0)
    assert {198, 199} & set(split.lower)
    assert {198, 199} & set(split.upper)
    with pytest.raises(DataError, match="class 1 has one training row"):
        split_rows([0] * 99 + [1], seed=0)


# ---- row 26: words --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stepps", "4"], "Did you mean '--steps'?"),
        (["--lower.lerning-rate", "4"], "Did you mean '--lower.learning_rate'?"),
        (["--precision", "fp8"], "fp8"),
        (["--method", "bilroa"], "Did you mean 'bilora'?"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--config", "indent.yaml"], "line 3, column 2"),
        (["--hypergradient.name", "neuman"], "Did you mean 'neumann'?"),
        (["--on-save-error", "ignore"], "ignore"),
    ],
)
def test_row_26_a_slip_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (tmp_path / "indent.yaml").write_text("lower:\n  steps: 1\n bad: 2\n", encoding="utf-8")
    (tmp_path / "default.yaml").write_text("steps: 4\n", encoding="utf-8")
    program = Program("program", "A program.", default_config=tmp_path / "default.yaml")
    try:
        code = program.run(["--task", "mrpc", *words])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("program: error: ")
    assert said in line


def test_row_26_scientific_notation_is_a_number() -> None:
    from bilora.commands.command_line import parse_config
    from bilora.engines.settings import FitSettings

    words = ["--lower.learning-rate", "5e-4"]
    assert parse_config(FitSettings, words, prog="p", description="").lower.learning_rate == 5e-4


# ---- rows 30, 31 and 34: while it runs ------------------------------------------------------------

HOLDER = """
import pathlib, sys
from bilora.files.lock import locked
for _ in range(2):
    with locked(pathlib.Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.readline()
    print("let go", flush=True)
    sys.stdin.readline()
"""


def test_row_30_a_second_process_on_the_same_folder_is_told(run: Run, tmp_path: Path) -> None:
    """Until the first lets go of the folder, or is killed."""
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-P", "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SettingsError, match=f"is in use by process {other.pid}"):
            run()
        other.stdin.write("\n")
        assert other.stdout.readline() == "let go\n"
        with locked(tmp_path / "run"):
            pass
        assert list((tmp_path / "run").iterdir()) == []
        other.stdin.write("\n")
        assert other.stdout.readline() == "held\n"
        other.kill()
        other.wait()
    run()


def test_row_31_a_tracker_that_fails_stops_nothing(run: Run) -> None:
    class Tracker(Callback):
        calls = 0

        def on_step(self, engine: Any, record: Any) -> None:
            Tracker.calls += 1
            raise ConnectionError("the tracker is down")

    with pytest.warns(RuntimeWarning, match="callback Tracker failed at step 1 .*the tracker is down") as told:
        ended = run(callbacks=[Tracker()])
    assert (ended.result.steps, Tracker.calls) == (8, 1)
    assert len([each for each in told if "Tracker" in str(each.message)]) == 1
    assert [json.loads(line)["step"] for line in ended.metrics().splitlines()] == [1, 2, 3, 4, 5, 6, 7, 8]


def resident() -> int:
    """Return the memory that this process holds, in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Below(LowerProblem):
    """A vector that is drawn to the other one, in noise."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        """Return the lower vector."""
        return {"below": self.module.below}

    def training_step(self, batch: Any) -> Any:
        """Return L1."""
        target = self.module.above.sigmoid() + torch.rand_like(self.module.below)
        return ((self.module.below - target) ** 2).mean()


class Above(UpperProblem):
    """The other vector, drawn to zero through it."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        """Return the upper vector."""
        return {"above": self.module.above}

    def training_step(self, batch: Any) -> Any:
        """Return L2."""
        return (self.module.below**2).mean()


def test_row_34_memory_stays_flat_over_5000_steps(faults: Any, tmp_path: Path) -> None:
    """The smallest bi-level problem, so that they are made in seconds; the first 500 fill the allocator's pools."""
    held: dict[int, tuple[int, int]] = {}

    def look(engine: Any) -> None:
        gc.collect()
        held[engine.step] = (resident(), len(gc.get_objects()))

    model: Any = nn.Module()
    model.below, model.above = (nn.Parameter(torch.ones(4)) for _ in range(2))
    lines = tmp_path / "metrics.jsonl"
    fit(
        model,
        [{"labels": index % 2} for index in range(160)],
        collate=lambda rows: {"labels": torch.tensor([row["labels"] for row in rows])},
        variant=Variant("pair", Below, Above, dict, lambda model, *_, **__: model),
        settings=FitSettings(steps=5000, unroll_steps=5, refresh=1, save_every=1000, save_total_limit=1, device="cpu"),
        callbacks=[MetricsFile(lines), faults.at(500, look), faults.at(5000, look)],
        folder=tmp_path / "run",
    )
    (early, objects), (late, more) = held[500], held[5000]
    assert late - early < 8 * 2**20
    assert more - objects < 2_000
    assert lines.stat().st_size < 5000 * 512
