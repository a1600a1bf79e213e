"""``bilora report``: one page about runs."""

from bilora.commands.verb import Verb
from bilora.report.report import ReportConfig, write_report

REPORT = Verb(
    "report",
    "Write one HTML page, and pictures, about runs side by side.",
    ReportConfig,
    lambda config: print(f"report: {write_report(config)}"),
    positional="runs",
)
