"""``bilora compare``: methods at equal budget, as a verb of the command."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence

NAME = "compare"
HELP = "Compare methods at equal budget, each with settings chosen on a part of the training rows."
SINGLE = ("seeds",)
"""Options that take several words, or a single one that is not a list."""

LISTS = ("methods", "seeds", "learning_rates", "run.text_columns")


class Compare:
    """The verb. Words that begin with ``--run.`` are settings of the runs; ``run.`` may be left out.

    Example:
        >>> COMPARE.words(["--methods", "bilora,lora", "--seeds", "5", "--train-rows", "500"])
        ['--methods=[bilora, lora]', '--seeds=5', '--run.train_rows', '500']
    """

    name = NAME
    help = HELP

    def run(self, argv: Sequence[str]) -> int:
        """Compare, and return the exit code: 0, 2 for bad input, 3 where nothing of a method ended, 130."""
        # Not before there is something to do: the table of verbs is read to print the help.
        from bilora.commands.command_line import parse_config
        from bilora.commands.exit_codes import exit_code
        from bilora.compare.comparison import run_comparison
        from bilora.compare.config import NO_OPTIONS, ComparisonConfig
        from bilora.models.pretrained import quiet_transformers

        def work() -> None:
            config = parse_config(
                ComparisonConfig,
                self.words(argv),
                prog=f"bilora {NAME}",
                description=HELP,
                usage=f"bilora {NAME} [options]",
                left_out={"run": NO_OPTIONS},
            )
            run_comparison(config, command=shlex.join(["bilora", NAME, *argv]))

        quiet_transformers()
        debug = any(word == "--debug" or word.lower() == "--debug=true" for word in argv)
        return exit_code(work, program=f"bilora {NAME}", debug=debug)

    def words(self, argv: Sequence[str]) -> list[str]:
        """Return the words with full names and with lists in brackets."""
        words: list[tuple[str, list[str]]] = []
        loose: list[str] = []
        for word in argv:
            if word.startswith("--"):
                name, equals, value = word[2:].partition("=")
                words.append((_full(name.replace("-", "_")), [value] if equals else []))
            elif words:
                words[-1][1].append(word)
            else:
                loose.append(word)
        return loose + [each for name, values in words for each in _written(name, values)]


def _full(name: str) -> str:
    """Return a setting's name with ``run.`` before it, where it is one of the runs' and not of the comparison's."""
    from bilora.compare.config import NO_OPTIONS, ComparisonConfig
    from bilora.runs.config import RunConfig

    first = name.partition(".")[0]
    own = {each.name for each in dataclasses.fields(ComparisonConfig)}
    shared = {each.name for each in dataclasses.fields(RunConfig)} - {*own, *NO_OPTIONS}
    return f"run.{name}" if first in shared else name


def _written(name: str, values: list[str]) -> list[str]:
    if name not in LISTS or not values or values[0].startswith("["):
        return [f"--{name}", *values]
    items = [item for value in values for item in value.split(",") if item]
    if name in SINGLE and len(items) == 1:
        return [f"--{name}={items[0]}"]
    return [f"--{name}=[{', '.join(items)}]"]


COMPARE = Compare()

if __name__ == "__main__":
    sys.exit(COMPARE.run(sys.argv[1:]))
