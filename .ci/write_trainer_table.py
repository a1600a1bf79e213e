"""Write the tables of docs/trainer-code.md: what becomes of every name of transformers' Trainer."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import transformers

from bilora.engines.trainer.accounting import Row, argument_rows, method_rows

PAGE = Path(__file__).resolve().parent.parent / "docs" / "trainer-code.md"


def table(rows: Sequence[Row]) -> str:
    """Return a table of rows in Markdown."""
    lines = [f"| `{row.name}` | {row.answer} | {row.words} |".replace("|  |", "| |") for row in rows]
    return "\n".join(["| name | answer | what it means here, or why not |", "|---|---|---|", *lines])


def filled(page: str) -> str:
    """Return the page with its tables and the version of transformers as they are now."""
    parts = {
        "version": f"The tables are of transformers {transformers.__version__}.",
        "arguments": table(argument_rows()),
        "methods": table(method_rows()),
    }
    for name, text in parts.items():
        begin, end = f"<!-- {name}: written by .ci/write_trainer_table.py -->", f"<!-- end of {name} -->"
        pattern = f"({re.escape(begin)}\n\n).*?(\n\n{re.escape(end)})"
        page, count = re.subn(pattern, lambda found, text=text: found[1] + text + found[2], page, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{PAGE} has {count} places for {name}, and one is needed")
    return page


def main() -> None:
    """Write the page."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    sys.exit(main())
