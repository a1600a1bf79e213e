"""From data-to-text rows to padded batches: one example per reference, a loss on the answer alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bilora.data.loaders import Batch, Encoded
from bilora.data.rows import Rows
from bilora.errors import DataError
from bilora.tasks.generation.prompts import Prompts

IGNORED = -100
"""The label of a token that the loss of transformers' models leaves out."""


def encode_pairs(rows: Rows, tokenizer: Any, *, max_length: int) -> tuple[list[dict[str, Any]], int]:
    """Return every pair of an input and one of its references as an example, and how many were cut."""
    prompts = Prompts(tokenizer)
    examples: list[dict[str, Any]] = []
    cut = 0
    for group, row in enumerate(rows):
        prompt = prompts.prompt(row["source"])
        if len(prompt) >= max_length:
            raise DataError(
                f"{rows.origin(group)}: the input has {len(prompt)} tokens, which max_length {max_length} leaves no "
                f"room for an answer to; set max_length above {len(prompt)}, or leave out the row"
            )
        for reference, text in enumerate(row["references"]):
            answer = prompts.answer(text)
            kept = answer[: max_length - len(prompt)]
            cut += len(kept) < len(answer)
            labels = [IGNORED] * len(prompt) + kept
            examples.append({"input_ids": prompt + kept, "labels": labels, "group": group, "reference": reference})
    return examples, cut


class PairCollator:
    """Makes a batch of examples: padded on the right to the longest, with an attention mask, labels -100 on padding."""

    # The padding may be the end-of-text token: the mask tells it from an answer's own end, which keeps its label.

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[Encoded]) -> Batch:
        """Return ``input_ids``, ``attention_mask`` and ``labels``, each ``(batch, longest)``."""
        ids, labels = ([example[name] for example in examples] for name in ("input_ids", "labels"))
        longest = max(map(len, ids))
        return {
            "input_ids": torch.tensor([row + [self.pad_token_id] * (longest - len(row)) for row in ids]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids]),
            "labels": torch.tensor([row + [IGNORED] * (longest - len(row)) for row in labels]),
        }


def left_padded(prompts: Sequence[list[int]], pad_token_id: int) -> Batch:
    """Return prompts padded on the left, so that what is generated follows the last token of each."""
    longest = max(map(len, prompts))
    return {
        "input_ids": torch.tensor([[pad_token_id] * (longest - len(prompt)) + prompt for prompt in prompts]),
        "attention_mask": torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
    }
