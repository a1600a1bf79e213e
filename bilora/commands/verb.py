"""What the verbs of the command have in common: words to a config, work to an exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bilora.commands.command_line import parse_config
from bilora.commands.exit_codes import exit_code
from bilora.errors import SettingsError
from bilora.models.pretrained import quiet_transformers


def _nothing(argv: Sequence[str]) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Verb:
    """A verb of the command ``bilora``.

    Args:
        name: The verb.
        help: What it does, one line.
        config: The dataclass that its words make.
        work: Does it, given that config; what it raises decides the exit code.
        positional: The setting that the first word without a name gives.
        aliases: Other names of options.
        before: Words to put before those of the user, given these.
        together: Whether the processes that torchrun starts do the work together; otherwise they are refused.

    Example:
        >>> from bilora.engines.settings import LevelSettings
        >>> verb = Verb("show", "Print.", LevelSettings, lambda config: print(config.batch_size))
        >>> verb.run(["--batch-size", "4"])
        4
        0
    """

    name: str
    help: str
    config: type
    work: Callable[[Any], object]
    positional: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[Sequence[str]], Sequence[str]] = _nothing
    together: bool = False

    def run(self, argv: Sequence[str]) -> int:
        """Run the verb and return its exit code.

        Raises:
            SystemExit: With code 2 where the words make no config, with 0 after ``--help`` or ``--print_config``.
        """
        quiet_transformers()
        debug = any(word == "--debug" or word.lower() == "--debug=true" for word in argv)
        return exit_code(lambda: self._work(argv), program=f"bilora {self.name}", debug=debug)

    def _work(self, argv: Sequence[str]) -> None:
        config = self.parse(argv)
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count > 1 and not self.together:
            raise SettingsError(
                f"bilora {self.name} runs in one process, and torchrun has started {count}; several train together in "
                "bilora train, in the programs of benchmarks/, and in fit()"
            )
        self.work(config)

    def parse(self, argv: Sequence[str]) -> Any:
        """Return the config that the words make."""
        words = [self._named(word) for word in argv]
        if self.positional and words and not words[0].startswith("-"):
            words.insert(0, f"--{self.positional}")
        place = "" if self.positional is None else f" {self.positional.upper()}"
        return parse_config(
            self.config,
            words,
            prog=f"bilora {self.name}",
            description=self.help,
            usage=f"bilora {self.name}{place} [options]",
            before=self.before(argv),
        )

    def _named(self, word: str) -> str:
        name, equals, value = word.partition("=")
        return self.aliases.get(name, name) + equals + value
