"""From a command line to a config: YAML files with dotted overrides, strict keys, one-line errors."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Collection, Container, Mapping, Sequence
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from bilora.commands.yielding_defaults import MAPPINGS, given_way
from bilora.settings.lookup import did_you_mean
from bilora.settings.sections import refuse_nulls

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
    before: Sequence[str] = (),
    left_out: Mapping[str, Collection[str]] | None = None,
) -> Config:
    """Return the config that the words of a command line make.

    ``--config FILE`` reads YAML; every field is an option with hyphens or underscores, a nested one with a
    dot (``--lower.learning-rate 5e-4``); a list takes several words (``--seeds 0 1 2``). What stands later wins. A
    default gives way where it does not fit what the words say, see :func:`given_way`.

    Args:
        kind: A dataclass of dataclasses.
        argv: The words, without the program's name.
        prog: Name of the program, for help and errors.
        description: One line for the help.
        usage: How it is called, in short; None lists every option.
        before: Words that the program puts before those of the user: they are defaults.
        left_out: Settings that are no options at all, by the field whose dataclass has them.

    Raises:
        SystemExit: With code 2 after an error message, or 0 after ``--help`` or ``--print_config``.
        SettingsError: From the checks of the dataclasses themselves.

    Example:
        >>> from bilora.engines.settings import FitSettings
        >>> argv = ["--steps", "10", "--lower.batch-size", "4"]
        >>> parse_config(FitSettings, argv, prog="example", description="").lower.batch_size
        4
    """

    def build(**words: Any) -> OneLineParser:
        return _parser(kind, left_out or {}, prog=prog, **words)

    parser, lists = build(usage=usage, description=description), _list_options(kind)
    first, own = _normal_form(list(before), lists), _normal_form(list(argv), lists)
    given = _given_way(kind, parser, build(), first, own)
    between = [f"--{name}={json.dumps(left)}" for name, left in given.items()]
    values = parser.parse_args([*first, *between, *own])
    del values["config"]
    refuse_nulls(kind, values.as_dict(), what="config")
    instantiated = parser.instantiate(values)
    return kind(**instantiated.as_dict() if hasattr(instantiated, "as_dict") else vars(instantiated))


def _given_way(
    kind: type, parser: ArgumentParser, bare: ArgumentParser, before: list[str], own: list[str]
) -> dict[str, Any]:
    """Return the settings of which a part of the default goes, since it does not fit the user's words."""
    mappings = [each.name for each in dataclasses.fields(kind) if each.name in MAPPINGS]
    if not mappings or {"-h", "--help"} & set(own):
        return {}
    bare.set_defaults({name: {} for name in mappings})
    given = bare.parse_args([word for word in own if not word.startswith("--print_config")])
    return given_way(parser.parse_args(before).as_dict(), given.as_dict())


def _parser(kind: type, left_out: Mapping[str, Collection[str]], **words: Any) -> OneLineParser:
    # An abbreviated option would be taken without a word, and could mean another one tomorrow.
    parser = OneLineParser(default_env=False, allow_abbrev=False, **words)
    parser.add_argument("--config", action="config", help="A YAML file of settings; later words override it.")
    parser.add_class_arguments(kind, None, as_group=False, skip=set(left_out))
    for name, names in left_out.items():
        parser.add_class_arguments(get_type_hints(kind)[name], name, skip=set(names))
    return parser


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
    **dict.fromkeys(("--debug", "--allow_config_change", "--keep_best", "--shard_base"), "true"),
    **dict.fromkeys(("--overwrite", "--uniform_rank"), "true"),
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
