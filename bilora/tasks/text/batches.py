"""From checked rows to padded batches of tensors."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from bilora.data.loaders import Batch, Encoded
from bilora.data.rows import Rows
from bilora.errors import DataError, SettingsError


def encode_texts(
    rows: Rows, tokenizer: Any, fields: Sequence[str], *, max_length: int = 128
) -> list[dict[str, list[int]]]:
    """Return the rows as token ids, cut to ``max_length`` and not padded."""
    special = tokenizer.num_special_tokens_to_add(pair=len(fields) == 2)
    if max_length <= special:
        raise SettingsError(f"max_length is {max_length}, of which special tokens take {special}; set more")
    texts = [[row[field] for row in rows] for field in fields]
    tokens = tokenizer(*texts, truncation=True, max_length=max_length, padding=False)
    if empty := [index for index, ids in enumerate(tokens["input_ids"]) if not ids]:
        raise DataError(
            f"{rows.origin(empty[0])}: the tokenizer finds no token in the text; {len(empty)} such rows; "
            "mend or leave out the rows"
        )
    return [{name: tokens[name][index] for name in tokens} for index in range(len(rows))]


class Collator:
    """Makes a batch of encoded rows: pads to the longest of them and stacks to tensors.

    Args:
        tokenizer: Knows the pad token and the side to pad on.

    Example:
        >>> from transformers import AutoTokenizer
        >>> from bilora.models import embedded_model_folder
        >>> collate = Collator(AutoTokenizer.from_pretrained(embedded_model_folder()))
        >>> batch = collate([{"input_ids": [101, 102], "labels": 1}, {"input_ids": [101], "labels": 0}])
        >>> batch["input_ids"].tolist(), batch["labels"].dtype
        ([[101, 102], [101, 0]], torch.int64)
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, encoded: Sequence[Encoded]) -> Batch:
        """Return tensors of shape ``(batch, longest)`` and ``labels`` of shape ``(batch,)`` or ``(batch, labels)``.

        Labels are int64 for classes and float32 for numbers. The rows given are not changed.
        """
        # The tokenizer would try to pad everything that it is given.
        inputs = [{name: value for name, value in row.items() if name not in ("labels", "stratum")} for row in encoded]
        batch: Batch = dict(self.tokenizer.pad(inputs, padding="longest", return_tensors="pt"))
        batch["labels"] = torch.tensor([row["labels"] for row in encoded])
        return batch


# Their position numbers start behind the pad token's id (as in fairseq), so that many positions are lost.
PAD_OFFSET_MODELS = frozenset(
    ("camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta")
    + ("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod")
)


def check_fits(tokenizer: Any, model_config: Any, *, max_length: int) -> None:
    """Check that a model can take what the tokenizer gives; raise with the fix if it cannot."""
    # Models of text and pictures keep what is asked here in a part of their config.
    config, faults = model_config.get_text_config(), []
    # The largest id and not the size of the vocabulary, which may have gaps.
    largest = max(tokenizer.get_vocab().values())
    if largest >= config.vocab_size:
        faults.append(
            f"the tokenizer gives token ids up to {largest}, but the {config.model_type} model has embeddings for 0 to "
            f"{config.vocab_size - 1}; take the tokenizer of this model, or call "
            "model.resize_token_embeddings(len(tokenizer))"
        )
    if tokenizer.pad_token is None:
        faults.append(
            "the tokenizer has no pad token, which batches need; set tokenizer.pad_token = tokenizer.eos_token and "
            "model.config.pad_token_id = tokenizer.pad_token_id"
        )
    elif config.pad_token_id != tokenizer.pad_token_id:
        faults.append(
            f"the model's pad_token_id is {config.pad_token_id}, the tokenizer's is {tokenizer.pad_token_id}; "
            "set model.config.pad_token_id = tokenizer.pad_token_id"
        )
    # Models with relative positions have no such entry, and no limit.
    positions = getattr(config, "max_position_embeddings", None) or math.inf
    if config.model_type in PAD_OFFSET_MODELS and config.pad_token_id is not None:
        positions -= config.pad_token_id + 1
    if max_length > positions:
        faults.append(
            f"max_length is {max_length}, but the {config.model_type} model has {positions} positions; "
            f"set max_length={positions}"
        )
    if faults:
        raise DataError("; ".join(faults))
