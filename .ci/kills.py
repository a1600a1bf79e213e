"""Kill the command 200 times at random moments, start it again, and hold what it leaves against an undisturbed run.

    python .ci/kills.py                                a table: command, kills, finished, equal; some ten minutes
    python .ci/kills.py --kills 1000 --seed 1 --jobs 2
    python .ci/kills.py --only merge report --keep     those commands alone; the folders of what failed stay

A kill is SIGKILL mostly, else SIGTERM or SIGINT. Most moments are right before or after a file is opened for writing,
flushed, renamed or removed, and the others anywhere in the time of the run. The second start is the same command, or
the ``--resume`` that it asks for. Afterwards every file must be that of the undisturbed run apart from times, and
nothing may be left over. ``.ci/run`` leaves it out; tests/faults has a test of what it has found.
"""

import argparse
import concurrent.futures
import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before the libraries that read them: threads do not outlive a fork, and every process is a fork of this one.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}

import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

import bilora_command
from bilora.engines.checkpoints.files import checkpoints, fault
from bilora.files.formats import load_json, read_yaml
from bilora.models.embedded import embedded_model_folder, embedded_reviews
from bilora.tasks import take_rows

LIMIT = 120.0
"""Seconds after which a start hangs."""

WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
"""Events of the interpreter at which a file changes."""

TIMES = re.compile(r"seconds|reach|peak_memory|command|sha256|size|parts")
"""Keys of what no two runs have in common, and of hashes over it."""

TABLES = ("comparison.md", "summary.csv", "results.csv", "times.jsonl", "manifest.json")
"""Files of such numbers, of which being there is enough."""


@dataclass(frozen=True)
class Command:
    """A command line, what its folder holds before it starts, and what share of the kills it gets."""

    words: tuple[str, ...]
    share: int
    given: str | None = None


TRAINING = ("--model", "../model", "--train-file", "../rows.jsonl", "--max-length", "16", "--device", "cpu")
TRAIN = (
    *("train", *TRAINING, "--output", "run", "--steps", "12", "--unroll-steps", "2", "--validate-every", "4"),
    *("--lower.batch-size", "8", "--upper.batch-size", "4", "--method", "bilora"),
    *("--method-settings.bilora.dropout", "0.1"),
)
COMPARE = (
    *("compare", *TRAINING, "--output", "compared", "--methods", "bilora", "lora", "--baseline", "lora"),
    *("--seeds", "1", "--learning-rates", "0.01", "--text-columns", "text", "--steps", "6", "--unroll-steps", "2"),
    *("--save-every", "3", "--lower.batch-size", "8", "--upper.batch-size", "4"),
)
COMMANDS = {
    "train": Command((*TRAIN, "--save-every", "4"), 5),
    "train, nothing saved": Command((*TRAIN, "--save-every", "0"), 3),
    "train --resume auto": Command((*TRAIN, "--save-every", "4", "--resume", "auto"), 3),
    "train --resume": Command(("train", "--resume", "run"), 5, given="stopped"),
    "export": Command(("export", "run", "--output", "exported", "--rank", "2"), 3, given="trained"),
    "merge": Command(("merge", "run", "--output", "merged"), 3, given="trained"),
    "report": Command(("report", "run"), 3, given="trained"),
    "compare": Command(COMPARE, 4),
}


@dataclass(frozen=True)
class Moment:
    """When a process gets a signal: at a write, counted from 0, or after some seconds."""

    number: signal.Signals
    write: int | None = None
    after: bool = False
    seconds: float = 0.0

    def __str__(self) -> str:
        at = f"{self.seconds:.2f} s" if self.write is None else f"{'after' if self.after else 'before'} {self.write}"
        return f"{self.number.name} {at}"


