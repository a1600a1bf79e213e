"""Break one line at a time and see whether the tests notice: 40 seeded mutants over all rooms.

    python .ci/mutants.py                     a mutant per line of output: killed, survived, or timed out (killed)
    python .ci/mutants.py --list              the mutants, and nothing is run
    python .ci/mutants.py --only 3 17         some of them
    python .ci/mutants.py --jobs 2            two at once, each on a copy of the checkout

Each mutant is one changed expression. The tests of its own room run first, then those of whole runs, then all the
others; the first failure kills it. A mutant that changes nothing that can be seen is listed in EQUIVALENT with its
reason, and the next one that the seed draws in its room takes its place. It takes about an hour on two cores, so
``.ci/run`` leaves it out.
"""

import argparse
import ast
import concurrent.futures
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COUNT = 40
SEED = 20261128
LIMIT = 1500
"""Seconds for one run of pytest; an endless loop counts as noticed."""

EQUIVALENT: dict[str, str] = {
    "bilora/files/formats.py: 2 -> (3)": "the indentation of JSON, which every reader passes over",
    "engines/callbacks/progress.py: 2 -> (3)": "which of the engine's own lines a warning names",
}
"""``file: before -> after``: why nobody can tell the two apart."""

PAIRS: tuple[tuple[type[ast.AST], type[ast.AST]], ...] = (
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn)),
    *((ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.And, ast.Or)),
)
SWAPS = dict(PAIRS) | {after: before for before, after in PAIRS}


@dataclass(frozen=True)
class Mutant:
    """One expression of one file, and what stands in its place."""

    path: str
    line: int
    start: int
    end: int
    before: str
    after: str

    @property
    def name(self) -> str:
        """What EQUIVALENT calls it; it outlives lines that come and go above."""
        return f"{self.path}: {' '.join(self.before.split())} -> {' '.join(self.after.split())}"

    @property
    def room(self) -> str:
        """The folder of the file."""
        return str(Path(self.path).parent)


def mutants_of(path: str) -> Iterator[Mutant]:
    """Yield every mutant of a file, in the order of its lines."""
    source = (ROOT / path).read_text(encoding="utf-8")
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    tree = ast.parse(source)
    skipped = {id(part) for node in ast.walk(tree) for part in _unseen(node)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for part in ast.walk(node)}
    for node in ast.walk(tree):
        changed = None if id(node) in skipped or id(node) not in inside else _changed(node)
        if changed is None:
            continue
        assert isinstance(node, ast.expr)
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before = source.encode()[start:end].decode()
        yield Mutant(path, node.lineno, start, end, before, f"({ast.unparse(changed)})")


def _unseen(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is no code that runs: annotations, and the texts of f-strings and errors."""
    for field in ("annotation", "returns"):
        part = getattr(node, field, None)
        if isinstance(part, ast.AST):
            yield from ast.walk(part)
    if isinstance(node, ast.JoinedStr | ast.Raise):
        yield from ast.walk(node)


def _changed(node: ast.AST) -> ast.expr | None:
    """Return the expression changed in one place, or None where nothing is changed."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPS:
        other = copy.deepcopy(node)
        other.ops = [SWAPS[type(node.ops[0])]()]  # type: ignore[list-item]
        return other
    if isinstance(node, ast.BinOp) and any(isinstance(part, ast.JoinedStr | ast.Constant) for part in _texts(node)):
        return None  # a path is put together, or a text: any test that comes there notices
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
        other_op = copy.deepcopy(node)
        other_op.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
        return other_op
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        return copy.deepcopy(node.operand)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int):
        return ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
    if isinstance(node, ast.IfExp):
        return ast.IfExp(node.test, node.orelse, node.body)
    return None


def _texts(node: ast.BinOp) -> list[ast.expr]:
    sides = (node.left, node.right)
    return [side for side in sides if not isinstance(side, ast.Constant) or isinstance(side.value, str)]


def drawn() -> list[Mutant]:
    """Return the mutants of the seed: one per room, and the rest in proportion to the rooms' mutants."""
    words = ["git", "ls-files", "bilora/*.py", "problems/*.py", "engines/*.py"]
    paths = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    rooms: dict[str, list[Mutant]] = {}
    for path in paths:
        for mutant in mutants_of(path):
            rooms.setdefault(mutant.room, []).append(mutant)
    for room, mutants in rooms.items():
        random.Random(f"{SEED} {room}").shuffle(mutants)
        rooms[room] = [mutant for mutant in mutants if mutant.name not in EQUIVALENT]
    counts = dict.fromkeys(rooms, 1)
    total = sum(map(len, rooms.values()))
    while sum(counts.values()) < COUNT:
        room = max(rooms, key=lambda name: len(rooms[name]) / total * COUNT - counts[name])
        counts[room] += 1
    return [mutant for room, mutants in sorted(rooms.items()) for mutant in mutants[: counts[room]]]


