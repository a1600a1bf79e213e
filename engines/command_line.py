"""From a command line to a config: YAML files with dotted overrides, strict keys, one-line errors."""

from __future__ import annotations

import re
import sys
from argparse import SUPPRESS
from collections.abc import Collection, Container, Mapping, Sequence
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from bilora.lookup import did_you_mean
from bilora.sections import refuse_nulls

Config = TypeVar("Config")

BAD_INPUT = 2
"""Exit code for anything wrong with what the user gave."""


class OneLineParser(ArgumentParser):
    """An argument parser whose errors are one line with a suggestion, instead of the whole usage."""

    def error(self, message: str, *args: Any, **kwargs: Any) -> NoReturn:
        """Print what is wrong and end with exit code 2."""
        known = [option for action in self._actions for option in action.option_strings]
        asked = _option_in(message)
        near = "" if asked in known else did_you_mean(asked, known)
        print(f"{self.prog}: error: {' '.join(message.split())}{near}", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def _option_in(message: str) -> str:
    """Return the option that a message of jsonargparse is about, or an empty string."""
    inside = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    if inside:
        return f"--{inside[1]}.{inside[2]}"
    found = re.search(r"--[\w.\-]+|'[\w.]+'", message)
    return "" if found is None else "--" + found[0].strip("'").removeprefix("--")


def parse_config(
    kind: type[Config],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    usage: str | None = None,
    left_out: Mapping[str, Collection[str]] | None = None,
    hidden: Collection[str] = (),
) -> Config:
    """Return the config that the words of a command line make.

    ``--config FILE`` reads YAML; every field is an option with hyphens or underscores, a nested one with a
    dot (``--lower.learning-rate 5e-4``); a list takes several words (``--seeds 0 1 2``). What stands later wins.

    Args:
        kind: A dataclass of dataclasses.
        argv: The words, without the program's name.
        prog: Name of the program, for help and errors.
        description: One line for the help.
        usage: How it is called, in short; None lists every option.
        left_out: Settings that are no options at all, by the field whose dataclass has them.
        hidden: Options that the help does not list: a file that another program wrote may hold them.

    Raises:
        SystemExit: With code 2 after an error message, or 0 after ``--help`` or ``--print_config``.
        SettingsError: From the checks of the dataclasses themselves.

    Example:
        >>> from bilora.engines.settings import FitSettings
        >>> argv = ["--steps", "10", "--lower.batch-size", "4"]
        >>> parse_config(FitSettings, argv, prog="example", description="").lower.batch_size
        4
    """
    # An abbreviated option would be taken without a word, and could mean another one tomorrow.
    parser = OneLineParser(prog=prog, usage=usage, description=description, default_env=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="A YAML file of settings; later words override it.")
    nested = left_out or {}
    parser.add_class_arguments(kind, None, as_group=False, skip=set(nested))
    for name, names in nested.items():
        parser.add_class_arguments(get_type_hints(kind)[name], name, skip=set(names))
    for action in parser._actions:
        action.help = SUPPRESS if action.dest in hidden else action.help
    values = parser.parse_args(_normal_form(list(argv), _list_options(kind)))
    del values["config"]
    refuse_nulls(kind, values.as_dict(), what="config")
    instantiated = parser.instantiate(values)
    return kind(**instantiated.as_dict() if hasattr(instantiated, "as_dict") else vars(instantiated))


def _normal_form(argv: list[str], lists: Container[str]) -> list[str]:
    """Return the words with underscores in option names, and the words of a list joined to ``[a, b]``.

    Args:
        argv: The words.
        lists: Options that take several words.
    """
    words: list[str] = []
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            option = "--" + name[2:].replace("-", "_")
            words.append(option + equals + (f"[{value}]" if _is_bare_list(option, value, lists) else value))
        elif words and _is_list_item(words, word, lists):
            words[-1] = f"{words[-1][:-1]}, {word}]"
        elif words and _is_bare_list(words[-1], word, lists):
            words.append(f"[{word}]")
        else:
            words.append(word)
    return [_with_value(word, following) for word, following in zip(words, [*words[1:], "--"], strict=False)]


def _with_value(word: str, following: str) -> str:
    """Return a switch that stands alone with the value that it then means."""
    return f"{word}={SWITCHES[word]}" if word in SWITCHES and following.startswith("--") else word


SWITCHES = {
    **dict.fromkeys(("--debug", "--allow_config_change", "--keep_best", "--shard_base", "--uniform_rank"), "true"),
    "--resume": "auto",
}
"""Options that may stand without a value, and the value they then have."""


def _list_options(kind: type) -> set[str]:
    """Return the options of a dataclass that are lists, or lists or None."""
    hints = get_type_hints(kind)
    return {
        f"--{name}" for name, hint in hints.items() if list in {get_origin(each) for each in (hint, *get_args(hint))}
    }


def _is_bare_list(option: str, value: str, lists: Container[str]) -> bool:
    return option in lists and value != "" and not value.startswith("[")


def _is_list_item(words: list[str], word: str, lists: Container[str]) -> bool:
    return len(words) > 1 and words[-2] in lists and words[-1].endswith("]") and not word.startswith("[")
