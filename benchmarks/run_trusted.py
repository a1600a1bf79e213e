"""Run the study of doubtful and trusted rows, or what of it is not done yet, and write what came of it.

Every training is a line of the results, so that the study may be stopped at any moment, goes on where it was, and may
run in several processes, also of several calls. Without --data-dir the data are looked for in BILORA_DATA. SetFit needs
its own package, and is left out without it. Examples::

    python benchmarks/run_trusted.py --data-dir DIR --jobs 2
    python benchmarks/run_trusted.py --data-dir DIR --methods default learned_noise --settings noisyag_25
    python benchmarks/run_trusted.py --report --document docs/which-labels-can-i-trust.md
"""

import os
import sys
from pathlib import Path

from study_findings import Findings
from study_program import HERE, Program
from study_protocol import Protocol
from study_results import Results
from trusted_protocol import TrustedProtocol, read_trusted
from trusted_report import section
from trusted_roads import TRUSTED_ROADS, lack_of
from trusted_runs import TrustedStudy

from bilora.compare.written import write_section


def report(protocol: Protocol, path: Path, document: Path | None, command: str) -> None:
    """Print what was found so far, and write it into the document."""
    assert isinstance(protocol, TrustedProtocol)  # read by read_trusted
    text = section(protocol, Findings(protocol, Results(path, protocol).lines()), command)
    print(text)
    if document is not None:
        write_section(document, text, name=protocol.name)


DATA = os.environ.get("BILORA_DATA")
PROGRAM = Program(
    "run_trusted.py",
    HERE / "configs" / "trusted.yaml",
    read_trusted,
    TrustedStudy,
    tuple(TRUSTED_ROADS),
    report,
    data=None if DATA is None else Path(DATA),
    lacks=lack_of,
)

if __name__ == "__main__":
    sys.exit(PROGRAM.main(sys.argv[1:]))
