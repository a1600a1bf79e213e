"""A step of several micro-batches is the step of one batch, on both levels, whatever the loss is a mean of."""

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor
from transformers import BertConfig, BertForTokenClassification

from bilora import BiloraConfig
from bilora.engines.hypergradients.catalog import HYPERGRADIENTS
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import fit
from bilora.tasks.task import IGNORED

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def rows() -> list[dict[str, Any]]:
    """Rows of 1 to 6 labelled tokens out of six; neither level comes to the end of its own."""
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 32, (80, 6), generator=draws).tolist()
    return [
        {"input_ids": row, "labels": [token % 2 if place <= number % 6 else IGNORED for place, token in enumerate(row)]}
        for number, row in enumerate(ids)
    ]


def trained(batch_size: int, accumulation: int, hypergradient: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    base = BertForTokenClassification._from_config(
        BertConfig(vocab_size=32, max_position_embeddings=8, **SIZES, **NO_DROPOUT), attn_implementation="eager"
    )
    config = BiloraConfig(task_type="TOKEN_CLS", r=2, normalized=True, start_value=0.5)
    model = get_peft_model(base, config).double()
    level = LevelSettings(batch_size=batch_size, accumulation=accumulation, learning_rate=0.01)
    fit(
        model,
        rows(),
        collate=lambda some: {name: torch.tensor([row[name] for row in some]) for name in ("input_ids", "labels")},
        variant="bilora",
        settings=FitSettings(
            steps=4, unroll_steps=2, lower=level, upper=level, hypergradient=hypergradient, device="cpu"
        ),
    )
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("hypergradient", sorted(HYPERGRADIENTS))
def test_of_labelled_tokens(hypergradient: str) -> None:
    whole, parts = trained(8, 1, hypergradient), trained(2, 4, hypergradient)
    difference = max(float((parts[name] - whole[name]).abs().max()) for name in whole)
    assert difference < 1e-9