class Child:
    """A command in a fork of this process, which has imported everything."""

    def __init__(self, folder: Path, words: tuple[str, ...], moment: Moment | None = None) -> None:
        self.folder, self.began = folder, time.monotonic()
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reader)
            _work(folder, words, moment, writer)
        os.close(writer)
        self.code: int | None = None

    def poll(self) -> bool:
        """Return whether the process has ended."""
        if self.code is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.code = os.waitstatus_to_exitcode(ended[1])
        return self.code is not None

    def killed(self, moment: Moment) -> bool:
        """Send the signal at its moment, and return whether the process was still there to get it."""
        if moment.write is None:
            _wait(lambda: self.poll() or time.monotonic() - self.began > moment.seconds)
        else:
            # The child writes a byte there, and sends the signal itself where it is to come before the write.
            there = os.read(self._reader, 1)
            if not moment.after:
                return bool(there)
        if self.poll():
            return False
        os.kill(self.pid, moment.number)
        return True

    def end(self) -> int | None:
        """Wait for the end, and return the exit code, or None where it hangs."""
        if not _wait(self.poll, LIMIT):
            os.kill(self.pid, signal.SIGKILL)
            _wait(self.poll)
            self.code = None
        os.close(self._reader)
        self.seconds = time.monotonic() - self.began
        return self.code

    @property
    def said(self) -> str:
        """What it printed, errors last."""
        return "".join((self.folder.with_suffix(name)).read_text(encoding="utf-8") for name in (".out", ".err"))


