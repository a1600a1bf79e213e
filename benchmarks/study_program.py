"""A study as a program: its jobs run one after another, in several processes and calls, and its report."""

import argparse
import multiprocessing
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from bf16_products import replace_where_missing
from study_jobs import jobs
from study_protocol import Job
from study_protocol import Protocol as StudyProtocol
from study_results import Results

from bilora.artifacts.fingerprint import versions
from bilora.errors import BiloraError, SettingsError, first_ten
from bilora.models.pretrained import quiet_transformers

HERE = Path(__file__).parent
# Seconds until jobs that wait for those of another process are looked at again.
PATIENCE = 5.0


class Trainings(Protocol):
    """What trains the jobs of a protocol on this machine."""

    def run(self, job: Job) -> dict[str, Any]:
        """Return the line of results of a training; ``failed`` says why it has no scores."""

    def labels(self, setting: str) -> dict[str, Any] | None:
        """Return the line with the labels of the test rows, or None where the other lines need none."""


def nothing(method: str) -> str | None:
    """Return None: no method needs anything."""
    return None


@dataclass(frozen=True)
class Program:
    """What differs from study to study; everything in it goes to other processes, and so is no lambda.

    Args:
        name: Of the file, in messages.
        protocol: The protocol of a call that names none.
        read: Reads a protocol.
        study: Makes what trains, of a protocol, the folder of all data, and the folders of models by name.
        methods: What the jobs of a protocol may be of.
        report: Prints what was found, and writes it into a document; takes the protocol, the file of results, the
            document and the command.
        data: The folder of data of a call that names none.
        lacks: Says what a method needs that is not there, or None; its jobs are left out then.
    """

    name: str
    protocol: Path
    read: Callable[[Path], StudyProtocol]
    study: Callable[[StudyProtocol, Path, Mapping[str, Path]], Trainings]
    methods: Collection[str]
    report: Callable[[StudyProtocol, Path, Path | None, str], None]
    data: Path | None = None
    lacks: Callable[[str], str | None] = nothing

    def main(self, argv: Sequence[str]) -> int:
        """Run what is left, with the helpers that were asked for."""
        options = self.parse(argv)
        try:
            protocol = self.read(options.protocol)
            protocol = protocol.for_development() if options.development else protocol
            refuse_unknown(options, protocol)
            path = options.output or HERE / "results" / f"{protocol.name}.jsonl"
            results = Results(path, protocol)
            # Read in any case: lines of another protocol are refused.
            lines = results.lines()
            if options.report:
                self.add_labels(options, results, lines)
        except BiloraError as error:
            print(f"{self.name}: error: {error}", file=sys.stderr)
            return 2
        if options.report:
            self.report(protocol, path, options.document, shlex.join(["python", f"benchmarks/{self.name}", *argv]))
            return 0
        print(f"protocol {options.protocol.name}, sha256 {protocol.sha256}; results: {path}", flush=True)
        # Spawned, not forked: a fork of a process with torch's threads may hang.
        context = multiprocessing.get_context("spawn")
        helpers = [context.Process(target=work, args=(self, options, protocol, path)) for _ in range(options.jobs - 1)]
        for helper in helpers:
            helper.start()
        try:
            work(self, options, protocol, path)
            for helper in helpers:
                helper.join()
        finally:
            for helper in helpers:
                helper.terminate()
        return max([abs(helper.exitcode or 0) for helper in helpers], default=0)

    def add_labels(self, options: argparse.Namespace, results: Results, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add the labels of test rows to a file that came without them, as that of a checkout does."""
        known = {line.get("labels_of") for line in lines}
        lacking = sorted({line["setting"] for line in lines if "answers" in line.get("test", {})} - known)
        if not lacking:
            return
        if options.data_dir is None:
            raise SettingsError(
                f"{results.path} lacks the labels of the test rows of {first_ten(lacking)}; give --data-dir DIR, from "
                "which they are read"
            )
        study = self.study(results.protocol, options.data_dir, dict(options.models))
        for labels in map(study.labels, lacking):
            if labels is not None:
                results.append(labels)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the words of the command line, read."""
        parser = argparse.ArgumentParser(prog=self.name, description="Run a study.", allow_abbrev=False)
        parser.add_argument("--protocol", type=Path, default=self.protocol)
        parser.add_argument("--data-dir", type=Path, default=self.data, help="folder with glue/ and text/")
        parser.add_argument(
            "--models", type=_model, nargs="*", default=[], help="NAME=DIR; settings without are left out"
        )
        parser.add_argument("--output", type=Path, help="file of results; results/<protocol>.jsonl")
        parser.add_argument("--report", action="store_true", help="train nothing; print the tables of what is there")
        parser.add_argument("--document", type=Path, help="Markdown file into which the report goes too")
        parser.add_argument(
            "--development", action="store_true", help="with the seeds for trials, in a file of their own"
        )
        parser.add_argument("--methods", nargs="+", choices=sorted(self.methods), help="the variants to run now")
        parser.add_argument("--settings", nargs="+", help="the settings to run now")
        parser.add_argument("--seeds", type=int, nargs="+", help="the seeds to run now")
        parser.add_argument("--jobs", type=int, default=1, help="processes at once, of one thread each")
        options = parser.parse_args(argv)
        if options.jobs < 1:
            parser.error("--jobs must be at least 1")
        if options.data_dir is None and not options.report:
            parser.error("--data-dir is needed to train")
        return options


def refuse_unknown(options: argparse.Namespace, protocol: StudyProtocol) -> None:
    """Refuse names of settings and models, and seeds, that the protocol has not: nothing would be trained."""
    models = {setting.model for setting in protocol.settings.values() if setting.model is not None}
    seeds = {seed for name in protocol.settings for seed in protocol.seeds_of(name)}
    for option, given, known in (
        ("settings", options.settings or (), set(protocol.settings)),
        ("models", dict(options.models), models),
        ("seeds", options.seeds or (), seeds),
    ):
        if unknown := [name for name in given if name not in known]:
            raise SettingsError(
                f"--{option}: {protocol.name} has no {first_ten(unknown)}; it has {first_ten(sorted(known))}"
            )


def work(program: Program, options: argparse.Namespace, protocol: StudyProtocol, path: Path) -> None:
    """Run jobs one after another, until none is left that this process can name."""
    quiet_transformers()
    torch.set_num_threads(1)
    # Said in the results: their CPU times are not those of a machine that has the instructions.
    about = {"commit": _commit(), "versions": versions(), "bf16": "in fp32" if replace_where_missing() else "own"}
    study = program.study(protocol, options.data_dir, dict(options.models))
    # Of a helper: where the call that started it has gone, it ends behind the training that it is at.
    parent = multiprocessing.parent_process()
    results = Results(path, protocol)
    lacking = {row.method: lack for row in protocol.methods.values() if (lack := program.lacks(row.method)) is not None}
    for method, lack in lacking.items() if parent is None else ():
        print(f"{method} is left out: {lack}", flush=True)
    while (job := next_job(results, options, left_out=lacking)) is not None:
        started = time.perf_counter()
        if not any(line.get("labels_of") == job.setting for line in results.lines()):
            labels = study.labels(job.setting)
            if labels is not None:
                results.append(labels)
        line = {**study.run(job), "seconds": round(time.perf_counter() - started, 1), **about}
        results.append(line)
        results.release(job)
        score = line["failed"] or " ".join(f"{key} {value:.4f}" for key, value in line["test"]["metrics"].items())
        print(f"{time.strftime('%H:%M:%S')} {job.name}: {score}, CPU {line['cpu']['fit']:.1f} s", flush=True)
        if parent is not None and not parent.is_alive():
            return


def next_job(results: Results, options: argparse.Namespace, *, left_out: Collection[str] = ()) -> Job | None:
    """Return the first job that nobody has done or holds, held by this process now; None where all are done."""
    while True:
        done, before = results.by_job(), results.protocol.follows
        # Those of the study before are for a call of its protocol.
        others = set() if before is None else {job.name for job in jobs(before, done)}
        named = [job for job in jobs(results.protocol, done) if job.method not in left_out and job.name not in others]
        left = [job for job in named if job.name not in done and _wanted(job, options, results)]
        for job in left:
            # Again: it may have been finished between the reading and the claim.
            if results.claim(job):
                if job.name not in results.by_job():
                    return job
                results.release(job)
        if not left:
            return None
        time.sleep(PATIENCE)


def _wanted(job: Job, options: argparse.Namespace, results: Results) -> bool:
    setting = results.protocol.settings[job.setting]
    return (
        (options.methods is None or job.method in options.methods)
        and (options.settings is None or job.setting in options.settings)
        and (options.seeds is None or job.seed in options.seeds)
        and (setting.model is None or setting.model in dict(options.models))
    )


def _commit() -> str:
    words = ["git", "-C", str(HERE), "rev-parse", "HEAD"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def _model(word: str) -> tuple[str, Path]:
    name, _, folder = word.partition("=")
    if not Path(folder).is_dir() or not folder:
        raise argparse.ArgumentTypeError(f"{word!r} is no NAME=DIR of a folder that is there")
    return name, Path(folder)