def tests_of(room: str) -> list[str]:
    """Return the folder of tests that mirrors a room, or the nearest one above that has tests."""
    folder = Path("tests", room)
    while not any((ROOT / folder).glob("test_*.py")):
        folder = folder.parent
    return [str(folder)]


def fate(mutant: Mutant, *, quick: bool) -> tuple[str, str]:
    """Return what became of a mutant, and the test that noticed it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkout"
        skipped = shutil.ignore_patterns(".venv", ".git", "build", "dist", "*_cache", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT, folder, ignore=skipped)
        # Tests that ask git what there is see the copy as a checkout.
        for words in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
        links = folder / "build" / "types" / "bilora"
        links.mkdir(parents=True)
        for path in [*(folder / "bilora").iterdir(), folder / "problems", folder / "engines"]:
            (links / path.name).symlink_to(path)
        target = folder / mutant.path
        source = target.read_bytes()
        target.write_bytes(source[: mutant.start] + mutant.after.encode() + source[mutant.end :])
        first = tests_of(mutant.room)
        # Whole runs go through all rooms, and notice most of what a room's own tests have not.
        runs = [path for path in ("tests/bilora/runs", "tests/engines/training", "tests/faults") if path not in first]
        others = ["tests", *(f"--ignore={path}" for path in (*first, *runs))]
        for selected in [first] if quick else [first, runs, others]:
            noticed = _pytest(folder, links.parent, selected)
            if noticed is not None:
                return "killed", noticed
    return "survived", ""


def _pytest(folder: Path, packages: Path, selected: list[str]) -> str | None:
    """Return the first test that fails, or None where all pass."""
    environment = {**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{folder}", "HF_HUB_OFFLINE": "1"}
    environment["OMP_NUM_THREADS"] = "1"
    # Not `python -m pytest`, which looks in the current folder first: there `bilora` has no engines and no problems,
    # and those of the installed checkout would be tested instead of the copy's.
    words = [
        str(Path(sys.executable).with_name("pytest")),
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow",
        *selected,
    ]
    try:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return "timed out"
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0] if failed else f"pytest ended with {done.returncode}"


def main() -> None:
    """Draw the mutants, run the tests on each, and print their fates and the count."""
    parser = argparse.ArgumentParser(description="Seeded mutants of the sources, against the tests.")
    parser.add_argument("--list", action="store_true", help="show the mutants and run nothing")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the mutants to run")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at once")
    parser.add_argument("--quick", action="store_true", help="the tests of the mutant's own room only")
    parser.add_argument("--output", type=Path, help="JSON lines; a mutant that stands there is not run again")
    words = parser.parse_args()
    mutants = {number: mutant for number, mutant in enumerate(drawn()) if not words.only or number in words.only}
    if words.list:
        for number, mutant in mutants.items():
            print(f"{number:3} {mutant.path}:{mutant.line}: {mutant.name.partition(': ')[2]}")
        return
    done: dict[str, str] = {}
    if words.output and words.output.exists():
        lines = words.output.read_text(encoding="utf-8").splitlines()
        done = {record["mutant"]: record["fate"] for record in map(json.loads, lines)}
    with concurrent.futures.ThreadPoolExecutor(words.jobs) as pool:
        began = {
            pool.submit(fate, mutant, quick=words.quick): (number, mutant, time.monotonic())
            for number, mutant in mutants.items()
            if mutant.name not in done
        }
        for future in concurrent.futures.as_completed(began):
            number, mutant, _ = began[future]
            ended, noticed = future.result()
            done[mutant.name] = ended
            print(f"{number:3} {ended:9} {mutant.name}  {noticed}", flush=True)
            if words.output:
                record = {"number": number, "mutant": mutant.name, "line": mutant.line, "fate": ended, "by": noticed}
                with words.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
    killed = sum(done[mutant.name] == "killed" for mutant in mutants.values())
    print(f"{killed} of {len(mutants)} mutants were noticed (seed {SEED})")


if __name__ == "__main__":
    main()
