"""Texts as token ids, whose letters are never taken for the tokenizer's own signs."""

from collections.abc import Sequence
from typing import Any

from bilora.data.rows import Rows
from bilora.errors import DataError, SettingsError


def tokenized(rows: Rows, tokenizer: Any, *texts: Sequence[Any], max_length: int, **options: Any) -> Any:
    """Return what a tokenizer makes of the texts of rows, cut to ``max_length``; ``</s>`` in a text is four letters."""
    special = tokenizer.num_special_tokens_to_add(pair=len(texts) == 2)
    if max_length <= special:
        raise SettingsError(f"max_length is {max_length}, of which special tokens take {special}; set more")
    tokens = tokenizer(
        *texts,
        truncation=True,
        max_length=max_length,
        padding=False,
        split_special_tokens=True,
        return_special_tokens_mask=True,
        **options,
    )
    added = tokens.pop("special_tokens_mask")
    unknown = tokenizer.unk_token_id
    own = set(tokenizer.all_special_ids) - {unknown}
    # Tokenizers whose vocabulary holds the sign as a piece (T5's) give its id all the same.
    for index, (ids, mask) in enumerate(zip(tokens["input_ids"], added, strict=True)):
        for place in [place for place, token in enumerate(ids) if token in own and not mask[place]]:
            # GPT-2's unknown token is its end-of-text token, and no stand-in for it.
            if unknown in (None, tokenizer.eos_token_id):
                sign = tokenizer.convert_ids_to_tokens(ids[place])
                raise DataError(
                    f"{rows.origin(index)}: the text has {sign!r}, which the tokenizer takes for its own sign; take it "
                    "out of the text"
                )
            ids[place] = unknown
    return tokens


def notices(rows: Rows, tokenizer: Any, tokens: Any, *texts: Sequence[Any], max_length: int) -> tuple[str, ...]:
    """Return a sentence on texts with the tokenizer's signs in them, and one on those that were cut."""
    signs = [sign for sign in tokenizer.all_special_tokens if sign.strip()]
    named = {sign: sum(any(sign in str(text) for text in row) for row in zip(*texts, strict=True)) for sign in signs}
    found = {sign: count for sign, count in named.items() if count}
    lengths = [len(ids) for ids in tokens["input_ids"]]
    cut = [
        index
        for index, length in enumerate(lengths)
        if (bool(tokens.encodings[index].overflowing) if tokenizer.is_fast else length >= max_length)
    ]
    whole = tokenizer(*([text[index] for index in cut] for text in texts)) if cut else {"input_ids": []}
    longest = max(map(len, whole["input_ids"]), default=0)
    letters = (
        f"{sum(found.values())} texts of {rows.source} have {', '.join(map(repr, found))} in them, which are read as "
        "letters, and not as the tokenizer's signs"
    )
    shortened = (
        f"{len(cut)} of the {len(rows)} rows of {rows.source} are longer than max_length {max_length}: the longest has "
        f"{longest} tokens, and the model does not see what is behind the limit"
    )
    return (*((letters,) if found else ()), *((shortened,) if cut else ()))
