"""``bilora compare``: methods at equal budget."""

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from bilora.commands.exit_codes import FINISHED_ARE_KEPT
from bilora.commands.usual_names import FILES, RENAMED
from bilora.commands.verb import Verb
from bilora.compare.comparison import run_comparison
from bilora.compare.config import NO_OPTIONS, ComparisonConfig
from bilora.runs.config import RunConfig

COMPARISON = {setting.name for setting in dataclasses.fields(ComparisonConfig)}
RUN = {setting.name for setting in dataclasses.fields(RunConfig)} - COMPARISON - set(NO_OPTIONS)


class Compare(Verb):
    """The verb. Words that begin with ``--run.`` are settings of the runs; ``run.`` may be left out."""

    def do(self, config: Any, argv: Sequence[str]) -> None:
        """Compare; the document shows the command."""
        self.work(config, command=shlex.join(["bilora", self.name, *argv]))


COMPARE = Compare(
    "compare",
    "Compare methods at equal budget, each with settings chosen on a part of the training rows.",
    ComparisonConfig,
    run_comparison,
    aliases={
        # Not the field's own name: in YAML, `on` is the value true.
        "on": "runs_on",
        **{name: f"run.{name}" for name in RUN},
        **{name: f"run.{ours}" for name, ours in (RENAMED | FILES).items() if ours.partition(".")[0] in RUN},
        "output_dir": "output",
    },
    left_out={"run": NO_OPTIONS},
    interrupted=FINISHED_ARE_KEPT,
)
