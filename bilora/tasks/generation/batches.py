"""From data-to-text rows to padded batches: one example a reference, a loss on the answer alone."""

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
    """Return every pair of an input and one of its references as an example, and how many were cut.

    Args:
        rows: Rows with ``source`` and ``references``.
        tokenizer: A tokenizer of transformers with an end-of-text token.
        max_length: Largest number of tokens of an example; a longer one loses the end of its answer.

    Returns:
        One dict an example: ``input_ids``; ``labels``, which are -100 up to the answer; ``group``, the position of
        its row, by which D1 and D2 are divided; ``reference``, which of the row's references it is. And the count of
        answers that were cut.

    Raises:
        DataError: An input leaves no room for an answer.
    """
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
    """Makes a batch of examples: padded on the right to the longest, with an attention mask, labels -100 on padding.

    The padding may be the end-of-text token: what is padding is said by the mask, and the end that belongs to an
    answer keeps its label.

    Args:
        pad_token_id: The id to pad with.

    Example:
        >>> collate = PairCollator(0)
        >>> batch = collate([{"input_ids": [5, 6, 0], "labels": [-100, 6, 0]}, {"input_ids": [5], "labels": [5]}])
        >>> batch["attention_mask"].tolist(), batch["labels"].tolist()
        ([[1, 1, 1], [1, 0, 0]], [[-100, 6, 0], [5, -100, -100]])
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[Encoded]) -> Batch:
        """Return ``input_ids``, ``attention_mask`` and ``labels``, each ``(batch, longest)``."""
        ids, labels = ([example[name] for example in examples] for name in ("input_ids", "labels"))
        longest = max(map(len, ids))
        return {
            "input_ids": torch.tensor([each + [self.pad_token_id] * (longest - len(each)) for each in ids]),
            "attention_mask": torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in ids]),
            "labels": torch.tensor([each + [IGNORED] * (longest - len(each)) for each in labels]),
        }


def left_padded(prompts: Sequence[list[int]], pad_token_id: int) -> Batch:
    """Return prompts padded on the left, so that what is generated follows the last token of each.

    Example:
        >>> left_padded([[5, 6], [7]], 0)["input_ids"].tolist()
        [[5, 6], [0, 7]]
    """
    longest = max(map(len, prompts))
    return {
        "input_ids": torch.tensor([[pad_token_id] * (longest - len(each)) + each for each in prompts]),
        "attention_mask": torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts]),
    }
