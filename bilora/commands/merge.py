"""``bilora merge``: a trained adapter folded into its base, as a model of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bilora.commands.verb import Verb
from bilora.files.whole_folders import new_folder
from bilora.runs.trained import open_trained


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
    merged.save_pretrained(str(folder))
    trained.tokenizer.own.save_pretrained(str(folder))
    print(f"model and tokenizer: {folder}")
    print(f"load it with {type(merged).__name__}.from_pretrained({str(folder)!r}); neither bilora nor peft is needed")
    return folder


MERGE = Verb(
    "merge", "Fold a trained adapter into its base: a plain transformers model.", MergeConfig, merge, positional="run"
)
