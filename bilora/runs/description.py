"""What a finished run says of itself in files that others read: its state, its task, its cards."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bilora.artifacts.model_card import CardFacts, write_card
from bilora.artifacts.scored_on import trainer_state
from bilora.data.rows import Rows
from bilora.files.formats import read_lines
from bilora.tasks.kinds import write_task
from bilora.tasks.task import AnyTask


def describe_run(
    folder: Path, *, task: AnyTask, base: str, train: Rows, validation: Mapping[str, Rows], max_length: int
) -> None:
    """Write ``trainer_state.json``, and into every adapter's folder its model card and ``bilora_task.json``.

    Args:
        folder: Folder of the run, with ``metrics.jsonl``, ``all_results.json`` and its adapters.
        task: What was learned.
        base: Folder or hub id of the model.
        train: The rows that were trained on.
        validation: The rows of each validation set.
        max_length: Largest number of tokens of a row.
    """
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    state = trainer_state(read_lines(folder / "metrics.jsonl"), results)
    (folder / "trainer_state.json").write_text(json.dumps(state, allow_nan=False, indent=2) + "\n", encoding="utf-8")
    sizes = {"train": len(train), **{name: len(rows) for name, rows in validation.items()}}
    for adapter in adapters_of(folder):
        write_task(adapter, task, max_length=max_length)
        config = folder / "adapter" / "config.json"
        if adapter.name != "adapter" and config.is_file():
            shutil.copy(config, adapter)
        write_card(adapter, _facts(adapter, task=task, base=base, sizes=sizes, results=results))


def adapters_of(folder: Path) -> list[Path]:
    """Return the folders with adapters that a run wrote."""
    return [path for name in ("adapter", "lora") if (path := folder / name).is_dir()]


def _facts(adapter: Path, *, task: AnyTask, base: str, sizes: dict[str, int], results: Mapping[str, Any]) -> CardFacts:
    peft_type = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["peft_type"]
    return CardFacts(
        task=task.name,
        hub_names=task.hub_names,
        base=base,
        method=results["method"],
        sizes=sizes,
        scores=results["metrics"],
        seed=results["seed"],
        versions=results["versions"],
        is_plain_lora=peft_type != "BILORA",
        labels=int(task.model_settings.get("num_labels", 0)),
        scored_on=results["scored_on"],
    )
