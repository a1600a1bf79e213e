"""Compare methods on a data-to-text task: train each, search a text for each row, score the texts, print one table.

With neither ``--config`` nor ``--task`` it runs ``configs/e2e_small.yaml``: the embedded decoder smollm2 on 200
meaning representations of E2E, on a CPU; ``--data-dir`` says where E2E is. Examples::

    python benchmarks/run_nlg.py --data-dir DIR
    python benchmarks/run_nlg.py --task e2e --data-dir DIR --model gpt2-medium --method bilora lora --max-length 256
    python benchmarks/run_nlg.py --task webnlg --model smollm2 --task-settings.d2 split --task-settings.beams 4
"""

import sys
from pathlib import Path

from bilora.commands.program import Program

PROGRAM = Program(
    "run_nlg.py",
    "Compare methods on a data-to-text task.",
    default_config=Path(__file__).parent / "configs" / "e2e_small.yaml",
)

if __name__ == "__main__":
    sys.exit(PROGRAM.run(sys.argv[1:]))
