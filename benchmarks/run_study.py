"""Run the study of a protocol, or what of it is not done yet, and write what came of it.

Every training is a line of the results, so that the study may be stopped at any moment, goes on where it was, and may
run in several processes, also of several calls. Examples::

    python benchmarks/run_study.py --data-dir DIR --jobs 2 --methods lora lora_d1 lora_early_stopping
    python benchmarks/run_study.py --data-dir DIR --development
    python benchmarks/run_study.py --report --document docs/results.md
    python benchmarks/run_study.py --protocol benchmarks/configs/study_ablations.yaml --data-dir DIR
"""

import argparse
import multiprocessing
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from study_jobs import jobs
from study_protocol import Job, Protocol, read_protocol
from study_report import Findings, section, write_curve
from study_results import Results
from study_runs import Study

from bilora.artifacts.fingerprint import versions
from bilora.compare.written import write_section
from bilora.errors import BiloraError
from bilora.models.pretrained import quiet_transformers
from bilora.problems.catalog import VARIANTS

PROGRAM = "run_study.py"
HERE = Path(__file__).parent
# Seconds until jobs that wait for those of another process are looked at again.
PATIENCE = 5.0


def main(argv: Sequence[str]) -> int:
    """Run what is left, with the helpers that were asked for."""
    options = _options(argv)
    try:
        protocol = read_protocol(options.protocol)
        protocol = protocol.for_development() if options.development else protocol
        path = options.output or HERE / "results" / f"{protocol.name}.jsonl"
        Results(path, protocol).lines()
    except BiloraError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    if options.report:
        return report(protocol, path, options.document, shlex.join(["python", f"benchmarks/{PROGRAM}", *argv]))
    print(f"protocol {options.protocol.name}, sha256 {protocol.sha256}; results: {path}", flush=True)
    # Spawned, not forked: a fork of a process with torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    helpers = [context.Process(target=work, args=(options, protocol, path)) for _ in range(options.jobs - 1)]
    for helper in helpers:
        helper.start()
    try:
        work(options, protocol, path)
        for helper in helpers:
            helper.join()
    finally:
        for helper in helpers:
            helper.terminate()
    return max([abs(helper.exitcode or 0) for helper in helpers], default=0)


def report(protocol: Protocol, path: Path, document: Path | None, command: str) -> int:
    """Print what was found so far, write it into the document, and the curve beside the results."""
    findings = Findings(protocol, Results(path, protocol).lines())
    text = section(findings, command)
    print(text)
    if document is not None:
        write_section(document, text, name=protocol.name)
    figure = path.with_suffix(".png")
    if write_curve(findings, figure):
        print(f"curve: {figure}")
    return 0


def work(options: argparse.Namespace, protocol: Protocol, path: Path) -> None:
    """Run jobs one after another, until none is left that this process can name."""
    quiet_transformers()
    torch.set_num_threads(1)
    study = Study(protocol, options.data_dir, dict(options.models))
    # Of a helper: where the call that started it has gone, it ends behind the training that it is at.
    parent = multiprocessing.parent_process()
    results, about = Results(path, protocol), {"commit": _commit(), "versions": versions()}
    while (job := next_job(results, options)) is not None:
        started = time.perf_counter()
        if not any(line.get("labels_of") == job.setting for line in results.lines()):
            results.append(study.labels(job.setting))
        line = {**study.run(job), "seconds": round(time.perf_counter() - started, 1), **about}
        results.append(line)
        results.release(job)
        score = line["failed"] or " ".join(f"{key} {value:.4f}" for key, value in line["test"]["metrics"].items())
        print(f"{time.strftime('%H:%M:%S')} {job.name}: {score}, CPU {line['cpu']['fit']:.1f} s", flush=True)
        if parent is not None and not parent.is_alive():
            return


def next_job(results: Results, options: argparse.Namespace) -> Job | None:
    """Return the first job that nobody has done or holds, held by this process now; None where all are done."""
    while True:
        done = results.by_job()
        left = [job for job in jobs(results.protocol, done) if job.name not in done and _wanted(job, options, results)]
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
        and (setting.model is None or setting.model in dict(options.models))
    )


def _commit() -> str:
    words = ["git", "-C", str(HERE), "rev-parse", "HEAD"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Run a study.", allow_abbrev=False)
    parser.add_argument("--protocol", type=Path, default=HERE / "configs" / "study.yaml")
    parser.add_argument("--data-dir", type=Path, help="folder with glue/ and text/")
    parser.add_argument("--models", type=_model, nargs="*", default=[], help="NAME=DIR; settings without are left out")
    parser.add_argument("--output", type=Path, help="file of results; results/<protocol>.jsonl")
    parser.add_argument("--report", action="store_true", help="train nothing; print the tables of what is there")
    parser.add_argument("--document", type=Path, help="Markdown file into which the report goes too")
    parser.add_argument("--development", action="store_true", help="with the seeds for trials, in a file of their own")
    parser.add_argument("--methods", nargs="+", choices=sorted(VARIANTS), help="the variants to run now")
    parser.add_argument("--settings", nargs="+", help="the settings to run now")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once, of one thread each")
    options = parser.parse_args(argv)
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    if options.data_dir is None and not options.report:
        parser.error("--data-dir is needed to train")
    return options


def _model(word: str) -> tuple[str, Path]:
    name, _, folder = word.partition("=")
    if not Path(folder).is_dir() or not folder:
        raise argparse.ArgumentTypeError(f"{word!r} is no NAME=DIR of a folder that is there")
    return name, Path(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
