"""``bilora init``: a commented config for a task, a model and a method."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from bilora.commands.init_config import commented_yaml
from bilora.commands.train_config import TrainConfig
from bilora.commands.verb import Verb
from bilora.files.whole_folders import new_file
from bilora.problems.catalog import find_variant
from bilora.runs.config import has_formulation


@dataclass(frozen=True)
class InitConfig:
    """What the config is for.

    Args:
        task: A task by name; None with a ``train_file``, or for the embedded one.
        train_file: A file of labelled rows.
        validation_file: The validation rows that belong to it.
        model: Hub id or folder of a pre-trained model; None is the embedded MiniLM.
        method: Name of a variant.
        output: The YAML file to write; None prints it.
    """

    task: str | None = None
    train_file: str | None = None
    validation_file: str | None = None
    model: str | None = None
    method: str = "bilora"
    output: str | None = None


def init(config: InitConfig) -> None:
    """Write the config, and say how it is used."""
    output = None if config.output is None else new_file(config.output)
    text = init_text(config)
    if output is None:
        sys.stdout.write(text)
        return
    output.write_text(text, encoding="utf-8")
    print(f"{output}: change what you like, and run: bilora train --config {output}")


def init_text(config: InitConfig) -> str:
    """Return the config as commented YAML.

    Raises:
        SettingsError: The task, the method or a file's settings are not allowed.

    Example:
        >>> "lower:" in init_text(InitConfig(task="mrpc", method="lora"))
        True
    """
    chosen = TrainConfig(
        task=config.task,
        train_file=config.train_file,
        validation_file=config.validation_file,
        model=config.model,
        method=config.method,
        method_settings={config.method: {}},
    )
    settings = chosen.settings_of(config.method)
    said = f"# bilora train --config FILE: {config.method}"
    kind = "bi-level" if find_variant(config.method).upper else "single-level"
    values = ", with singular values" if has_formulation(config.method) else ""
    sections = {f"method_settings.{config.method}": settings}
    return f"{said} ({kind}{values}). Each setting can be left out.\n" + commented_yaml(chosen, sections=sections)


INIT = Verb("init", "Write a commented config for a task, a model and a method.", InitConfig, init)
