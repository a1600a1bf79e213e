"""Loaders of encoded rows: batches in an order that depends on a seed alone, or on the rows' lengths too."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from bilora.errors import DataError, SettingsError
from bilora.processes.processes import Share, SharedBatches

# An example as token ids: lists of ints under the tokenizer's input names, ``labels``, and what its task adds.
Encoded = Mapping[str, Any]

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[Any]], Any]


class LengthGroups(Sampler[int]):
    """A shuffled order in which neighbours have nearly the same number of tokens, that of transformers."""

    def __init__(self, rows: Sequence[Any], *, batch_size: int, generator: torch.Generator) -> None:
        self.rows, self.batch_size, self.generator = rows, batch_size, generator

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        # Read at the start of each pass, since a refreshed split changes the rows.
        lengths = [len(row["input_ids"]) for row in self.rows]
        yield from get_length_grouped_indices(lengths, self.batch_size, generator=self.generator)  # type: ignore[no-untyped-call]


# All the rows, for a process that runs alone.
WHOLE = Share()


def check_batch(count: int, *, part: str, batch_size: int, share: Share = WHOLE) -> None:
    """Refuse so many rows if they do not fill a batch in each process."""
    if count < batch_size * share.count:
        among = "" if share.is_whole else f" in each of {share.count} processes"
        raise DataError(
            f"the {part} part has {count} rows, fewer than a batch of {batch_size}{among}; "
            "give more rows or set a smaller batch size"
        )


def make_loader(
    encoded: Sequence[Encoded],
    *,
    batch_size: int,
    seed: int,
    collate: Collate,
    shuffle: bool = True,
    drop_last: bool = False,
    part: str = "training",
    group_by_length: bool = False,
    share: Share = WHOLE,
) -> DataLoader[Encoded]:
    """Return a loader whose order depends on ``seed`` alone."""
    if batch_size < 1:
        raise SettingsError(f"batch_size is {batch_size!r}; it must be at least 1")
    if not share.is_whole and (drop_last or not shuffle):
        raise SettingsError("processes share all rows, in a shuffled order; set shuffle=True and leave drop_last out")
    if group_by_length and not shuffle:
        raise SettingsError("group_by_length is a way to shuffle; set shuffle=True, or sort the rows by length")
    # Where every row is looked at once and in order, a last batch that is smaller is all right.
    if shuffle or drop_last or not encoded:
        check_batch(len(encoded), part=part, batch_size=batch_size, share=share)
    # A generator of the loader's: with torch's global random state, dropout masks and the order of the data would
    # change with each other. Without shuffling, too, the loader draws a number at each pass.
    generator = torch.Generator().manual_seed(seed)
    order: Sampler[int] | None = None
    if group_by_length:
        # By the batch of all processes together, of which each takes a part.
        order = LengthGroups(encoded, batch_size=batch_size * share.count, generator=generator)
    if not share.is_whole:
        whole = order or RandomSampler(encoded, generator=generator)
        parts = SharedBatches(whole, batch_size=batch_size, share=share)
        return DataLoader(encoded, batch_sampler=parts, collate_fn=collate, generator=generator)  # type: ignore[arg-type]
    return DataLoader(
        encoded,  # type: ignore[arg-type]  # a list is a map-style data set
        batch_size=batch_size,
        shuffle=shuffle if order is None else None,
        sampler=order,
        drop_last=drop_last,
        collate_fn=collate,
        generator=generator,
    )
