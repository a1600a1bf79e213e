"""From checked rows to padded batches of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, Sampler

from bilora.data.loaders import LengthGroups
from bilora.data.rows import Rows
from bilora.errors import DataError, SettingsError
from bilora.processes.processes import Share, SharedOrder
from bilora.tasks.catalog import Task

Encoded = Mapping[str, list[int] | int | float]
Batch = dict[str, Tensor]


def encode(rows: Rows, tokenizer: Any, task: Task, *, max_length: int = 128) -> list[dict[str, Any]]:
    """Return the rows as token ids, cut to ``max_length`` and not padded, each with its label.

    Args:
        rows: Checked rows of the task.
        tokenizer: A tokenizer of transformers.
        task: Says which one or two fields are the text.
        max_length: Largest number of tokens of a row, special tokens included; of two texts the longer
            one is cut first.

    Returns:
        One dict a row: lists of ints under the tokenizer's input names, and ``labels``.

    Raises:
        SettingsError: ``max_length`` leaves no room for text beside the special tokens.
        DataError: A text has no token.

    Example:
        >>> from transformers import AutoTokenizer
        >>> from bilora.tasks.embedded import embedded_model_folder, embedded_reviews
        >>> from bilora.tasks.catalog import TASKS
        >>> tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder())
        >>> rows, task = embedded_reviews().select([0]), TASKS["rotten_tomatoes"]
        >>> encoded = encode(rows, tokenizer, task, max_length=8)
        >>> len(encoded[0]["input_ids"]), encoded[0]["labels"]
        (8, 1)
    """
    special = tokenizer.num_special_tokens_to_add(pair=len(task.text_fields) == 2)
    if max_length <= special:
        raise SettingsError(f"max_length is {max_length}, of which special tokens take {special}; set more")
    texts = [[row[field] for row in rows] for field in task.text_fields]
    tokens = tokenizer(*texts, truncation=True, max_length=max_length, padding=False)
    empty = [index for index, ids in enumerate(tokens["input_ids"]) if not ids]
    if empty:
        raise DataError(
            f"{rows.origin(empty[0])}: the tokenizer finds no token in the text; {len(empty)} such rows; "
            "mend or leave out the rows"
        )
    return [
        {**{name: tokens[name][index] for name in tokens}, "labels": label} for index, label in enumerate(rows.labels)
    ]


class Collator:
    """Makes a batch of encoded rows: pads to the longest of them and stacks to tensors.

    Args:
        tokenizer: Knows the pad token and the side to pad on.

    Example:
        >>> from transformers import AutoTokenizer
        >>> from bilora.tasks.embedded import embedded_model_folder
        >>> collate = Collator(AutoTokenizer.from_pretrained(embedded_model_folder()))
        >>> batch = collate([{"input_ids": [101, 102], "labels": 1}, {"input_ids": [101], "labels": 0}])
        >>> batch["input_ids"].tolist(), batch["labels"].dtype
        ([[101, 102], [101, 0]], torch.int64)
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, encoded: Sequence[Encoded]) -> Batch:
        """Return tensors of shape ``(batch, longest)`` and ``labels`` of shape ``(batch,)``.

        Labels are int64 for classes and float32 for regression. The rows given are not changed.
        """
        inputs = [{name: value for name, value in row.items() if name != "labels"} for row in encoded]
        batch: Batch = dict(self.tokenizer.pad(inputs, padding="longest", return_tensors="pt"))
        labels = [row["labels"] for row in encoded]
        kind = torch.float32 if any(isinstance(label, float) for label in labels) else torch.int64
        batch["labels"] = torch.tensor(labels, dtype=kind)
        return batch


WHOLE = Share()
"""All the rows, for a process that runs alone."""


