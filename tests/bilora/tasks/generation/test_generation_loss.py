"""The loss of a set, against the model's own loss of single rows."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from bilora.tasks.generation import decoding as generation_loss
from bilora.tasks.generation.batches import PairCollator
from bilora.tasks.generation.decoding import token_loss
from bilora.tasks.task import Inference


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=1, n_positions=32, bos_token_id=0, eos_token_id=0)
    )


def examples() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for length in (9, 4, 12, 6, 7):
        ids = torch.randint(1, 40, (length,), generator=generator).tolist()
        made.append({"input_ids": ids, "labels": [-100, -100, *ids[2:]], "group": 0, "reference": 0})
    return made


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_mean_over_tokens_whatever_the_batches(model: Any, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(generation_loss, "LOSS_BATCH", batch)
    found = token_loss(Inference(model.train(), None), examples(), PairCollator(0))
    model.eval()
    total, count = 0.0, 0
    for each in examples():
        own = model(input_ids=torch.tensor([each["input_ids"]]), labels=torch.tensor([each["labels"]])).loss.item()
        total += own * (len(each["input_ids"]) - 2)
        count += len(each["input_ids"]) - 2
    assert found["loss"] == pytest.approx(total / count, rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)


def test_mode_and_random_state_stay(model: Any) -> None:
    model.train()
    state = torch.random.get_rng_state()
    first, second = (token_loss(Inference(model, None), examples(), PairCollator(0)) for _ in range(2))
    assert first == second
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_perplexity_beyond_all_numbers_is_none(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight.mul_(1e6)
    found = token_loss(Inference(model, None), examples(), PairCollator(0))
    assert found["loss"] is not None
    assert found["loss"] > 700
    assert found["perplexity"] is None
