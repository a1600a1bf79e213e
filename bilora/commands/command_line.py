"""From a command line to a config: YAML files with dotted overrides, strict keys, one-line errors."""

import dataclasses
import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from bilora.errors import SettingsError
from bilora.runs.config import RunConfig, SeveralRuns
from bilora.settings.lookup import did_you_mean
from bilora.settings.sections import one_line, refuse_nulls

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
        print(f"{self.prog}: error: {one_line(message)}{near}", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def _option_in(message: str) -> str:
    """Return the option that a message of jsonargparse is about, or an empty string."""
    if value := re.match(r"Parser key \"([\w.]+)\"", message):
        return f"--{value[1]}"
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
    dot (``--lower.learning-rate 5e-4``); a list takes several words (``--seeds 0 1 2``). What stands later wins, and a
    dotted option changes one entry of a mapping and leaves the others. The settings of the run that
    :class:`~bilora.runs.config.SeveralRuns` share are options without ``run.`` before them.

    ``before`` are words that the program puts before those of the user: defaults. ``left_out`` names settings that are
    no options, by the field whose dataclass has them. Wrong words end the program with code 2 after one line,
    ``--help`` and ``--print_config`` with 0; the checks of the dataclasses raise SettingsError.

    Example:
        >>> from bilora.engines.settings import FitSettings
        >>> argv = ["--steps", "10", "--lower.batch-size", "4"]
        >>> parse_config(FitSettings, argv, prog="example", description="").lower.batch_size
        4
    """
    # An abbreviated option would be taken without a word, and could mean another one tomorrow.
    parser = OneLineParser(prog=prog, usage=usage, description=description, default_env=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="A YAML file of settings; later words override it.")
    _add_arguments(parser, kind, left_out or {})
    flat = RunConfig if issubclass(kind, SeveralRuns) else kind
    lists = _list_options(flat) | {f"--{name}": True for name in _naming(kind)}
    words = _normal_form([*before, *argv], lists)
    # Of the two names of one setting, words take the one that files of today have: then what stands later wins.
    words = [
        re.sub(r"^--seeds?(?==|$)", "--seed" if issubclass(kind, RunConfig) else "--seeds", word) for word in words
    ]
    values = parser.parse_args(_with_whole_sections(parser, words))
    del values["config"]
    return _built(kind, parser, values)


ONE_RUN = {
    "method": "Name of the variant, or ``package.module:NAME``.",
    "seed": "Of training rows, split, data order and dropout masks; by default 0.",
    "seeds": "The same as seed.",
}
"""Which run is made, with the help; each may be written as a list of one."""

SEVERAL_RUNS = {
    "method": "Names of variants, or ``package.module:NAME``; each is run with every seed.",
    "seeds": "One run per seed and method; by default 0 and 1.",
    "seed": "The same as seeds.",
}
"""Which runs are made, with the help; a list of one may be written without brackets."""


def _naming(kind: type) -> dict[str, str]:
    """Return the options that say which method is run, and with which seed; none for a config of no run."""
    return ONE_RUN if issubclass(kind, RunConfig) else SEVERAL_RUNS if issubclass(kind, SeveralRuns) else {}


def _add_arguments(parser: ArgumentParser, kind: type, left_out: Mapping[str, Collection[str]]) -> None:
    naming = _naming(kind)
    flat = RunConfig if issubclass(kind, SeveralRuns) else kind
    parser.add_class_arguments(flat, None, as_group=False, skip={*left_out, *naming} - {"seeds"})
    for name, text in naming.items():
        # Files have both forms: a run of its own is written with one method and one seed, and was written with lists.
        types: Any = str | list[str] if name == "method" else int | list[int] | None
        default = ("bilora" if flat is kind else ["bilora", "lora"]) if name == "method" else None
        parser.add_argument(f"--{name}", type=types, default=default, help=text)
    for name, names in left_out.items():
        parser.add_class_arguments(get_type_hints(kind)[name], name, skip=set(names))


def _built(kind: type[Config], parser: ArgumentParser, values: Any) -> Config:
    if not _naming(kind):
        refuse_nulls(kind, values.as_dict(), what="config")
        return kind(**_instantiated(parser, values))
    method, seed, seeds = values.pop("method"), values.pop("seed"), values.pop("seeds")
    if issubclass(kind, RunConfig):
        chosen = seeds if seed is None else seed
        named = {"method": _single(method, "method"), "seed": 0 if chosen is None else _single(chosen, "seed")}
        refuse_nulls(kind, {**values.as_dict(), **named}, what="config")
        return kind(**_instantiated(parser, values), **named)
    refuse_nulls(RunConfig, {**values.as_dict(), "method": "", "seed": 0}, what="config")
    chosen = seed if seeds is None else seeds
    run = RunConfig(**_instantiated(parser, values))
    several: Any = kind
    return several(method=_listed(method), seeds=[0, 1] if chosen is None else _listed(chosen), run=run)  # type: ignore[no-any-return]


def _instantiated(parser: ArgumentParser, values: Any) -> dict[str, Any]:
    instantiated = parser.instantiate(values)
    return dict(instantiated.as_dict() if hasattr(instantiated, "as_dict") else vars(instantiated))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _single(value: Any, name: str) -> Any:
    values = _listed(value)
    if len(values) != 1:
        raise SettingsError(f"config: {name} is {value!r}; one run has one {name}; bilora compare runs several")
    return values[0]


def _with_whole_sections(parser: ArgumentParser, words: list[str]) -> list[str]:
    """Return the words with ``--method_settings.NAME.setting`` merged into the sections that files and words have.

    jsonargparse would put a section of that one setting in the place of what was said before.
    """
    rest, dotted, left = list[str](), list[tuple[str, str, str, str]](), iter(words)
    for word in left:
        option, equals, value = word.partition("=")
        match = re.fullmatch(r"--((?:\w+\.)?method_settings)\.(.+)\.(\w+)", option)
        if match is None:
            rest.append(word)
        else:
            dotted.append((match[1], match[2], match[3], value if equals else next(left, "")))
    if not dotted:
        return words
    settled = parser.parse_args([word for word in rest if not word.startswith("--print_config")])
    sections: dict[str, dict[str, Any]] = {}
    for field, method, name, value in dotted:
        methods = sections.setdefault(field, dict(settled[field]))
        methods[method] = {**methods.get(method, {}), name: _plain_value(value)}
    return [*rest, *(f"--{field}={json.dumps(methods)}" for field, methods in sections.items())]


def _plain_value(word: str) -> Any:
    try:
        return json.loads(word)  # which knows 5e-4 for a number, as PyYAML does not
    except ValueError:
        return yaml.safe_load(word)


SWITCHES = {
    **dict.fromkeys(("--debug", "--allow_config_change", "--keep_best", "--shard_base"), "true"),
    **dict.fromkeys(("--overwrite", "--uniform_rank"), "true"),
    "--resume": "auto",
}
"""Options that may stand without a value, and the value they then have."""


def _normal_form(argv: Sequence[str], lists: Mapping[str, bool]) -> list[str]:
    """Return the words as ``--option_name=value``, several words of a list joined to ``[a, b]``.

    Args:
        argv: The words.
        lists: Options that take several words, with whether a single word is a list of one.
    """
    groups: list[list[str]] = [[]]  # an option and the words behind it; before the first one some may stand
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            groups.append(["--" + name[2:].replace("-", "_") + equals + value])
        else:
            groups[-1].append(word)
    return [*groups[0], *(word for option, *values in groups[1:] for word in _written(option, values, lists))]


def _written(option: str, values: list[str], lists: Mapping[str, bool]) -> list[str]:
    """Return an option, which may have a value behind an equals sign, and the words behind it."""
    if not values and option in SWITCHES:
        return [f"{option}={SWITCHES[option]}"]
    name, equals, value = option.partition("=")
    items = [value, *values] if equals else values
    if name in lists and items and items[0] and not items[0].startswith("["):
        joined = ", ".join(items)
        return [f"{name}=[{joined}]" if lists[name] or "," in joined else f"{name}={joined}"]
    return [option, *values]  # apart, as they were given: errors quote them


def _list_options(kind: type, prefix: str = "--") -> dict[str, bool]:
    """Return the options that take several words, with whether a single word is a list of one."""
    lists: dict[str, bool] = {}
    for name, hint in get_type_hints(kind).items():
        allowed = get_args(hint) if get_origin(hint) is UnionType else (hint,)
        if dataclasses.is_dataclass(hint):
            lists |= _list_options(hint, f"{prefix}{name}.")  # type: ignore[arg-type]  # a class, not an instance
        elif any(get_origin(part) is list for part in allowed):
            lists[prefix + name] = all(part is NoneType or get_origin(part) is list for part in allowed)
    return lists
