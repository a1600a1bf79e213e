"""From checked rows of tokens to padded batches: which piece of a token carries its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import DataCollatorForTokenClassification

from bilora.data.loaders import Batch
from bilora.data.rows import Rows
from bilora.errors import DataError, SettingsError
from bilora.tasks.task import IGNORED

if TYPE_CHECKING:
    from bilora.tasks.tokens.task import TokenTask  # which asks this module to encode its rows


def encode_tokens(rows: Rows, tokenizer: Any, task: TokenTask, *, max_length: int = 128) -> list[dict[str, Any]]:
    """Return the rows as ids of pieces, cut to ``max_length`` and not padded, with a label per piece."""
    special = tokenizer.num_special_tokens_to_add(pair=False)
    if max_length <= special:
        raise SettingsError(f"max_length is {max_length}, of which special tokens take {special}; set more")
    # Only those of the tokenizers library keep word_ids.
    if not tokenizer.is_fast:
        raise DataError(
            f"{type(tokenizer).__name__} cannot say which piece belongs to which token; take a model with a fast "
            "tokenizer (a tokenizer.json)"
        )
    tokens = [list(row[task.tokens_field]) for row in rows]
    pieces = tokenizer(tokens, is_split_into_words=True, truncation=True, max_length=max_length, padding=False)
    encoded = [
        {name: pieces[name][index] for name in pieces} | _labels(pieces.word_ids(index), row[task.tags_field])
        for index, row in enumerate(rows)
    ]
    if empty := [index for index, row in enumerate(encoded) if not row["positions"]]:
        raise DataError(
            f"{rows.origin(empty[0])}: the tokenizer leaves nothing of the tokens; {len(empty)} such rows; mend or "
            "leave out the rows"
        )
    return encoded


def _labels(owners: list[int | None], tags: Sequence[int]) -> dict[str, list[int]]:
    # The first piece of a token has the token's label, its other pieces and the special tokens IGNORED: the metrics
    # count tokens. ``positions`` has the place of the token for each label that counts.
    # A token of which the tokenizer leaves nothing, such as a zero-width space, owns no piece and has no position.
    positions = list(dict.fromkeys(owner for owner in owners if owner is not None))
    labels = [IGNORED] * len(owners)
    for position in positions:
        labels[owners.index(position)] = tags[position]
    return {"labels": labels, "positions": positions}


def collate_tokens(encoded: Sequence[Mapping[str, Any]], *, tokenizer: Any) -> Batch:
    """Return tensors ``(batch, longest)``, with ``labels`` padded by ``IGNORED``; the rows given are not changed."""
    # The tokenizer pads on its own side, and knows no columns but its own.
    names = (*tokenizer.model_input_names, "labels")
    rows = [{name: row[name] for name in names if name in row} for row in encoded]
    return dict(DataCollatorForTokenClassification(tokenizer, label_pad_token_id=IGNORED)(rows))
