"""``bilora export`` and ``bilora merge``: a trained adapter for programs without this library."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilora import BiloraConfig, export_lora
from bilora.adapter.export import check_folder
from bilora.adapter.pruning import Cut, cut_ranks
from bilora.adapter.ranks import build_rank_rule
from bilora.commands.verb import Verb
from bilora.errors import SettingsError
from bilora.files.formats import write_whole
from bilora.files.whole_folders import new_folder, write_files
from bilora.runs.trained import Trained, open_trained
from bilora.tasks.kinds import write_task

CUT_NOTE = "Ranks were cut in the export; the scores above are those of the adapter before that."


@dataclass(frozen=True)
class ExportConfig:
    """What is exported where, and which ranks are kept.

    Args:
        run: Folder of a run, or of an adapter.
        output: Folder for the LoRA adapter; one with an earlier export is replaced.
        rank: Largest rank of a layer; the largest terms stay.
        ranks: A rule that chooses the ranks: a mapping with ``name`` (threshold, energy, budget, mean) and its own
            settings.
        uniform_rank: Whether every layer is padded with zeros to the largest rank, for readers without
            ``rank_pattern``.
        model: The base model, where it is no longer where it was in training.
        task_type: ``package.module:NAME`` of your own kind of task, where the adapter was trained for one.
    """

    run: str
    output: str
    rank: int | None = None
    ranks: dict[str, Any] | None = None
    uniform_rank: bool = False
    model: str | None = None
    task_type: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.rank is not None and self.rank < 1:
            raise SettingsError(f"rank is {self.rank}; it must be at least 1")
        if self.rank is not None and self.ranks is not None:
            raise SettingsError("rank and ranks both choose the ranks; leave one of them out")
        # A fault in the rule is told before a model is read.
        if self.ranks is not None:
            build_rank_rule(self.ranks)

    @property
    def cut(self) -> Cut | None:
        """How ranks are cut, or None where all terms stay."""
        if self.ranks is not None:
            return Cut(build_rank_rule(self.ranks))
        if (largest := self.rank) is None:
            return None
        # A layer may have been cut to fewer terms already.
        return Cut(lambda magnitudes: {name: min(largest, len(terms)) for name, terms in magnitudes.items()})


def export(config: ExportConfig) -> Path:
    """Write the adapter, print the ranks, and return the folder."""
    folder = check_folder(config.output)
    # On the CPU: no row goes through the model, and a few small products are all that is computed.
    trained = open_trained(config.run, model=config.model, device="cpu", task_type=config.task_type)
    adapter = trained.model.peft_config[trained.model.active_adapter]
    if not isinstance(adapter, BiloraConfig):
        raise SettingsError(
            f"{trained.adapter} is a {type(adapter).__name__} adapter, and not one of BiLoRA; stock PEFT loads it "
            "as it is, and bilora merge folds it into its base"
        )
    if config.cut is not None:
        kept, spectrum = config.cut.choose(trained.model)
        cut_ranks(trained.model, kept)
        print(spectrum.table())
    done = export_lora(trained.model, folder, uniform_rank=config.uniform_rank)
    _write_rest(trained, folder, note=None if config.cut is None else CUT_NOTE)
    print(f"ranks {min(done.ranks.values())} to {max(done.ranks.values())} in {len(done.ranks)} layers: {folder}")
    if not config.uniform_rank and len(set(done.ranks.values())) > 1:
        print("note: llama.cpp and vLLM read one rank for all layers; --uniform-rank pads with zeros to the largest")
    print(f"load it with PeftModel.from_pretrained(model, {str(folder)!r}); bilora is not needed for it")
    return folder


def _write_rest(trained: Trained, folder: Path, *, note: str | None) -> None:
    """Write the model card, and what makes the folder one that ``bilora evaluate`` and ``predict`` take."""
    write_task(folder, trained.task, max_length=trained.max_length)
    trained.tokenizer.save_filled_in(folder)
    # That which the run has written beside its own plain adapter; an adapter alone has none.
    source, card = trained.adapter.parent / "lora" / "README.md", folder / "README.md"
    if source.is_file():
        write_whole(card, source.read_text(encoding="utf-8") + ("" if note is None else f"\n{note}\n"))


EXPORT = Verb(
    "export", "Write a trained adapter as plain LoRA, which stock PEFT loads.", ExportConfig, export, positional="run"
)


@dataclass(frozen=True)
class MergeConfig:
    """What is merged where.

    Args:
        run: Folder of a run, or of an adapter.
        output: Folder for the model and its tokenizer.
        model: The base model, where it is no longer where it was in training.
    """

    run: str
    output: str
    model: str | None = None


def merge(config: MergeConfig) -> Path:
    """Write the merged model and its tokenizer, and return the folder."""
    folder = new_folder(config.output)
    trained = open_trained(config.run, model=config.model, device="cpu")
    merged = trained.model.merge_and_unload()

    def write(scratch: Path) -> None:
        merged.save_pretrained(str(scratch))
        trained.tokenizer.own.save_pretrained(str(scratch))

    write_files(folder, write)
    print(f"model and tokenizer: {folder}")
    print(f"load it with {type(merged).__name__}.from_pretrained({str(folder)!r}); neither bilora nor peft is needed")
    return folder


MERGE = Verb(
    "merge", "Fold a trained adapter into its base: a plain transformers model.", MergeConfig, merge, positional="run"
)
