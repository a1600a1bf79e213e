"""Compare methods on a token classification task: entity F1, results, adapters, plots and one table.

With neither ``--config`` nor ``--task`` nor ``--train-file`` it runs ``configs/ner.yaml``: the embedded model on the
sentences of ``--data-dir``. Examples::

    python benchmarks/run_ner.py --data-dir DIR
    python benchmarks/run_ner.py --data-dir DIR --method bilora lora --seeds 0 1 2 --class-weights auto
    python benchmarks/run_ner.py --train-file rows.jsonl --text-columns tokens --label-column tags
"""

import sys
from pathlib import Path

from bilora.commands.program import Program

PROGRAM = Program(
    "run_ner.py",
    "Compare methods on a token classification task.",
    default_config=Path(__file__).parent / "configs" / "ner.yaml",
)

if __name__ == "__main__":
    sys.exit(PROGRAM.run(sys.argv[1:]))
