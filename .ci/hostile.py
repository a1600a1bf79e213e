"""Try a thousand broken files, words, adapters and checkpoints through the command, of which `.ci/run` tries 200.

python .ci/hostile.py            1,000 of them, about ten minutes on one core
python .ci/hostile.py 5000       as many as you like
"""

import os
import subprocess
import sys
from pathlib import Path

TEST = "tests/faults/test_hostile.py"


def main() -> int:
    """Run the test with that many inputs, and return its exit code."""
    count = sys.argv[1] if len(sys.argv) > 1 else "1000"
    environment = {**os.environ, "BILORA_HOSTILE": count, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "pytest", "-s", "-q", "-p", "no:cacheprovider", TEST]
    return subprocess.run(words, cwd=Path(__file__).resolve().parent.parent, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
