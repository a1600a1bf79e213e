"""``bilora init``: a commented config for a task, a model and a method."""

import dataclasses
import sys
import textwrap
from dataclasses import dataclass
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from bilora.commands.train_config import TrainConfig
from bilora.commands.usual_names import FILES, aliases_of
from bilora.commands.verb import Verb
from bilora.files.formats import write_whole
from bilora.files.whole_folders import new_file
from bilora.problems.catalog import DEFAULT_METHOD, find_variant
from bilora.runs.config import has_formulation
from bilora.settings.sections import resolved

WIDTH = 110


@dataclass(frozen=True)
class InitConfig:
    """What the config is for.

    Args:
        task: A task by name; None with a ``train_file``, or for the embedded one.
        train_file: A file of labelled rows.
        validation_file: The validation rows that belong to it.
        group_column: The column by which rows belong together, such as those of one customer; see ``bilora train``.
        model: Hub id or folder of a pre-trained model; None is the embedded MiniLM.
        revision: Its branch, tag or commit on the hub.
        method: Name of a variant.
        output: The YAML file to write; None prints it.
    """

    task: str | None = None
    train_file: str | None = None
    validation_file: str | None = None
    group_column: str | None = None
    model: str | None = None
    revision: str | None = None
    method: str = DEFAULT_METHOD
    output: str | None = None


def init(config: InitConfig) -> None:
    """Write the config, and say how it is used."""
    output = None if config.output is None else new_file(config.output)
    text = init_text(config)
    if output is None:
        sys.stdout.write(text)
        return
    write_whole(output, text)
    print(f"{output}: change what you like, and run: bilora train --config {output}")


def init_text(config: InitConfig) -> str:
    """Return the config as commented YAML; raise SettingsError where the task, the method or a file is not allowed."""
    given = dataclasses.asdict(config)
    # It would be the folder of the run, and is the file that the text goes into.
    del given["output"]
    train = TrainConfig(**given)
    kind = "bi-level" if find_variant(config.method).upper else "single-level"
    values = ", with singular values" if has_formulation(config.method) else ""
    head = f"# bilora train --config FILE: {config.method} ({kind}{values}). Each setting can be left out."
    return "\n".join([head, *_commented(train, method=config.method)]) + "\n"


def _commented(settings: Any, *, method: str = "", indent: str = "") -> list[str]:
    """Return every field of a dataclass as lines of YAML, with what its docstring says as a comment above it."""
    texts, lines = setting_texts(type(settings)), []
    for field in dataclasses.fields(settings):
        name, value = field.name, getattr(settings, field.name)
        lines += [f"{indent}# {line}" for line in textwrap.wrap(texts[name], WIDTH - len(indent))]
        if dataclasses.is_dataclass(value):
            lines += [f"{indent}{name}:", *_commented(value, indent=indent + "  ")]
        elif name == "method_settings":
            # Those of the one method, with their defaults, though the config itself has none of them.
            of_method = _commented(settings.settings_of(method), indent="    ")
            lines += [f"{name}:", f"  {method}:" if of_method else f"  {method}: {{}}", *of_method]
        else:
            # On one line, however long: the comment above is wrapped, a value need not be.
            text = yaml.safe_dump(resolved(value), default_flow_style=True, width=10_000, sort_keys=False)
            # Behind a value that stands alone PyYAML ends the document.
            text = text.removesuffix("...\n").strip()
            lines.append(f"{indent}{name}: {text}")
    return lines


def setting_texts(kind: type) -> dict[str, str]:
    """Return what the docstrings of a dataclass and of those above it say of each setting."""
    # By the parser of the command line, which gathers them: a comment says what --help says.
    parser = ArgumentParser()
    parser.add_class_arguments(kind, None, as_group=False)
    texts = {action.dest: action.help or "" for action in parser._actions}
    # Of a section, the parser's own option says how a file of it is read.
    texts |= {name: f"{group.title}." for name, group in (parser.groups or {}).items()}
    return {name: " ".join(text.replace("``", "").split()) for name, text in texts.items()}


INIT = Verb(
    "init",
    "Write a commented config for a task, a model and a method.",
    InitConfig,
    init,
    aliases=aliases_of(InitConfig, **FILES),
)
