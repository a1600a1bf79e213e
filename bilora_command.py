"""The command ``bilora``. It stands outside the package, since ``import bilora`` takes seconds, and help should not."""

import difflib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path

BAD_INPUT = 2

# Where each verb is: an object with `name`, `help` (one line) and `run(argv) -> int`, the exit code. A new one is such
# an object, a row here, and its help text, which `make help-texts` writes.
VERBS = {
    "train": "bilora.commands.train:TRAIN",
    "evaluate": "bilora.commands.evaluate:EVALUATE",
    "predict": "bilora.commands.predict:PREDICT",
    "export": "bilora.commands.export:EXPORT",
    "merge": "bilora.commands.export:MERGE",
    "report": "bilora.commands.report:REPORT",
    "compare": "bilora.commands.compare:COMPARE",
    "check-labels": "bilora.commands.check_labels:CHECK_LABELS",
    "doctor": "bilora.commands.doctor:DOCTOR",
    "init": "bilora.commands.init:INIT",
}

COMPLETION = """\
_bilora() {
    local word=${COMP_WORDS[COMP_CWORD]}
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "@VERBS@" -- "$word"))
        return
    fi
    case "${COMP_WORDS[1]}:$word" in
@CASES@
        *) COMPREPLY=($(compgen -f -- "$word")) ;;
    esac
}
complete -o filenames -F _bilora bilora
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; ``--help`` and ``--version`` import nothing of the library."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text("bilora"), end="")
        return 0 if words else BAD_INPUT
    for word in words:
        # The system hands over names in any bytes, and no model can be written below one that is no text.
        if word != word.encode("utf-8", "replace").decode():
            return _fail(f"{word!r} is not UTF-8; rename the file or folder, or write the option in UTF-8")
    verb, rest = words[0], words[1:]
    if verb == "--version":
        print(f"bilora {importlib.metadata.version('bilora')}")
        return 0
    if verb == "--print-completion":
        return _print_completion(rest)
    if verb not in VERBS:
        return _fail(f"{verb!r} is not one of the verbs {', '.join(VERBS)}.{_near(verb)}")
    if any(word in ("-h", "--help") for word in rest):
        # Of a verb with many options the common ones first.
        short = "all" not in rest and (help_folder() / f"{verb}-common.txt").is_file()
        print(help_text(f"{verb}-common" if short else verb), end="")
        return 0
    return _run(verb, rest)


def help_text(name: str) -> str:
    """Return the help of a verb, or of ``bilora`` itself, as ``make help-texts`` wrote it."""
    return (help_folder() / f"{name}.txt").read_text(encoding="utf-8")


def help_folder() -> Path:
    """Return the folder of the help texts, of an installed package or of a checkout, without importing it."""
    # find_spec looks for the package without running it, which takes seconds.
    spec = importlib.util.find_spec("bilora")
    # This file is installed with it.
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "commands" / "help"


def _run(verb: str, argv: Sequence[str]) -> int:
    module, _, name = VERBS[verb].partition(":")
    try:
        command = getattr(importlib.import_module(module), name)
    except ImportError as error:
        # Betty is the one package that pip does not install, and its error says how to get it.
        if error.name != "betty":
            raise
        return _fail(str(error))
    return int(command.run(argv))


def _print_completion(words: Sequence[str]) -> int:
    if list(words) not in (["bash"], ["zsh"]):
        return _fail("give --print-completion bash, or --print-completion zsh")
    cases = []
    for verb in VERBS:
        if not (help_folder() / f"{verb}.txt").is_file():
            continue
        options = sorted(set(re.findall(r"--[a-z][\w.]*", help_text(verb))))
        offered = " ".join(option.replace("_", "-") for option in options)
        cases.append(f'        {verb}:-*) COMPREPLY=($(compgen -W "{offered}" -- "$word")) ;;')
    script = COMPLETION.replace("@VERBS@", " ".join(VERBS)).replace("@CASES@", "\n".join(cases))
    print(("autoload -U +X bashcompinit && bashcompinit\n" if words[0] == "zsh" else "") + script, end="")
    return 0


def _near(word: str) -> str:
    near = difflib.get_close_matches(word, VERBS, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _fail(message: str) -> int:
    print(f"bilora: error: {message}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
