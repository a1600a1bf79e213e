"""What a finished run says of itself in files that others read: its state, its task, its cards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bilora.artifacts.model_card import CardFacts, write_card
from bilora.artifacts.scored_on import trainer_state
from bilora.data.rows import Rows
from bilora.files.formats import load_json, read_lines, write_json
from bilora.models.pretrained import Tokenizer
from bilora.tasks.kinds import write_task
from bilora.tasks.task import AnyTask


def describe_run(
    folder: Path, *, task: AnyTask, tokenizer: Tokenizer, train: Rows, validation: Mapping[str, Rows], max_length: int
) -> None:
    """Write ``trainer_state.json``, and into every adapter's folder its model card, its task and what it pads with."""
    # Read back: the state and the cards say what the files say, to the last digit.
    results = load_json(folder / "all_results.json")
    write_json(folder / "trainer_state.json", trainer_state(read_lines(folder / "metrics.jsonl"), results))
    sizes = {"train": len(train), **{name: len(rows) for name, rows in validation.items()}}
    for adapter in adapters_of(folder):
        write_task(adapter, task, max_length=max_length)
        tokenizer.save_filled_in(adapter)
        write_card(adapter, _facts(adapter, task=task, base=tokenizer, sizes=sizes, results=results))


def adapters_of(folder: Path) -> list[Path]:
    """Return the folders with adapters that a run wrote."""
    return [path for name in ("adapter", "lora") if (path := folder / name).is_dir()]


def _facts(
    adapter: Path, *, task: AnyTask, base: Tokenizer, sizes: dict[str, int], results: Mapping[str, Any]
) -> CardFacts:
    return CardFacts(
        task=task.name,
        hub_names=task.hub_names,
        base=base.place,
        revision=base.revision,
        method=results["method"],
        sizes=sizes,
        scores=results["metrics"],
        seed=results["seed"],
        versions=results["versions"],
        is_plain_lora=load_json(adapter / "adapter_config.json")["peft_type"] != "BILORA",
        labels=int(task.model_settings.get("num_labels", 0)),
        scored_on=results["scored_on"],
        has_tokenizer=(adapter / "tokenizer_config.json").is_file(),
    )
