"""Count how often ``bilora train`` goes from one file to another before its first step, and how often it does a thing.

A move is two calls of this library's own functions, one after the other, that stand in different files::

    python tests/bilora/runs/moves.py --model MODEL --train-file rows.csv --output out

prints the moves of that ``bilora train``, by the file that was entered, and how often each of WATCHED was called.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import bilora
import bilora.engines
import bilora.problems

ROOMS = tuple(f"{Path(package.__path__[0])}/" for package in (bilora, bilora.engines, bilora.problems))

FIRST_STEP = ("bilevel.py", "run")

WATCHED = {
    ("records.py", "read_records"): "a file read",
    ("split.py", "split_rows"): "a split drawn",
    ("loaders.py", "make_loader"): "a loader built",
    ("settings.py", "FitSettings.__post_init__"): "settings of a fit built",
    ("config.py", "RunConfig.__post_init__"): "a config of a run built",
    ("catalog.py", "_built"): "a hypergradient built",
    ("stages.py", "run_stages"): "the stages worked out",
    ("sections.py", "_parser"): "a parser of settings built",
    ("command_line.py", "OneLineParser.__init__"): "a parser of words built",
}
"""What a run should do once, by file and qualified name."""


class Reached(BaseException):
    """The first step begins."""


class Moves:
    """What is counted while it is installed as the profile of the interpreter."""

    def __init__(self) -> None:
        self.calls, self.moves = 0, 0
        self.entered: Counter[str] = Counter()
        self.watched: Counter[str] = Counter()
        self.walk: list[tuple[str, str]] = []
        self._file = ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Count a call of a function of ours; comprehensions are no functions to a reader."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(ROOMS) or code.co_name.startswith("<"):
            return
        self.calls += 1
        file = code.co_filename
        name = Path(file).name
        if what := WATCHED.get((name, code.co_qualname)):
            self.watched[what] += 1
        if (name, code.co_name) == FIRST_STEP:
            sys.setprofile(None)
            raise Reached
        if self._file and file != self._file:
            self.moves += 1
            self.entered[f"{Path(file).parent.name}/{name}"] += 1
        self._file = file


def moves_of(work: Callable[[], object]) -> Moves:
    """Return what was counted until the first step of what ``work`` trains."""
    moves = Moves()
    sys.setprofile(moves)
    try:
        work()
    except Reached:
        pass
    finally:
        sys.setprofile(None)
    return moves


if __name__ == "__main__":
    from bilora.commands.train import TRAIN

    counted = moves_of(lambda: TRAIN.work(TRAIN.parse(sys.argv[1:])))
    print(f"{counted.calls} calls, {counted.moves} moves")
    for where, count in counted.entered.most_common(40):
        print(f"{count:6} {where}")
    for what, count in counted.watched.items():
        print(f"{count:6} {what}")
