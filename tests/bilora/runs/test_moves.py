"""How far the code of ``bilora train`` goes before its first step: moves between files, and what is done how often.

A move is two calls of this library's own functions, one after the other, that stand in different files::

    python tests/bilora/runs/test_moves.py --model MODEL --train-file rows.csv --output out

prints the moves of that ``bilora train``, by the file that was entered, and how often each of WATCHED was called.
"""

import csv
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import bilora
import bilora.engines
import bilora.problems
from bilora.commands.train import TRAIN
from bilora.settings import sections

ROOMS = tuple(f"{Path(package.__path__[0])}/" for package in (bilora, bilora.engines, bilora.problems))

FIRST_STEP = ("bilevel.py", "run")

FIXED, PER_ROW = 480, 3
"""The most moves that do not depend on the rows, and those per row."""

WATCHED = {
    ("records.py", "read_records"): ("a file read", 1),
    ("split.py", "split_rows"): ("a split drawn", 1),
    ("loaders.py", "make_loader"): ("a loader built", 2),  # one per level
    # The command's config is that of a run, which is settings of a fit; the plan has the two below it once each.
    ("settings.py", "FitSettings.__post_init__"): ("settings of a fit built", 3),
    ("config.py", "RunConfig.__post_init__"): ("a config of a run built", 2),
    ("catalog.py", "build_hypergradient"): ("a hypergradient built", 2),  # the engine is handed the one that is built
    ("stages.py", "run_stages"): ("the stages worked out", 1),
    ("sections.py", "_parser"): ("a parser of settings built", 3),  # of the method, its hypergradient and the ending
    ("command_line.py", "parse_config"): ("a parser of words built", 1),
}
"""What a run should do once or twice, and how often at most, by file and qualified name."""


class Reached(BaseException):
    """The first step begins."""


class Moves:
    """What is counted until the first step of a ``bilora train``, as the profile of the interpreter."""

    def __init__(self, words: Sequence[str]) -> None:
        self.calls, self.entered, self.watched = 0, Counter[str](), Counter[tuple[str, int]]()
        self._file = ""
        sys.setprofile(self)
        try:
            TRAIN.work(TRAIN.parse(words))
        except Reached:
            pass
        finally:
            sys.setprofile(None)

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Count a call of a function of ours; comprehensions are no functions to a reader."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(ROOMS) or code.co_name.startswith("<"):
            return
        self.calls += 1
        file = Path(code.co_filename)
        if watched := WATCHED.get((file.name, code.co_qualname)):
            self.watched[watched] += 1
        if (file.name, code.co_name) == FIRST_STEP:
            sys.setprofile(None)
            raise Reached
        if self._file and code.co_filename != self._file:
            self.entered[f"{file.parent.name}/{file.name}"] += 1
        self._file = code.co_filename


def counted(rows: int, folder: Path, model: Path) -> Moves:
    """Return what is counted of a run on a csv of that many rows."""
    path = folder / f"{rows}.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        lines = [(f"film {row} is {('dull', 'fine')[row % 2]}", ("bad", "good")[row % 2]) for row in range(rows)]
        csv.writer(stream).writerows([("text", "label"), *lines])
    sections._parser.cache_clear()  # what earlier tests have built would not be built here
    words = ["--model", str(model), "--train-file", str(path), "--output", str(folder / f"run-{rows}")]
    return Moves([*words, "--method", "bilora", "--max-length", "32", "--device", "cpu"])


def test_the_way_to_the_first_step_is_short(tmp_path: Path, tiny_encoder: Path) -> None:
    few, many = counted(200, tmp_path, tiny_encoder), counted(400, tmp_path, tiny_encoder)
    assert set(few.watched) == set(WATCHED.values()), "each is still called so"
    per_row = (many.entered.total() - few.entered.total()) / 200
    assert per_row <= PER_ROW
    assert few.entered.total() - 200 * per_row <= FIXED
    assert {name: count for (name, most), count in few.watched.items() if count > most} == {}


if __name__ == "__main__":
    moves = Moves(sys.argv[1:])
    print(f"{moves.calls} calls, {moves.entered.total()} moves")
    for name, count in moves.entered.most_common(40):
        print(f"{count:6} {name}")
    for (name, _), count in moves.watched.items():
        print(f"{count:6} {name}")
