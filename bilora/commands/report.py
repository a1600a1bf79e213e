"""``bilora report``: one page about runs."""

from bilora.commands.verb import Verb
from bilora.report.report import ReportConfig, write_report


def report(config: ReportConfig) -> None:
    """Write the page, and print where it is."""
    print(f"report: {write_report(config)}")


REPORT = Verb(
    "report", "Write one HTML page, and pictures, about runs side by side.", ReportConfig, report, positional="runs"
)
