"""Compare methods on a GLUE task: train each with every seed, print one table, write results, adapters and plots.

With neither ``--config`` nor ``--task`` nor ``--train-file`` it runs ``configs/embedded.yaml``: the embedded model and
sentences, offline, on a CPU. Examples::

    python benchmarks/run_glue.py
    python benchmarks/run_glue.py --task mrpc --data-dir DIR --method bilora lora --seeds 0 1 2 --steps 400
    python benchmarks/run_glue.py --task rte --model roberta-base --hypergradient.name darts \
        --hypergradient.finite_difference forward
    python benchmarks/run_glue.py --train-file rows.csv --text-columns title,body --label-column kind
"""

import sys
from pathlib import Path

from bilora.commands.program import Program

PROGRAM = Program(
    "run_glue.py", "Compare methods on a GLUE task.", default_config=Path(__file__).parent / "configs" / "embedded.yaml"
)

if __name__ == "__main__":
    sys.exit(PROGRAM.run(sys.argv[1:]))