def _wait(done: Callable[[], bool], seconds: float = LIMIT) -> bool:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def _work(folder: Path, words: tuple[str, ...], moment: Moment | None, writer: int) -> None:
    """Do the work of a child, and end the process."""
    code = 1
    try:
        for number, name in ((1, ".out"), (2, ".err")):
            os.dup2(os.open(folder.with_suffix(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(folder)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs do not have it
        sys.argv = ["bilora", *words]
        _count_writes(folder, moment, writer)
        code = bilora_command.main(words)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _count_writes(folder: Path, moment: Moment | None, writer: int) -> None:
    """Count what is written below the folder; at the moment's write tell the parent, or send the signal."""
    count, inside, sync = 0, f"{folder}{os.sep}", os.fsync

    def write() -> None:
        nonlocal count
        if moment is None:
            os.write(writer, b".")
        elif count == moment.write:
            os.write(writer, b".")
            if not moment.after:
                os.kill(os.getpid(), moment.number)
        count += 1

    def watch(event: str, words: tuple[Any, ...]) -> None:
        if event not in WRITES or (event == "open" and not words[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        path = words[0]
        if isinstance(path, str | bytes | os.PathLike) and os.path.abspath(os.fsdecode(path)).startswith(inside):
            write()

    def counted_sync(file: int) -> None:
        write()
        sync(file)

    os.fsync = counted_sync  # it is no event
    sys.addaudithook(watch)


def contents(folder: Path) -> dict[str, Any]:
    """Return what every file says apart from times, and every empty folder, by path."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            if not any(path.iterdir()):
                found[name] = "an empty folder"
        elif path.name == "config.yaml":
            # It says of this call where it writes, and from where it goes on.
            found[name] = {key: value for key, value in read_yaml(path).items() if key not in ("output", "resume")}
        elif path.name in TABLES:
            found[name] = "there"
        elif path.suffix == ".safetensors":
            found[name] = {key: value.numpy().tobytes() for key, value in load_file(path).items()}
        elif path.suffix == ".json":
            found[name] = _timeless(load_json(path))
        elif path.name in ("values.jsonl", "results.jsonl", "summary.jsonl"):
            lines = [_timeless(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
            # What is written again after a resume stands behind what was there: the last one counts.
            found[name] = lines if "step" not in lines[0] else {(row["stage"], row["step"]): row for row in lines}
        else:
            found[name] = path.read_bytes()
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if not TIMES.search(key)}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def unreadable(folder: Path) -> Iterator[str]:
    """Yield the files that are no whole file of their kind, and the checkpoints with a fault."""
    for run in {path.parent for path in folder.rglob("checkpoint-*")}:
        yield from (f"{path.name}: {reason}" for _, path in checkpoints(run) if (reason := fault(path)))
    readers = {".json": load_json, ".yaml": read_yaml, ".safetensors": load_file}
    for path in sorted(folder.rglob("*")):
        if ".tmp" in str(path) or path.is_dir():
            continue
        try:
            if path.suffix in readers:
                readers[path.suffix](path)
            elif path.suffix == ".html" and not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
                yield f"{path.name}: cut off"
        except Exception as error:
            yield f"{path.name}: {error}"


@dataclass(frozen=True)
class Undisturbed:
    """What a command leaves where nobody disturbs it, how often it writes, and how long it takes."""

    contents: dict[str, Any]
    writes: int
    seconds: float


@dataclass(frozen=True)
class Fate:
    """What came of one kill."""

    command: str
    moment: Moment
    finished: bool
    faults: tuple[str, ...]
    folder: str


def draw(random_: random.Random, undisturbed: Undisturbed) -> Moment:
    """Return a moment: two thirds at a write, half of these among the last third of them."""
    number = random_.choices([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], weights=[7, 2, 1])[0]
    if random_.random() < 1 / 3:
        return Moment(number, seconds=random_.uniform(0, undisturbed.seconds))
    first = random_.choice([0, 2 * undisturbed.writes // 3])
    return Moment(number, write=random_.randrange(first, undisturbed.writes), after=random_.random() < 0.5)


def kill(name: str, undisturbed: Undisturbed, root: Path, index: int, seed: int) -> Fate:
    """Kill a command at the moment that the seed draws, start it again, and look."""
    random_, command = random.Random(f"{seed} {index}"), COMMANDS[name]
    folder = root / f"kill-{index}"
    while True:
        _prepare(folder, command, root)
        moment = draw(random_, undisturbed)
        child = Child(folder, command.words, moment)
        if child.killed(moment):
            break
        child.end()  # it was faster than the undisturbed one: nothing was killed
    code = child.end()
    faults = [f"unreadable: {reason}" for reason in unreadable(folder)]
    if code not in (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT):
        faults.append(f"ended with {code}: {_last_line(child.said)}")
    # A signal behind the last write leaves nothing to do.
    with contextlib.suppress(ValueError, IndexError):  # half a line, or an empty file: it is not done
        if not faults and not [*_differences(undisturbed.contents, contents(folder))]:
            code = 0
    if code != 0:
        child, code = _again(folder, command)
        if code != 0:
            faults.append(f"the second start ended with {code}: {_last_line(child.said)}")
    if code == 0:
        faults += _differences(undisturbed.contents, contents(folder))
    if not faults:
        shutil.rmtree(folder)
    return Fate(name, moment, code == 0, tuple(faults), str(folder))


def _prepare(folder: Path, command: Command, root: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if command.given is None:
        folder.mkdir()
    else:
        shutil.copytree(root / command.given, folder)


def _again(folder: Path, command: Command) -> tuple[Child, int | None]:
    """Start the command again, with the words that it asks for where it says that it was begun."""
    child = Child(folder, command.words)
    code = child.end()
    if code == 2 and "go on in it with --resume run" in child.said:
        child = Child(folder, ("train", "--resume", "run"))
        code = child.end()
    return child, code


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "")


def _differences(whole: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for name in sorted(whole.keys() | now.keys()):
        if name not in now:
            yield f"missing: {name}"
        # A signal leaves a checkpoint of its own.
        elif name not in whole and "/checkpoint-" not in name:
            yield f"left over: {name}"
        elif name in whole and now[name] != whole[name]:
            yield f"differs: {name}"


def make_inputs(root: Path) -> None:
    """Write a random model of one layer and 60 rows, train on them once, and once up to the middle."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=30522, max_position_embeddings=64, initializer_range=0.5, **sizes)
    BertModel(config).save_pretrained(root / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(embedded_model_folder() / name, root / "model")
    rows = take_rows(embedded_reviews(), 60, seed=0)
    lines = [json.dumps({"text": row["text"], "label": ["bad", "good"][row["label"]]}) for row in rows]
    (root / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def warm_up(root: Path) -> None:
    """Run every command once in this process, so that all that they import late is there before the forks."""
    folder = root / "trained"
    folder.mkdir()
    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        codes = [
            bilora_command.main(COMMANDS[name].words) for name in ("train", "export", "merge", "report", "compare")
        ]
    if any(codes):
        sys.exit(said.getvalue())
    for name in ("exported", "merged", "compared", "run/report.html", "run/report-figures"):
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def undisturbed(name: str, root: Path) -> Undisturbed:
    """Return what a command leaves in a fork where nobody disturbs it."""
    folder = root / "undisturbed"
    _prepare(folder, COMMANDS[name], root)
    child, writes = Child(folder, COMMANDS[name].words), 0
    while some := os.read(child._reader, 4096):
        writes += len(some)
    if (code := child.end()) != 0:
        sys.exit(f"{name} ends with {code} undisturbed: {child.said}")
    return Undisturbed(contents(folder), writes, child.seconds)


def stop_half_way(root: Path) -> None:
    """Leave in ``stopped`` a run that was killed between two checkpoints."""
    folder = root / "stopped"
    folder.mkdir()
    child = Child(folder, COMMANDS["train"].words)
    _wait(lambda: (folder / "run" / "checkpoint-8").exists() or child.poll())
    os.kill(child.pid, signal.SIGKILL)
    child.end()


def main() -> int:
    """Kill, print the table and every fault, and return 1 where there is one."""
    parser = argparse.ArgumentParser(description="Kills at random moments, and what a second start makes of them.")
    parser.add_argument("--kills", type=int, default=200, help="how many, over all commands")
    parser.add_argument("--seed", type=int, default=20261129, help="decides the moments")
    parser.add_argument("--jobs", type=int, default=1, help="commands at once")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="these commands alone")
    parser.add_argument("--keep", action="store_true", help="leave the folders of what failed")
    words = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="bilora-kills-")).resolve()
    make_inputs(root)
    warm_up(root)
    stop_half_way(root)
    wholes = {name: undisturbed(name, root) for name in words.only}
    turns = [name for name in words.only for _ in range(COMMANDS[name].share)]
    names = [turns[index * len(turns) // words.kills] for index in range(words.kills)]
    began, fates = time.monotonic(), list[Fate]()
    with concurrent.futures.ProcessPoolExecutor(words.jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        waiting = [pool.submit(kill, name, wholes[name], root, i, words.seed) for i, name in enumerate(names)]
        for future in concurrent.futures.as_completed(waiting):
            fates.append(fate := future.result())
            for told in fate.faults:
                print(f"{fate.command}, {fate.moment} ({Path(fate.folder).name}): {told}", flush=True)
    print(f"{'command':22} {'kills':>5} {'in writing':>10} {'finished':>8} {'equal':>5}  {'writes':>6} {'seconds':>7}")
    for name in words.only:
        own = [fate for fate in fates if fate.command == name]
        writing, finished = sum(fate.moment.write is not None for fate in own), sum(fate.finished for fate in own)
        equal = sum(not fate.faults for fate in own)
        whole = wholes[name]
        print(f"{name:22} {len(own):5} {writing:10} {finished:8} {equal:5}  {whole.writes:6} {whole.seconds:7.2f}")
    numbers = Counter(fate.moment.number.name for fate in fates)
    bad = sum(bool(fate.faults) for fate in fates)
    print(f"{len(fates)} kills ({dict(numbers)}), {bad} with a fault, in {time.monotonic() - began:.0f} s")
    print(f"seed {words.seed}" + (f"; what failed: {root}" if words.keep else ""))
    if not words.keep:
        shutil.rmtree(root)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
