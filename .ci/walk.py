"""Print the walk of one row of a csv and of one layer's singular values E through the rooms, in a real `bilora train`.

A row is followed by a word that no other row has: as text, as a token id, in a batch. Singular values are followed by a
rank that no other dimension of the model has: E, s = f(E), its gradients and products.
"""

import contextlib
import csv
import io
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import bilora
import bilora.engines
import bilora.problems
from bilora.commands.train import TRAIN

ROOMS = {
    f"{Path(package.__path__[0]).resolve()}/": package.__name__ for package in (bilora, bilora.problems, bilora.engines)
}
WORD, TOKEN = "zebra", 29145
"""A word that is one token of the embedded model."""

RANK = 7
DEEP = 4


def holds_row(value: Any, depth: int = DEEP) -> bool:
    """Return whether the word, or its token, is somewhere in a value."""
    if isinstance(value, str):
        return WORD in value
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() and value.device.type != "meta" and bool((value == TOKEN).any())
    if isinstance(value, int):
        return value == TOKEN
    return _inside(value, depth, holds_row)


def holds_values(value: Any, depth: int = DEEP) -> bool:
    """Return whether a vector as long as the rank is somewhere in a value."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and value.numel() == RANK
    return _inside(value, depth, holds_values)


def _inside(value: Any, depth: int, holds: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return depth > 0 and isinstance(value, list | tuple) and any(holds(item, depth - 1) for item in value)


class Walks:
    """The functions that were given, or gave back, the row or the singular values, in the order of their first time."""

    def __init__(self) -> None:
        self.follows = {"one row of a csv": holds_row, "one layer's singular values E": holds_values}
        self.walks: dict[str, dict[tuple[str, str], None]] = {name: {} for name in self.follows}

    def __call__(self, frame: FrameType, event: str, result: Any) -> None:
        """Note a function of ours where what is followed comes in or goes out."""
        code = frame.f_code
        room = self._room(code.co_filename)
        if event not in ("call", "return") or room is None or "<" in code.co_name:
            return
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        values = [result] if event == "return" else [frame.f_locals.get(name) for name in names if name != "self"]
        place = room, f"{Path(code.co_filename).stem}.{code.co_qualname.partition('.<locals>')[0]}"
        for name, holds in self.follows.items():
            if place not in self.walks[name] and any(holds(value) for value in values):
                self.walks[name][place] = None

    def _room(self, file: str) -> str | None:
        for root, package in ROOMS.items():
            if file.startswith(root):
                parts = [package.replace(".", "/").removeprefix("bilora/"), *Path(file.removeprefix(root)).parts[:-1]]
                return "/".join(parts)
        return None

    def lines(self, name: str) -> list[str]:
        """Return one walk, a line per stay in a room."""
        lines, before = list[str](), ""
        for room, function in self.walks[name]:
            if room == before:
                lines[-1] += f", {function}"
            else:
                lines.append(f"  {room:24} {function}")
            before = room
        return lines


def main() -> None:
    """Train for six steps on 48 rows, follow both, and print."""
    walks = Walks()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv"
        with file.open("w", encoding="utf-8", newline="") as stream:
            words = ["a fine film", "a dull film"]
            rows = [[f"{words[row % 2]} of {row} minutes", "good" if row % 2 == 0 else "bad"] for row in range(48)]
            rows[5][0] += f" with a {WORD}"
            csv.writer(stream).writerows([["text", "label"], *rows])
        argv = ["--train-file", str(file), "--output", str(Path(folder) / "run"), "--device", "cpu", "--steps", "6"]
        argv += ["--unroll-steps", "2", "--lower.batch-size", "8", "--upper.batch-size", "4"]
        argv += ["--method", "bilora", f"--method-settings.bilora.rank={RANK}"]
        printed = io.StringIO()
        sys.setprofile(walks)
        try:
            with contextlib.redirect_stdout(printed):
                code = TRAIN.run(argv)
        finally:
            sys.setprofile(None)
    if code != 0:
        sys.exit(f"bilora train ended with {code}")
    for name in walks.follows:
        print(f"{name}:", *walks.lines(name), "", sep="\n")


if __name__ == "__main__":
    main()
