"""Classification of every token of a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForTokenClassification

from bilora.data.loaders import Collate
from bilora.data.rows import Rows
from bilora.metrics.monitor import Monitor
from bilora.metrics.tokens import token_metric
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.tasks.kind import EncodedRows, Evaluated, Metrics
from bilora.tasks.labels import label_settings
from bilora.tasks.scoring import length_order, one_class, ordered_loader, predicted_batches
from bilora.tasks.text.kind import NoSettings
from bilora.tasks.tokens.batches import IGNORED, TokenCollator, encode_tokens
from bilora.tasks.tokens.task import OUTSIDE, TokenTask


class TokenKind:
    """A head over every token: cross entropy over the tags of first pieces.

    A token that the model never sees, because its row is longer than ``max_length``, counts in the metrics as
    predicted to be in no entity (tasks without ``O``: as predicted wrongly).

    Args:
        task: The task.
        settings: There are none.

    Example:
        >>> from bilora.tasks.tokens.task import TOKEN_TASKS
        >>> TokenKind(TOKEN_TASKS["ncbi_disease"]).watched.metric
        'entity_f1'
    """

    task_type = "TOKEN_CLS"
    model_class = AutoModelForTokenClassification
    # Byte-level tokenizers (RoBERTa, GPT-2) take a token for the middle of a word unless told; others ignore it.
    tokenizer_settings: Mapping[str, Any] = {"add_prefix_space": True}

    def __init__(self, task: TokenTask, settings: NoSettings | None = None) -> None:
        self.task = task

    @property
    def model_settings(self) -> Mapping[str, Any]:
        """Return number and names of the tags."""
        return label_settings(self.task.label_names)

    @cached_property
    def watched(self) -> Monitor:
        """The task's own metric."""
        return Monitor(self.task.metric, greater_is_better=self.task.greater_is_better)

    def encode(self, rows: Rows, tokenizer: Any, *, max_length: int) -> EncodedRows:
        """Return the tokens as ids of pieces, with a notice of those that did not fit."""
        encoded = encode_tokens(rows, tokenizer, self.task, max_length=max_length)
        lengths = [len(row[self.task.tokens_field]) for row in rows]
        lost = [length - len(own["positions"]) for length, own in zip(lengths, encoded, strict=True)]
        if not any(lost):
            return EncodedRows(rows, encoded)
        notice = (
            f"{sum(each > 0 for each in lost)} of the {len(rows)} rows of {rows.source} are longer than max_length "
            f"{max_length}: {sum(lost)} tokens are not seen by the model, and count as not found"
        )
        return EncodedRows(rows, encoded, (notice,))

    def collate(self, tokenizer: Any) -> Collate:
        """Return a collator that pads to the longest row."""
        return TokenCollator(tokenizer)

    def class_counts(self, rows: Rows) -> dict[str, int]:
        """Return the number of tokens of each tag."""
        counts = Counter(tag for row in rows for tag in row[self.task.tags_field])
        return {name: counts[index] for index, name in enumerate(self.task.label_names)}

    def validate(
        self,
        model: nn.Module,
        data: EncodedRows,
        tokenizer: Any,
        *,
        autocast_dtype: torch.dtype | None,
        processes: Processes = ONE_PROCESS,
    ) -> Metrics:
        """Return the mean loss over the labelled tokens, and the metrics over all tokens."""
        found = self.evaluate(
            model, data, tokenizer, autocast_dtype=autocast_dtype, validated=None, processes=processes
        )
        return found.metrics

    def evaluate(
        self,
        model: nn.Module,
        data: EncodedRows,
        tokenizer: Any,
        *,
        autocast_dtype: torch.dtype | None,
        validated: Metrics | None,
        processes: Processes = ONE_PROCESS,
    ) -> Evaluated:
        """Return loss, metrics and the tags predicted for every row."""
        loader = ordered_loader(data.encoded, self.collate(tokenizer))
        total, count, found = 0.0, 0, []
        batches = predicted_batches(model, loader, autocast_dtype=autocast_dtype, processes=processes)
        for logits, labels in batches:
            flat = logits.double().flatten(0, 1)
            total += float(functional.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="sum"))
            count += int((labels != IGNORED).sum())
            found += list(_first_pieces(logits, labels))
        tags = self._tags(data, found)
        wanted = [[self.task.label_names[tag] for tag in row[self.task.tags_field]] for row in data.rows]
        metrics: Metrics = {"loss": total / count if count else None, **self._metrics(tags, wanted)}
        said = one_class(chain.from_iterable(tags), chain.from_iterable(wanted), of="tokens")
        return Evaluated(metrics, self._predictions(data.rows, tags, wanted), notices=said)

    def _tags(self, data: EncodedRows, found: Sequence[Sequence[int]]) -> list[list[str]]:
        """Return a tag for every token of every row, out of what was found for first pieces in order of length."""
        unseen = OUTSIDE if OUTSIDE in self.task.label_names else ""
        tags = [[unseen] * len(row[self.task.tokens_field]) for row in data.rows]
        for place, indices in zip(length_order(data.encoded), found, strict=True):
            for position, index in zip(data.encoded[place]["positions"], indices, strict=True):
                tags[place][position] = self.task.label_names[index]
        return tags

    def _metrics(self, tags: list[list[str]], wanted: list[list[str]]) -> Metrics:
        metrics: Metrics = token_metric(self.task).compute(predictions=tags, references=wanted)
        return metrics

    def _predictions(self, rows: Rows, tags: list[list[str]], wanted: list[list[str]]) -> list[dict[str, Any]]:
        return [
            {"row": rows.ids[index], "tokens": list(row[self.task.tokens_field]), "tags": right, "predicted": ours}
            for index, (row, right, ours) in enumerate(zip(rows, wanted, tags, strict=True))
        ]


def _first_pieces(logits: Tensor, labels: Tensor) -> Iterator[list[int]]:
    """Yield the indices predicted for the labelled pieces of each row of a batch."""
    for predicted, own in zip(logits.argmax(dim=-1), labels, strict=True):
        yield predicted[own != IGNORED].tolist()
