"""The page of a report: one HTML file with everything in it, and nothing that runs or asks the net."""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping, Sequence

import yaml

from bilora.report.figure_style import Drawing
from bilora.report.read_run import ReadRun

LOOK = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1120px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.caption { color: #555; max-width: 75ch; margin: .2rem 0 .6rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .8rem; line-height: 1.35; }
svg { max-width: 100%; height: auto; }
summary { cursor: pointer; padding: .2rem 0; }
"""


def page(
    title: str, *, table: Sequence[Mapping[str, str]], drawings: Sequence[Drawing], runs: Sequence[ReadRun]
) -> str:
    """Return the page; every text in it is escaped.

    Args:
        title: The heading.
        table: Lines of cells by column, all of the same columns; may be empty.
        drawings: The figures, in order.
        runs: The runs, for their settings, versions and commands.

    Example:
        >>> "<script>" in page("<script>", table=[], drawings=[], runs=[])
        False
    """
    parts = [f"<h1>{_text(title)}</h1>", html_table(table), *map(_figure, drawings), "<h2>Runs</h2>", *map(_run, runs)]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # Even if a text got in unescaped: no browser would run or load anything for it.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">\n'
        f"<title>{_text(title)}</title>\n<style>{LOOK}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def html_table(lines: Sequence[Mapping[str, str]]) -> str:
    """Return lines of cells as an HTML table; nothing for no lines.

    Example:
        >>> html_table([{"a": "1 < 2"}])
        '<div class="wide"><table><tr><th>a</th></tr><tr><td>1 &lt; 2</td></tr></table></div>'
    """
    if not lines:
        return ""
    head = "".join(f"<th>{_text(name)}</th>" for name in lines[0])
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in line.values()) + "</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _figure(drawing: Drawing) -> str:
    return f'<h2>{_text(drawing.title)}</h2>\n<p class="caption">{_text(drawing.caption)}</p>\n{drawing.svg()}'


def _run(run: ReadRun) -> str:
    """Return the settings, versions and command of a run, folded up."""
    results = run.results
    versions = ", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items())
    about = {
        "folder": str(run.folder),
        "command": str(results.get("command", "not kept: the run has not ended")),
        "versions": versions or "not kept: the run has not ended",
        "settings, as a hash": str(results.get("config_sha256", "not kept: the run has not ended")),
        "again": shlex.join(["bilora", "train", "--config", str(run.folder / "config.yaml")]),
    }
    lines = "\n".join(f"{name}: {value}" for name, value in about.items())
    settings = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    blocks = f"<pre>{_text(lines)}</pre>\n<pre>{_text(settings)}</pre>"
    return f"<details><summary>{_text(run.name)}</summary>\n{blocks}</details>"


def _text(value: str) -> str:
    return html.escape(value, quote=True)
