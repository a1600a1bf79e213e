"""The files of a comparison: every run and every method as CSV and JSON lines, and the tables as Markdown."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bilora.compare.choice import Choice, Record
from bilora.compare.config import ComparisonConfig
from bilora.compare.lines import Line
from bilora.compare.text import section, write_section
from bilora.files.strict_json import finite_or_null


def write_comparison(
    folder: Path,
    config: ComparisonConfig,
    *,
    records: Sequence[Record],
    lines: Sequence[Line],
    choices: Mapping[str, Choice],
    command: str,
) -> None:
    """Write ``results.*`` (a run a line), ``summary.*`` (a method a line) and ``comparison.md``.

    Args:
        folder: The comparison's folder.
        config: The comparison; its ``document`` gets the same section as ``comparison.md``.
        records: Of the reported runs.
        lines: One a method.
        choices: What was chosen for each method, and among what.
        command: The words that started the comparison.
    """
    write_rows(folder / "results", [_flat_run(each) for each in records])
    write_rows(folder / "summary", [dataclasses.asdict(line) for line in lines])
    text = section(config, lines, choices, versions=_versions(records), command=command)
    name = config.run.task or Path(str(config.run.train_file)).stem
    write_section(folder / "comparison.md", text, name=name)
    if config.document is not None:
        write_section(Path(config.document), text, name=name)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as ``path.jsonl`` and, with dotted columns in place of what is nested, as ``path.csv``.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rows"
        >>> write_rows(path, [{"label": "lora", "score": {"mean": 0.5}}])
        >>> path.with_suffix(".csv").read_text().split()
        ['label,score.mean', 'lora,0.5']
    """
    text = "".join(json.dumps(finite_or_null(row), allow_nan=False, ensure_ascii=False) + "\n" for row in rows)
    path.with_suffix(".jsonl").write_text(text, encoding="utf-8")
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    # What is nested in some rows and None in others has columns of its own already.
    columns = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            found[prefix + name] = json.dumps(value)
        else:
            found[prefix + name] = value
    return found


def _flat_run(record: Record) -> dict[str, Any]:
    """Return a run as a row of results, with the label first."""
    about = {name: record[name] for name in ("label", "candidate", "failed", "folder")}
    row = record["row"] or {"method": record["method"], "seed": record["seed"], "metric": record["metric"]}
    return {"label": about.pop("label"), **row, **about}


def _versions(records: Sequence[Record]) -> dict[str, str]:
    return next((dict(each["row"]["versions"]) for each in records if each["row"] is not None), {})
