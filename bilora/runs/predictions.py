"""What a trained model says of rows, whether they have labels or not; one class a kind of task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from bilora.data.faults import Fault
from bilora.data.records import read_records
from bilora.data.rows import Rows, check_records
from bilora.errors import SettingsError
from bilora.runs.trained import Trained
from bilora.tasks.catalog import Task
from bilora.tasks.generation.decoding import decode
from bilora.tasks.generation.rows import read_generation_file
from bilora.tasks.generation.task import GenerationTask
from bilora.tasks.kind import EncodedRows
from bilora.tasks.labelled_files import read_labelled
from bilora.tasks.labels import LabelledFiles
from bilora.tasks.scoring import length_order, ordered_loader, predicted_batches
from bilora.tasks.tokens.batches import IGNORED
from bilora.tasks.tokens.task import OUTSIDE, TokenTask


class Answers(Protocol):
    """How rows of a kind are read, with labels or without, and answered."""

    def labelled(self, task: Any, path: str) -> Rows:
        """Return the checked rows of a file with labels."""

    def bare(self, task: Any, path: str) -> Rows:
        """Return the checked rows of a file, each with an allowed label in place of its own; nothing looks at it."""

    def answer(self, trained: Trained, rows: Rows) -> Answered:
        """Return one JSON object a row, in the order of the rows, and what a reader of them must know."""


Answered = tuple[list[dict[str, Any]], tuple[str, ...]]


def _labelled(task: Any, files: LabelledFiles) -> Rows:
    return check_records(read_labelled(files.train, files), task, source=files.train, split="evaluation")


def _bare(task: Any, path: str, with_stand_in: Callable[[Any, Mapping[str, Any]], dict[str, Any]]) -> Rows:
    records = [(line, with_stand_in(task, row) if row else row, faults) for line, row, faults in read_records(path)]
    return check_records(records, task, source=path, split="prediction")


class TextAnswers:
    """A class with the probability of each, or a number."""

    def labelled(self, task: Task, path: str) -> Rows:
        """Return the rows, by the task's columns."""
        return _labelled(task, LabelledFiles(path, task.text_fields, task.label_field))

    def bare(self, task: Task, path: str) -> Rows:
        """Return the rows as ones of the first class, or with the smallest number."""
        return _bare(task, path, self.with_stand_in)

    def with_stand_in(self, task: Task, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row as one of the first class, or with the smallest number."""
        number = task.label_range[0] if task.label_range else 0.0
        return {**row, task.label_field: number if task.label_names is None else task.label_names[0]}

    def answer(self, trained: Trained, rows: Rows) -> Answered:
        """Return ``prediction``, and ``probabilities`` by name of the class."""
        data = _encoded(trained, rows)
        names = trained.kind.task.label_names  # type: ignore[attr-defined]  # of a Task
        found = [logits for batch, _ in _batches(trained, data) for logits in batch.double()]
        made = [_number(each) if names is None else _class(each, names) for each in found]
        return _in_file_order(made, data), data.notices


class TokenAnswers:
    """A tag for every token with its probability."""

    def labelled(self, task: TokenTask, path: str) -> Rows:
        """Return the rows, by the task's columns."""
        return _labelled(task, LabelledFiles(path, (task.tokens_field,), task.tags_field))

    def bare(self, task: TokenTask, path: str) -> Rows:
        """Return the rows as ones whose tokens all have the same tag."""
        return _bare(task, path, self.with_stand_in)

    def with_stand_in(self, task: TokenTask, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row with the same tag for every token."""
        tokens = row.get(task.tokens_field)
        tag = OUTSIDE if OUTSIDE in task.label_names else task.label_names[0]
        return {**row, task.tags_field: [tag] * (len(tokens) if isinstance(tokens, list | tuple) else 0)}

    def answer(self, trained: Trained, rows: Rows) -> Answered:
        """Return ``tokens``, and for each its ``prediction`` and ``probabilities``, null where the row was cut."""
        data = _encoded(trained, rows)
        task: Any = trained.kind.task
        names = task.label_names
        found = []
        for batch, labels in _batches(trained, data):
            best = batch.double().softmax(dim=-1).max(dim=-1)
            for tags, chances, own in zip(best.indices, best.values, labels, strict=True):
                first = own != IGNORED
                found.append(list(zip(tags[first].tolist(), chances[first].tolist(), strict=True)))
        made = _in_file_order(found, data)
        tagged = [
            _tagged(list(row[task.tokens_field]), encoded["positions"], each, names)
            for row, encoded, each in zip(data.rows, data.encoded, made, strict=True)
        ]
        return tagged, data.notices


class GenerationAnswers:
    """A text, searched for as the settings of the training's task say."""

    def labelled(self, task: GenerationTask, path: str) -> Rows:
        """Return the rows, in any of the layouts that are published."""
        return read_generation_file(Path(path), task, split="evaluation")

    def bare(self, task: GenerationTask, path: str) -> Rows:
        """Return the rows, whether they have references or not."""
        return read_generation_file(Path(path), _WithoutReferences(**vars(task)), split="prediction")

    def answer(self, trained: Trained, rows: Rows) -> Answered:
        """Return ``source``, the input as the model reads it, and ``prediction``."""
        kind: Any = trained.kind
        sources = [row["source"] for row in rows]
        texts = decode(trained.model, trained.tokenizer.own, sources, kind.decoding)
        pairs = zip(sources, texts, strict=True)
        return [{"source": source, "prediction": text} for source, text in pairs], ()


class _WithoutReferences(GenerationTask):
    """A task whose rows need no references; those that are there are not looked at."""

    def check_row(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
        """Return the row with a reference in place of its own: of several fields with some, this one counts."""
        return super().check_row({**row, "references": ["-"]})


ANSWERS: dict[str, Answers] = {"text": TextAnswers(), "tokens": TokenAnswers(), "generation": GenerationAnswers()}
"""By kind of task. Kinds that are missing are evaluated, and not asked about rows without labels."""


def find_answers(kind: str) -> Answers:
    """Return the row of :data:`ANSWERS`.

    Raises:
        SettingsError: There is none.

    Example:
        >>> TextAnswers().with_stand_in(Task("toy", ("text",), ("no", "yes")), {"text": "fine", "label": -1})
        {'text': 'fine', 'label': 'no'}
        >>> find_answers("generation") is ANSWERS["generation"]
        True
    """
    if kind not in ANSWERS:
        raise SettingsError(f"tasks of kind {kind!r} are not predicted row by row; known: {', '.join(ANSWERS)}")
    return ANSWERS[kind]


def _encoded(trained: Trained, rows: Rows) -> EncodedRows:
    return trained.kind.encode(rows, trained.tokenizer.own, max_length=trained.max_length)


def _batches(trained: Trained, data: EncodedRows) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    loader = ordered_loader(data.encoded, trained.kind.collate(trained.tokenizer.own))
    return predicted_batches(trained.model, loader)


def _in_file_order(found: list[Any], data: EncodedRows) -> list[Any]:
    order = length_order(data.encoded)
    placed: list[Any] = [None] * len(order)
    for place, each in zip(order, found, strict=True):
        placed[place] = each
    return placed


def _class(logits: torch.Tensor, names: tuple[str, ...]) -> dict[str, Any]:
    chances = logits.softmax(dim=-1).tolist()
    best = names[int(logits.argmax())]
    return {"prediction": best, "probabilities": dict(zip(names, chances, strict=True))}


def _number(logits: torch.Tensor) -> dict[str, Any]:
    return {"prediction": float(logits.squeeze(-1))}


def _tagged(
    tokens: list[str], positions: list[int], found: list[tuple[int, float]], names: tuple[str, ...]
) -> dict[str, Any]:
    tags: list[str | None] = [None] * len(tokens)
    chances: list[float | None] = [None] * len(tokens)
    for position, (index, chance) in zip(positions, found, strict=True):
        tags[position], chances[position] = names[index], chance
    return {"tokens": tokens, "prediction": tags, "probabilities": chances}
