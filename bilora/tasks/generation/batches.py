"""From data-to-text rows to padded batches: one example per reference, a loss on the answer alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bilora.data.loaders import Batch, Encoded
from bilora.data.rows import Rows
from bilora.errors import DataError
from bilora.tasks.generation.prompts import Prompts
from bilora.tasks.task import IGNORED


def encode_pairs(rows: Rows, tokenizer: Any, *, max_length: int) -> tuple[list[dict[str, Any]], int]:
    """Return every pair of an input and one of its references as an example, and how many were cut."""
    prompts = Prompts(tokenizer)
    examples: list[dict[str, Any]] = []
    cut = 0
    for group, row in enumerate(rows):
        prompt = prompts.prompt(row["source"])
        # An input is not cut as an answer is: what is asked for would change.
        if len(prompt) >= max_length:
            raise DataError(
                f"{rows.origin(group)}: the input has {len(prompt)} tokens, which max_length {max_length} leaves no "
                f"room for an answer to; set max_length above {len(prompt)}, or leave out the row"
            )
        for reference, text in enumerate(row["references"]):
            answer = prompts.answer(text, to=row["source"])
            # The end token is cut too: a text that was cut short does not teach where texts end.
            kept = answer[: max_length - len(prompt)]
            cut += len(kept) < len(answer)
            # The model is to learn the answer, and not to write inputs.
            labels = [IGNORED] * len(prompt) + kept
            # D1 and D2 are split by group: no input stands in both, with one reference here and another there.
            examples.append({"input_ids": prompt + kept, "labels": labels, "group": group, "reference": reference})
    return examples, cut


@dataclass(frozen=True)
class PairCollator:
    """Makes a batch of examples: padded on the right to the longest, with an attention mask, labels -100 on padding."""

    # The padding may be the end-of-text token: the mask tells it from an answer's own end, which keeps its label.
    pad_token_id: int

    def __call__(self, examples: Sequence[Encoded]) -> Batch:
        """Return ``input_ids``, ``attention_mask`` and ``labels``, each ``(batch, longest)``."""
        batch = padded([example["input_ids"] for example in examples], self.pad_token_id, side="right")
        return {**batch, "labels": _stacked([example["labels"] for example in examples], IGNORED, side="right")}


def padded(rows: Sequence[Sequence[int]], pad_token_id: int, *, side: str) -> Batch:
    """Return ids padded to the longest, with a mask; on the left, what is generated follows the last token of each."""
    mask = _stacked([[1] * len(row) for row in rows], 0, side=side)
    return {"input_ids": _stacked(rows, pad_token_id, side=side), "attention_mask": mask}


def _stacked(rows: Sequence[Sequence[int]], value: int, *, side: str) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], True, value, side)
