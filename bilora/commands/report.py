"""``bilora report``: one page about runs, as a verb of the command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

NAME = "report"
HELP = "Write one HTML page, and pictures, about runs side by side."


class Report:
    """The verb.

    Example:
        >>> REPORT.words(["runs/a", "runs/b", "--output", "a.html"])
        ['--runs=["runs/a", "runs/b"]', '--output', 'a.html']
    """

    name = NAME
    help = HELP

    def run(self, argv: Sequence[str]) -> int:
        """Write the report, print where it is, and return the exit code: 0, or 2 for bad input."""
        # Not before there is something to do: the table of verbs is read to print the help.
        from bilora.commands.command_line import parse_config
        from bilora.commands.exit_codes import exit_code
        from bilora.report.report import ReportConfig, write_report

        def work() -> None:
            config = parse_config(ReportConfig, self.words(argv), prog=f"bilora {NAME}", description=HELP)
            print(f"report: {write_report(config)}")

        return exit_code(work, program=f"bilora {NAME}")

    def words(self, argv: Sequence[str]) -> list[str]:
        """Return the words with those before the first option as the list of runs."""
        import json

        first = next((place for place, word in enumerate(argv) if word.startswith("-")), len(argv))
        runs = [f"--runs={json.dumps(list(argv[:first]))}"] if first else []
        return [*runs, *argv[first:]]


REPORT = Report()

if __name__ == "__main__":
    sys.exit(REPORT.run(sys.argv[1:]))
