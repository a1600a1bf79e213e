"""A program that compares methods by a config of its own, as those of ``benchmarks/`` do."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bilora.commands.command_line import parse_config
from bilora.commands.exit_codes import FINISHED_ARE_KEPT, exit_code
from bilora.compare.comparison import compare_methods
from bilora.files.formats import read_yaml
from bilora.models.pretrained import quiet_transformers
from bilora.processes.group import join_processes
from bilora.runs.resume import CONFIG, resumed_folder, words_of_then
from bilora.runs.several_runs import SeveralRuns


@dataclass(frozen=True)
class Program:
    """A program that compares methods."""

    # Of its file, for help and errors.
    name: str
    description: str
    # The YAML file that is read unless one of the options `naming` is given.
    default_config: Path
    naming: Sequence[str] = ("--config", "--task", "--train-file", "--train_file")

    def run(self, argv: Sequence[str]) -> int:
        """Run the command and return its exit code, see :func:`exit_code`."""
        quiet_transformers()
        return exit_code(self._compare, argv, program=self.name, interrupted=FINISHED_ARE_KEPT)

    def default_words(self, argv: Sequence[str]) -> list[str]:
        """Return the words that read the default config, unless the user's name a config or where the rows are."""
        if (folder := resumed_folder(argv)) is not None:
            return ["--config", str(folder / CONFIG), *words_of_then(read_yaml(folder / CONFIG))]
        # Its settings are for its own rows: they are not mixed with those for the user's.
        named = any(word.split("=")[0] in self.naming for word in argv)
        return [] if named else ["--config", str(self.default_config)]

    def parse(self, argv: Sequence[str]) -> SeveralRuns:
        """Return the config that the words make."""
        before = self.default_words(argv)
        return parse_config(SeveralRuns, argv, prog=self.name, description=self.description, before=before)

    def _compare(self, argv: Sequence[str]) -> None:
        config = self.parse(argv)
        processes = join_processes(device=config.run.device)
        if argv and processes.is_first:
            # Not before the words are understood: what --print_config writes can be read back as YAML.
            print("command:", shlex.join(["python", f"benchmarks/{self.name}", *argv]))
        compare_methods(config, processes)
