"""What the verbs of the command have in common: words to a config, work to an exit code."""

import itertools
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_origin, get_type_hints

from bilora.commands.command_line import parse_config
from bilora.commands.exit_codes import exit_code
from bilora.commands.usual_names import with_precision
from bilora.errors import SettingsError
from bilora.models.pretrained import quiet_transformers


@dataclass(frozen=True)
class Verb:
    """A verb of the command ``bilora``: ``work`` is done with the ``config`` that its words make."""

    name: str
    # One line.
    help: str
    config: type
    # Does it; what it raises decides the exit code.
    work: Callable[..., object]
    # The setting that the words before the first option give.
    positional: str | None = None
    # Settings by other names that they may be given by, without what follows a dot.
    aliases: Mapping[str, str] = field(default_factory=dict)
    # Words to put before those of the user, given these.
    before: Callable[[Sequence[str]], Sequence[str]] = lambda argv: ()
    # Settings that are no options, by the field whose dataclass has them.
    left_out: Mapping[str, Collection[str]] = field(default_factory=dict)
    # Whether the processes that torchrun starts do the work together; otherwise they are refused.
    together: bool = False
    # What an interrupt is answered with.
    interrupted: str = "interrupted"

    def run(self, argv: Sequence[str]) -> int:
        """Run the verb and return its exit code; words that make no config end the program, with code 2."""
        quiet_transformers()
        return exit_code(self._parse_and_work, argv, program=f"bilora {self.name}", interrupted=self.interrupted)

    def _parse_and_work(self, argv: Sequence[str]) -> None:
        config = self.parse(argv)
        count = int(os.environ.get("WORLD_SIZE", "1"))
        # Each would do all of it, and write what the others write.
        if count > 1 and not self.together:
            raise SettingsError(
                f"bilora {self.name} runs in one process, and torchrun has started {count}; several train together in "
                "bilora train, in the programs of benchmarks/, and in fit()"
            )
        self.do(config, argv)

    def do(self, config: Any, argv: Sequence[str]) -> None:
        """Do the work of a config, which the words made."""
        self.work(config)

    def parse(self, argv: Sequence[str]) -> Any:
        """Return the config that the words make."""
        words = [self._full(word) for word in with_precision(argv)]
        values = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
        if self.positional and values:
            is_list = get_origin(get_type_hints(self.config)[self.positional]) is list
            # As JSON: a comma in the name of a file does not part a list.
            words[: len(values)] = [f"--{self.positional}", *([json.dumps(values)] if is_list else values)]
        positional = "" if self.positional is None else f" {self.positional.upper()}"
        return parse_config(
            self.config,
            words,
            prog=f"bilora {self.name}",
            description=self.help,
            usage=f"bilora {self.name}{positional} [options]",
            before=self.before(argv),
            left_out=self.left_out,
            also=self.aliases,
        )

    def _full(self, word: str) -> str:
        """Return a word with its option's full name."""
        # DOTALL: the value behind an equals sign may have several lines.
        option = re.match(r"--([\w-]+)(.*)", word, flags=re.DOTALL)
        name = option[1].replace("-", "_") if option else ""
        return f"--{self.aliases[name]}{option[2]}" if option and name in self.aliases else word
