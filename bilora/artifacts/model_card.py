"""The README.md of an adapter's folder, which is its model card on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml
from huggingface_hub import HfApi

from bilora.artifacts.scored_on import UPPER, VALIDATION, WHOLE_D2
from bilora.errors import DataError
from bilora.tasks.task import HubNames

SCORED = {
    VALIDATION: "the first validation set",
    UPPER: f"{WHOLE_D2} and by which the best step was chosen (no row was held out)",
}


class Named(Protocol):
    """A task, or what is known of one."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def hub_names(self) -> HubNames | None:
        """What the hub and transformers call the kind of task; None where that is not known."""


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Args:
        task: What was learned; its name and hub names are all that is asked for.
        base: Folder or hub id of the model below the adapter; empty where it has no name.
        method: How it was trained.
        sizes: Number of rows by set, ``train`` among them.
        scores: Metrics by name, of the rows that ``scored_on`` names; empty where none were taken.
        seed: Seed of the run, or None where that is not known.
        versions: Versions of the packages, by name.
        is_plain_lora: Whether stock PEFT loads the adapter.
        labels: Number of outputs of the model's head; 0 where the head is not a new one.
        scored_on: Whether the scores are of the first validation set or of D2, see :mod:`bilora.artifacts.scored_on`.
    """

    task: Named
    base: str
    method: str
    sizes: Mapping[str, int]
    scores: Mapping[str, float | None]
    seed: int | None
    versions: Mapping[str, str]
    is_plain_lora: bool
    labels: int = 0
    scored_on: str = VALIDATION


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown, with the block of YAML that the hub reads.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> facts = CardFacts(TASKS["mrpc"], "org/model", "bilora", {"train": 500}, {"accuracy": 0.8}, 0, {}, False)
        >>> model_card(facts).splitlines()[1]
        'base_model: org/model'
    """
    name = _plain(facts.task.name)
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(facts), sort_keys=True)}---",
        f"# {name}: {_plain(facts.method)} adapter",
        f"An adapter for {_base(facts)}, trained with `bilora` (arXiv 2403.13037).",
        "## Data\n\n" + _table(("set", "rows"), _sizes(facts)),
        f"## Scores\n\n{_scores(facts)}",
        f"## How to load it\n\n{_loading(facts)}",
        "## Versions\n\n" + _table(("package", "version"), list(facts.versions.items())),
    ]
    return "\n\n".join(parts) + "\n"


def write_card(folder: Path, facts: CardFacts) -> None:
    """Write the card, in place of the one that PEFT wrote."""
    (folder / "README.md").write_text(model_card(facts), encoding="utf-8")


def _front_matter(facts: CardFacts) -> dict[str, Any]:
    block: dict[str, Any] = {"library_name": "peft", "tags": ["bilora", "lora"]}
    # A folder is no name that the hub could follow, and it would refuse the card.
    if facts.base and not Path(facts.base).is_dir():
        block["base_model"] = facts.base
    if facts.task.hub_names is not None:
        block["pipeline_tag"] = facts.task.hub_names.pipeline
    return block


def _base(facts: CardFacts) -> str:
    return f"`{_plain(facts.base)}`" if facts.base else "a model without a name"


def _scores(facts: CardFacts) -> str:
    if not facts.scores:
        return f"None were taken, in {_seed(facts.seed)}."
    table = _table(("metric", "value"), [(name, _number(value)) for name, value in facts.scores.items()])
    return f"On {SCORED[facts.scored_on]}, {_seed(facts.seed)}.\n\n{table}"


def _sizes(facts: CardFacts) -> list[tuple[str, str]]:
    return [(f"{name}, a part of train" if name == UPPER else name, f"{each:,}") for name, each in facts.sizes.items()]


def _loading(facts: CardFacts) -> str:
    made = "AutoModel" if facts.task.hub_names is None else facts.task.hub_names.auto_class
    heads = f", num_labels={facts.labels}" if facts.labels else ""
    first = "" if facts.is_plain_lora else "import bilora  # tells PEFT what a BILORA adapter is\n"
    note = (
        "Stock PEFT loads it; this library is not needed:"
        if facts.is_plain_lora
        else "With this library (`pip install bilora`). The folder `lora/` of the run and what `bilora export` writes "
        "are the same adapter for stock PEFT without it:"
    )
    return (
        f"{note}\n\n```python\n{first}from peft import PeftModel\nfrom transformers import {made}, AutoTokenizer\n\n"
        f"base = {facts.base!r}\ntokenizer = AutoTokenizer.from_pretrained(base)\n"
        f'model = PeftModel.from_pretrained({made}.from_pretrained(base{heads}), "FOLDER")\n```'
    )


def _seed(seed: int | None) -> str:
    return "one run" if seed is None else f"one run with seed {seed}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {_plain(name)} | {_plain(value)} |" for name, value in rows)])


def _plain(text: str) -> str:
    """Return a text that is one cell of a table and no markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def push_to_hub(folder: Path, *, repository: str) -> str:
    """Upload an adapter's folder, card included, and return its address.

    A repository that is not there yet is made, and private; one that is there keeps its visibility.

    Args:
        folder: The folder.
        repository: ``name/model`` on the hub.

    Raises:
        DataError: The hub refuses, or cannot be reached; the folder is as it was.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Upload adapter")
    except Exception as error:  # the hub's clients raise classes of several libraries, which share no root
        raise DataError(
            f"{folder} was not uploaded to {repository!r} ({type(error).__name__}: {' '.join(str(error).split())}); it "
            "is whole on this machine: log in with 'hf auth login', or give another --hub-model-id"
        ) from error
    return f"{api.endpoint}/{repository}"
