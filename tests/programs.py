"""The programs of benchmarks/ in this process: their modules, what they print, and the rows that they write."""

import contextlib
import functools
import gzip
import importlib
import io
import json
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracked_files import ROOT

if TYPE_CHECKING:
    from forked import Script

KEYS = {
    *("task", "method", "formulation", "hypergradient", "seed", "metric", "score", "train_loss", "scored_on"),
    *("validation_loss", "steps", "seconds", "peak_memory_mb", "trainable_parameters", "config_sha256", "versions"),
}
EXTRA = {"metrics"}
"""What a row of results must have, and what it may have beside."""


@dataclass
class Ended:
    """How a program ended."""

    code: int
    out: str
    err: str

    def check_refused(self, said: str) -> None:
        """Hold that it ended for bad input, with one line in which a pattern is found."""
        assert self.code == 2
        (line,) = self.err.splitlines()
        assert re.match(r"run_\w+\.py: error: ", line)
        assert re.search(said, line), line


def imported(name: str) -> Any:
    """Return a module that finds those beside it, as when it is run as a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module(name)


@functools.cache
def program(name: str) -> Any:
    return imported(name).PROGRAM


def _run(name: str, *words: object) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = program(name).run([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code
    return Ended(code, out.getvalue(), err.getvalue())


run_glue, run_ner, run_nlg = (functools.partial(_run, name) for name in ("run_glue", "run_ner", "run_nlg"))


def results(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of results.jsonl, read as strict JSON, each with exactly the keys it must have."""
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    for row in rows:
        assert set(row) - EXTRA == KEYS
    return rows


def wait_for(path: Path, process: "subprocess.Popen[str] | Script") -> None:
    """Wait until a process has begun to write a file."""
    end = time.monotonic() + 300
    while not (path.exists() and path.stat().st_size > 0):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def write_study(folder: Path, protocol: str, *, rows: Path, model: Path) -> list[str]:
    """Write the protocol and the data of a study of labelled rows, and return the words that run it on a model."""
    (folder / "small.yaml").write_text(protocol, encoding="utf-8")
    data = folder / "text" / "reviews"
    data.mkdir(parents=True)
    lines = rows.read_text(encoding="utf-8").splitlines(keepends=True)
    # The rows of a class stand together.
    for part, some in (("train", lines[::3] + lines[1::3]), ("test", lines[2::3])):
        with gzip.open(data / f"{part}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(some)
    words = ["--protocol", str(folder / "small.yaml"), "--data-dir", str(folder), "--models", f"tiny={model}"]
    return [*words, "--output", str(folder / "small.jsonl")]