def make_loader(
    encoded: Sequence[Encoded],
    *,
    batch_size: int,
    seed: int,
    collate: Callable[[Sequence[Encoded]], Batch],
    shuffle: bool = True,
    drop_last: bool = False,
    part: str = "training",
    group_by_length: bool = False,
    share: Share = WHOLE,
) -> DataLoader[Encoded]:
    """Return a loader whose order depends on ``seed`` alone.

    The loader has its own generator: it neither reads nor moves torch's global random state, so that the
    dropout masks of a run do not change with the order of the data, nor the other way round.

    Args:
        encoded: The rows, as ``encode`` gives them.
        batch_size: Rows a batch of this process.
        seed: Seeds the order; each pass over the loader draws a new one.
        collate: Makes a batch of rows, such as ``Collator(tokenizer)``.
        shuffle: True for training; False keeps the order of the rows, for validation.
        drop_last: Leave out the last, smaller batch of a pass.
        part: What the rows are (``"lower"``), for the error text.
        group_by_length: Shuffle such that a batch holds rows of nearly one length; needs ``shuffle``.
        share: The part of every batch that this process takes; shared rows are shuffled.

    Returns:
        The loader.

    Raises:
        SettingsError: ``batch_size`` is less than one.
        DataError: There are fewer rows than a batch; without shuffling and dropping (validation) only
            an empty part is refused.

    Example:
        >>> rows = [{"labels": each} for each in range(6)]
        >>> as_tensor = lambda some: {"labels": torch.tensor([row["labels"] for row in some])}
        >>> loader = make_loader(rows, batch_size=4, seed=0, collate=as_tensor, shuffle=False)
        >>> [batch["labels"].tolist() for batch in loader]
        [[0, 1, 2, 3], [4, 5]]
    """
    if batch_size < 1:
        raise SettingsError(f"batch_size is {batch_size!r}; it must be at least 1")
    if not (shuffle or share.is_whole):
        raise SettingsError("rows in a fixed order are not shared among processes; set shuffle=True")
    if group_by_length and not shuffle:
        raise SettingsError("group_by_length is a way to shuffle; set shuffle=True, or sort the rows by length")
    least = batch_size * share.count if shuffle or drop_last else 1
    if len(encoded) < least:
        among = "" if share.is_whole else f" in each of {share.count} processes"
        raise DataError(
            f"the {part} part has {len(encoded)} rows, fewer than a batch of {batch_size}{among}; "
            "give more rows or set a smaller batch size"
        )
    # Without shuffling, too, the loader draws a number at each pass, by default from the global state.
    generator = torch.Generator().manual_seed(seed)
    order: Sampler[int] | None = None
    if group_by_length:
        order = LengthGroups(encoded, batch_size=batch_size * share.count, generator=generator)
    if not share.is_whole:
        whole = order or RandomSampler(encoded, generator=generator)
        order = SharedOrder(whole, batch_size=batch_size, share=share)
    return DataLoader(
        encoded,  # type: ignore[arg-type]  # a list is a map-style data set
        batch_size=batch_size,
        shuffle=shuffle if order is None else None,
        sampler=order,
        drop_last=drop_last,
        collate_fn=collate,
        generator=generator,
    )


# Their position numbers start behind the pad token's id (as in fairseq), so that many positions are lost.
PAD_OFFSET_MODELS = frozenset(
    ("camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta")
    + ("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod")
)


def check_fits(tokenizer: Any, model_config: Any, *, max_length: int) -> None:
    """Check that a model can take what the tokenizer gives; raise with the fix if it cannot.

    Args:
        tokenizer: A tokenizer of transformers.
        model_config: The ``config`` of a model of transformers.
        max_length: Largest number of tokens of a row.

    Raises:
        DataError: A token id has no embedding, a pad token is missing or differs between the two, or
            ``max_length`` exceeds the model's positions; all faults are told together.

    Example:
        >>> from transformers import AutoTokenizer, BertConfig
        >>> from bilora.tasks.embedded import embedded_model_folder
        >>> tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder())
        >>> check_fits(tokenizer, BertConfig(), max_length=600)
        Traceback (most recent call last):
            ...
        bilora.errors.DataError: max_length is 600, but the bert model has 512 positions; set max_length=512
    """
    config = model_config.get_text_config()
    faults = [
        *_vocabulary_faults(tokenizer, config),
        *_pad_faults(tokenizer, config),
        *_length_faults(config, max_length),
    ]
    if faults:
        raise DataError("; ".join(faults))


def _vocabulary_faults(tokenizer: Any, config: Any) -> list[str]:
    largest = max(tokenizer.get_vocab().values())
    if largest < config.vocab_size:
        return []
    return [
        f"the tokenizer gives token ids up to {largest}, but the {config.model_type} model has "
        f"embeddings for 0 to {config.vocab_size - 1}; take the tokenizer of this model, or call "
        "model.resize_token_embeddings(len(tokenizer))"
    ]


def _pad_faults(tokenizer: Any, config: Any) -> list[str]:
    if tokenizer.pad_token is None:
        return [
            "the tokenizer has no pad token, which batches need; set tokenizer.pad_token = "
            "tokenizer.eos_token and model.config.pad_token_id = tokenizer.pad_token_id"
        ]
    if config.pad_token_id == tokenizer.pad_token_id:
        return []
    return [
        f"the model's pad_token_id is {config.pad_token_id}, the tokenizer's is {tokenizer.pad_token_id}; "
        "set model.config.pad_token_id = tokenizer.pad_token_id"
    ]


def _length_faults(config: Any, max_length: int) -> list[str]:
    # Models with relative positions have no such entry, and no limit.
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return []
    if config.model_type in PAD_OFFSET_MODELS and config.pad_token_id is not None:
        positions -= config.pad_token_id + 1
    if max_length <= positions:
        return []
    return [
        f"max_length is {max_length}, but the {config.model_type} model has {positions} positions; "
        f"set max_length={positions}"
    ]
