"""Write the help texts that ``bilora --help`` and ``bilora VERB --help`` show without importing the library."""

import contextlib
import importlib
import importlib.util
import io
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import bilora_command
from bilora.commands.usual_names import common_help

WIDTH = "80"
"""Columns; the texts are written once, so they cannot follow the terminal."""

FOLDER = Path(__file__).resolve().parent.parent / "bilora" / "commands" / "help"


def verbs() -> dict[str, Any]:
    """Return the verbs of the table whose modules are there, by name."""
    found = {}
    for name, path in bilora_command.VERBS.items():
        module, _, attribute = path.partition(":")
        if importlib.util.find_spec(module) is not None:
            found[name] = getattr(importlib.import_module(module), attribute)
    return found


def help_of(verb: Any) -> str:
    """Return what a verb's own parser says, at a fixed width."""
    said = io.StringIO()
    columns = patch.dict(os.environ, COLUMNS=WIDTH)
    with columns, contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        verb.run(["--help"])
    return said.getvalue()


def overview(found: dict[str, Any]) -> str:
    """Return the help of the command itself: one line a verb."""
    lines = [f"  {name:10} {verb.help}" for name, verb in found.items()]
    return "\n".join(
        [
            "usage: bilora VERB [options]",
            "",
            "Bi-level fine-tuning of pre-trained language models: LoRA that resists overfitting.",
            "",
            "verbs:",
            *lines,
            "",
            "options:",
            "  --help     Show this text; behind a verb, its options.",
            "  --version  Show the version.",
            "  --print-completion {bash,zsh}",
            "             Print what completes verbs and options in a shell.",
            "",
            "exit codes: 0 done, 1 self-check failed, 2 bad input, 3 diverged, 4 out of memory or disk,",
            "130 interrupted, 143 terminated",
            "",
        ]
    )


def main() -> None:
    """Write every text."""
    FOLDER.mkdir(exist_ok=True)
    found = verbs()
    texts = {"bilora": overview(found), **{name: help_of(verb) for name, verb in found.items()}}
    texts["train-common"] = common_help()
    for name, text in texts.items():
        (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8")
    print(f"{len(texts)} texts: {FOLDER}")


if __name__ == "__main__":
    sys.exit(main())
