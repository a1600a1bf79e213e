"""Run the study of a protocol, or what of it is not done yet, and write what came of it.

Every training is a line of the results, so that the study may be stopped at any moment, goes on where it was, and may
run in several processes, also of several calls. Examples::

    python benchmarks/run_study.py --data-dir DIR --jobs 2 --methods lora lora_d1 lora_early_stopping
    python benchmarks/run_study.py --data-dir DIR --development
    python benchmarks/run_study.py --data-dir DIR --report --document docs/results.md
    python benchmarks/run_study.py --protocol benchmarks/configs/study_ablations.yaml --data-dir DIR
"""

import sys
from pathlib import Path

from study_findings import Findings
from study_program import HERE, Program
from study_protocol import Protocol, read_protocol
from study_report import section, write_curve
from study_results import Results
from study_runs import Study

from bilora.compare.written import write_section
from bilora.problems.catalog import VARIANTS


def report(protocol: Protocol, path: Path, document: Path | None, command: str) -> None:
    """Print what was found so far, write it into the document, and the curve beside the results."""
    findings = Findings(protocol, Results(path, protocol).lines())
    text = section(findings, command)
    print(text)
    if document is not None:
        write_section(document, text, name=protocol.name)
    figure = path.with_suffix(".png")
    if write_curve(findings, figure):
        print(f"curve: {figure}")


PROGRAM = Program("run_study.py", HERE / "configs" / "study.yaml", read_protocol, Study, tuple(VARIANTS), report)

if __name__ == "__main__":
    sys.exit(PROGRAM.main(sys.argv[1:]))
