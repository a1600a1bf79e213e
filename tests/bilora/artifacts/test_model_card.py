"""Model cards: what they say is of the run, the hub can read them, and names in them are no markup."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from bilora.artifacts.model_card import CardFacts, model_card
from bilora.tasks.catalog import TASKS, TOKEN_TASKS

MRPC = TASKS["mrpc"].hub_names
FACTS = CardFacts("mrpc", MRPC, "org/model", "bilora", {"train": 3668}, {"f1": None}, 0, {"peft": "1"}, False, 2)


def front_matter(card: str) -> Any:
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize(("name", "plain"), [("adapter", False), ("lora", True)])
def test_a_run_has_its_numbers_in_the_card(command_run: Any, name: str, plain: bool) -> None:
    card = (command_run.folder / name / "README.md").read_text(encoding="utf-8")
    results = json.loads((command_run.folder / "all_results.json").read_text(encoding="utf-8"))
    assert f"| accuracy | {results['score']:.4f} |" in card
    assert "| train | 120 |" in card
    assert "| d2, a part of train | 24 |" in card
    assert "On D2, the part of the training rows that the upper level was trained on too" in card
    assert "validation" not in card
    assert "one run with seed 3" in card
    assert ("import bilora" in card) is not plain
    assert front_matter(card)["pipeline_tag"] == "text-classification"
    assert "base_model" not in front_matter(card)  # a folder of this machine, which the hub would refuse


def test_the_hub_reads_it() -> None:
    read = ModelCard(model_card(FACTS))
    assert read.data.base_model == "org/model"
    assert read.data.library_name == "peft"
    assert read.data.eval_results is None  # its one score is undefined
    scored = ModelCard(model_card(replace(FACTS, scores={"accuracy": 0.81234, "f1": None}, scored_on="d2")))
    [result] = scored.data.eval_results or []
    assert (result.task_type, result.metric_type, result.metric_value) == ("text-classification", "accuracy", 0.81234)
    assert (result.dataset_name, result.dataset_split) == ("mrpc", "d2")
    tokens = next(iter(TOKEN_TASKS.values())).hub_names
    assert model_card(replace(FACTS, hub_names=tokens)).count("token-classification") == 1


def test_the_code_in_it_is_code_and_undefined_scores_are_said() -> None:
    card = model_card(FACTS)
    [code] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    compile(code, "card", "exec")
    assert "num_labels=2" in code
    assert "| f1 | undefined |" in card


def test_a_tokenizer_beside_the_adapter_is_the_one_to_load() -> None:
    assert "AutoTokenizer.from_pretrained(base)" in model_card(FACTS)
    card = model_card(replace(FACTS, has_tokenizer=True))
    [code] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    compile(code, "card", "exec")
    assert 'AutoTokenizer.from_pretrained("FOLDER")' in code
    assert "model.config.pad_token_id = tokenizer.pad_token_id" in code.splitlines()[-1]


def test_names_are_no_markup() -> None:
    card = model_card(replace(FACTS, task="a|b\n# <script>`x`", scores={"a|<b>": 1.0}))
    assert "<script>" not in card
    assert "\n# <" not in card
    assert "| a\\|&lt;b> | 1.0000 |" in card
