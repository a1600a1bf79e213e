"""From a command line to a config: YAML files with dotted overrides, strict keys, one-line errors."""

import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from bilora.commands.usual_names import near_option
from bilora.engines.settings import RATES, LevelSettings
from bilora.errors import BiloraError, SettingsError
from bilora.files.formats import read_yaml
from bilora.problems.catalog import DEFAULT_METHOD
from bilora.runs.config import RunConfig
from bilora.runs.several_runs import SeveralRuns, SharedSettings
from bilora.settings.lookup import TRUST
from bilora.settings.sections import one_line, refuse_nulls, refuse_plain_sections
from bilora.settings.strict_yaml import STRICT, refuse_too_much, strict_yaml

Config = TypeVar("Config")

# Exit code for anything wrong with what the user gave; argparse ends with 2 as well.
BAD_INPUT = 2


class OneLineParser(ArgumentParser):
    """An argument parser whose errors are one line with a suggestion, instead of the whole usage."""

    # What is parsed, by which an error knows whether it is about a file.
    words: Sequence[str] = ()
    # Options by other names, which are replaced before anything is parsed.
    also: Sequence[str] = ()

    def error(self, message: str, *args: Any, **kwargs: Any) -> NoReturn:
        """Print what is wrong and end with exit code 2."""
        known = [*(option for action in self._actions for option in action.option_strings), *self.also]
        asked = _option_in(message)
        # An option that is there but has no value, or a wrong one, would be told its own name.
        near = "" if asked in known else near_option(asked, known)
        print(f"{self.prog}: error: {_of_files(self.words, one_line(message))}{near}", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def _option_in(message: str) -> str:
    """Return the option that a message of jsonargparse is about, or an empty string."""
    # The exceptions of jsonargparse carry nothing but their text.
    if value := re.match(r"Parser key \"([\w.]+)\"", message):
        return f"--{value[1]}"
    if inside := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
        return f"--{inside[1]}.{inside[2]}"
    option = re.search(r"--[\w.\-]+|'[\w.]+'", message)
    return "" if option is None else "--" + option[0].strip("'").removeprefix("--")


def _of_files(words: Sequence[str], message: str) -> str:
    """Return a message with the files of settings before it, unless it is about what stands beside them."""
    files = _config_files(words)
    options = {word.partition("=")[0].removeprefix("--") for word in words if not _is_config(word)}
    # The exceptions of jsonargparse do not say where a value came from.
    if not files or any(name and re.search(rf"(?<![\w.]){re.escape(name)}\b", message) for name in (*options, *files)):
        return message
    return f"{', '.join(files)}: {message}"


def parse_config(
    kind: type[Config],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    usage: str | None = None,
    before: Sequence[str] = (),
    left_out: Mapping[str, Collection[str]] | None = None,
    also: Iterable[str] = (),
) -> Config:
    """Return the config that the words of a command line make, or end the program after one line with code 2."""
    # Every field is an option, a nested one with a dot (--lower.learning-rate 5e-4); the settings of the run that
    # SeveralRuns share have no `run.` before them. `before` are defaults, which what stands later overrides; `left_out`
    # names settings that are no options, by the field whose dataclass has them; `also` has other names of options.
    # An abbreviated option would be taken without a word, and could mean another one tomorrow.
    parser = OneLineParser(
        prog=prog,
        usage=usage,
        description=description,
        epilog=EPILOG,
        default_env=False,
        allow_abbrev=False,
        parser_mode=STRICT,
    )
    parser.also = [f"--{name}" for name in also]
    parser.add_argument("--config", action="config", help="A YAML file of settings; later words override it.")
    naming = ONE_RUN if issubclass(kind, RunConfig) else SEVERAL_RUNS if issubclass(kind, SeveralRuns) else {}
    flat = RunConfig if naming is SEVERAL_RUNS else kind
    if not naming:
        # One by one: of an object jsonargparse would take all that it holds for settings.
        left_out = {name: () for name, hint in get_type_hints(kind).items() if hint is RunConfig} | dict(left_out or {})
    parser.add_class_arguments(flat, None, as_group=False, skip={*(left_out or {}), *naming} - {"seeds"})
    for name, text in naming.items():
        # Files have both forms: a run of its own is written with one method and one seed, and was written with lists.
        types: Any = str | list[str] if name == "method" else int | list[int] | None
        default = (DEFAULT_METHOD if flat is kind else ["bilora", "lora"]) if name == "method" else None
        parser.add_argument(f"--{name}", type=types, default=default, help=text)
    for name, names in (left_out or {}).items():
        hint = get_type_hints(kind)[name]
        parser.add_class_arguments(SharedSettings if hint is RunConfig else hint, name, skip=set(names))
    parser.set_defaults(_open_settings(flat, left_out or {}))
    words = _normal_form([*before, *argv], _list_options(flat) | {f"--{name}": True for name in naming})
    # Of the two names of one setting, words take the one that files of today have: then what stands later wins.
    # Not in a comparison, where 5 is a number of seeds.
    if naming:
        seed = "--seed" if naming is ONE_RUN else "--seeds"
        words = [re.sub(r"^--seeds?(?==|$)", seed, word) for word in words]
    try:
        _check_files(flat, words)
    except (BiloraError, yaml.YAMLError) as error:
        parser.error(f"config: {error}")
    parser.words = words
    try:
        values = parser.parse_args(_with_whole_sections(parser, words))
    except OverflowError:  # jsonargparse makes a float of a whole number, and does not say of which
        parser.error("a number is beyond what a setting can hold (1.8e308); write a smaller one")
    del values["config"]
    try:
        refuse_plain_sections(flat, values.as_dict(), what="config")
        return _built(kind, parser, values, named=bool(naming))
    except BiloraError as error:
        raise type(error)(_of_files(words, str(error))) from error


def _check_files(kind: type, words: Sequence[str]) -> None:
    """Raise with a file's name what is wrong with it as a whole, which jsonargparse would tell without the name."""
    for word in words:
        refuse_too_much(word.partition("=")[2] or word)
    for path in map(Path, _config_files(words)):
        if not path.exists():
            raise SettingsError(f"there is no file {path}; bilora init --output {path} writes one")
        settings = read_yaml(path)
        if not settings:
            raise SettingsError(f"{path} holds no settings; bilora init writes a file with all of them")
        refuse_plain_sections(kind, settings, what=str(path))


def _config_files(words: Sequence[str]) -> list[str]:
    following = itertools.pairwise([*words, ""])
    names = [after if word == "--config" else word.partition("=")[2] for word, after in following if _is_config(word)]
    return [name for name in names if name]


def _is_config(word: str) -> bool:
    return word == "--config" or word.startswith("--config=")


def _open_settings(kind: type, fields: Iterable[str]) -> dict[str, None]:
    """Return the options of the two levels that are open until the method is known, with None for a default."""
    # jsonargparse takes the defaults of a nested dataclass from an object of it, in which they are decided already.
    prefixes = [f"{name}." for name in fields] + ([""] if issubclass(kind, RunConfig) else [])
    return {
        f"{prefix}{level}.{name}": None for prefix in prefixes for level in RATES for name in LevelSettings.DEFAULTS
    }


EPILOG = (
    f"{TRUST}  Let files, such as a config or a run's folder, name code to import and send data away. Without it, only "
    "what the options themselves name is imported."
)

# Which run is made, with the help; each may be written as a list of one.
ONE_RUN = {
    "method": "Name of the variant, or ``package.module:NAME``.",
    "seed": "Of training rows, split, data order and dropout masks; by default 0.",
    "seeds": "The same as seed.",
}

# Which runs are made, with the help; a list of one may be written without brackets.
SEVERAL_RUNS = {
    "method": "Names of variants, or ``package.module:NAME``; each is run with every seed.",
    "seeds": "One run per seed and method; by default 0 and 1.",
    "seed": "The same as seeds.",
}


def _built(kind: type[Config], parser: ArgumentParser, values: Any, *, named: bool) -> Config:
    if not named:
        refuse_nulls(kind, values.as_dict(), what="config")
        return kind(**parser.instantiate(values).as_dict())
    method, seed, seeds = values.pop("method"), values.pop("seed"), values.pop("seeds")
    if issubclass(kind, RunConfig):
        only = seeds if seed is None else seed
        which = {"method": _single(method, "method"), "seed": 0 if only is None else _single(only, "seed")}
        refuse_nulls(kind, {**values.as_dict(), **which}, what="config")
        return kind(**parser.instantiate(values).as_dict(), **which)
    refuse_nulls(RunConfig, values.as_dict(), what="config")
    all_seeds = seed if seeds is None else seeds
    which = {"method": _listed(method), "seeds": [0, 1] if all_seeds is None else _listed(all_seeds)}
    which["run"] = SharedSettings(**parser.instantiate(values).as_dict())
    return kind(**which)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _single(value: Any, name: str) -> Any:
    if len(values := _listed(value)) != 1:
        raise SettingsError(f"config: {name} is {value!r}; one run has one {name}; bilora compare runs several")
    return values[0]


def _with_whole_sections(parser: ArgumentParser, words: list[str]) -> list[str]:
    """Return the words with ``--method_settings.NAME.setting`` merged into the sections that files and words have."""
    # jsonargparse would put a section of that one setting in the place of what was said before.
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
    # Without --print_config, at which the parser would print and end before the dotted words have been read.
    settled = parser.parse_args([word for word in rest if not word.startswith("--print_config")])
    sections: dict[str, dict[str, Any]] = {}
    for field, method, name, value in dotted:
        methods = sections.setdefault(field, dict(settled[field]))
        methods[method] = {**methods.get(method, {}), name: _plain_value(value)}
    return [*rest, *(f"--{field}={json.dumps(methods)}" for field, methods in sections.items())]


def _plain_value(word: str) -> Any:
    try:
        # JSON first: to PyYAML 5e-4 is a string.
        return json.loads(word)
    except ValueError:
        return strict_yaml(word)


# Options that may stand without a value, and the value they then have.
SWITCHES = {
    **dict.fromkeys(("--debug", "--allow_config_change", "--keep_best", "--shard_base"), "true"),
    **dict.fromkeys(("--overwrite", "--uniform_rank", "--no_texts"), "true"),
    "--resume": "auto",
}


def _normal_form(argv: Sequence[str], lists: Mapping[str, bool]) -> list[str]:
    """Return the words as ``--option_name=value``, several words of one of the ``lists`` joined to ``[a, b]``."""
    # An option and the words behind it; the first group is of the words before any option.
    groups: list[list[str]] = [[]]
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
    # Apart, as they were given: errors quote them.
    return [option, *values]


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
