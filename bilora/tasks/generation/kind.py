"""Generation of a text from an input, by a causal language model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from bilora.data.loaders import Collate
from bilora.data.rows import Rows
from bilora.data.sets import TaskRows
from bilora.errors import SettingsError
from bilora.metrics.monitor import Monitor
from bilora.metrics.texts import score_texts, text_metric
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.settings.sections import refuse_faults, resolved
from bilora.tasks.generation.batches import PairCollator, encode_pairs
from bilora.tasks.generation.decoding import Decoding, decode, token_loss
from bilora.tasks.generation.rows import load_generation_rows
from bilora.tasks.generation.task import GenerationTask
from bilora.tasks.kind import EncodedRows, Evaluated, Metrics
from bilora.tasks.sources import take_rows


@dataclass(frozen=True)
class GenerationSettings:
    """What may be said of a data-to-text task.

    Args:
        d2: ``validation``: D1 is the training set, D2 the validation set, and the test set is scored; ``split``: D1
            and D2 are drawn from the training set, and the validation set is scored.
        metrics: Names of metrics, the headline one first; None takes the task's.
        generate_rows: Rows of the scored set that are read, for loss and texts alike, the same ones in every run;
            None takes all.
        loss_references: References of a row that enter the losses that are reported; None takes all.
        beams: See :class:`~bilora.tasks.generation.decoding.Decoding`.
        length_penalty: See there; None takes the task's.
        no_repeat_ngram_size: See there.
        max_new_tokens: See there.
        generate_batch: Rows searched at once.

    Raises:
        SettingsError: A value is out of range, or a metric is unknown or cannot be computed here.
    """

    d2: Literal["validation", "split"] = "validation"
    metrics: list[str] | None = None
    generate_rows: int | None = None
    loss_references: int | None = None
    beams: int = 10
    length_penalty: float | None = None
    no_repeat_ngram_size: int = 4
    max_new_tokens: int = 64
    generate_batch: int = 8

    def __post_init__(self) -> None:
        """Check the values."""
        checks = (
            ("d2", "allowed: validation, split", self.d2 in ("validation", "split")),
            ("metrics", "give at least one, each once", self.metrics is None or _are_names(self.metrics)),
            ("generate_rows", "it must be at least 1, or none for all", _is_count(self.generate_rows)),
            ("loss_references", "it must be at least 1, or none for all", _is_count(self.loss_references)),
        )
        refuse_faults("task_settings", self, checks)
        self.decoding(1.0)

    def decoding(self, length_penalty: float) -> Decoding:
        """Return how texts are searched for, with the task's length penalty where none is set."""
        return Decoding(
            beams=self.beams,
            length_penalty=length_penalty if self.length_penalty is None else self.length_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.generate_batch,
        )


def _are_names(metrics: list[str]) -> bool:
    return bool(metrics) and len(set(metrics)) == len(metrics)


def _is_count(value: int | None) -> bool:
    return value is None or value >= 1


class GenerationKind:
    """A causal model that reads an input and goes on with a text: cross entropy of the text's tokens.

    Args:
        task: The task.
        settings: Which set is D2, metrics and decoding; None takes the defaults.

    Example:
        >>> from bilora.tasks.generation.task import GENERATION_TASKS
        >>> kind = GenerationKind(GENERATION_TASKS["e2e"], GenerationSettings(d2="split", metrics=["rouge_l"]))
        >>> kind.task.upper_split, kind.task.validation_splits, kind.decoding.length_penalty
        (None, ('validation',), 0.9)
    """

    task_type = "CAUSAL_LM"
    model_class = AutoModelForCausalLM
    model_settings: Mapping[str, Any] = {}
    tokenizer_settings: Mapping[str, Any] = {}
    # The metrics of texts need a search, which is too slow to choose a step by.
    watched = Monitor("loss", greater_is_better=False)

    def __init__(self, task: GenerationTask, settings: GenerationSettings | None = None) -> None:
        self.settings = settings or GenerationSettings()
        task = task if self.settings.metrics is None else task.with_metrics(tuple(self.settings.metrics))
        if self.settings.d2 == "split":
            task = dataclasses.replace(task, upper_split=None, validation_splits=("validation",))
        self.task = task
        self.metrics = [text_metric(key) for key in task.metric_keys]
        self.decoding = self.settings.decoding(task.length_penalty)

    def load_rows(self, data_dir: str | None) -> TaskRows:
        """Return the rows of the task, of the scored set as many as the settings say."""
        rows = load_generation_rows(self.task, data_dir=data_dir)
        wanted = self.settings.generate_rows
        if wanted is None:
            return rows
        scored = {name: take_rows(each, min(wanted, len(each)), seed=0) for name, each in rows.validation.items()}
        said = [
            f"{len(scored[name])} of the {len(each)} {name} rows are scored" for name, each in rows.validation.items()
        ]
        return dataclasses.replace(rows, validation=scored, notices=(*rows.notices, *said))

    def encode(self, rows: Rows, tokenizer: Any, *, max_length: int) -> EncodedRows:
        """Return every pair of an input and a reference as token ids."""
        examples, cut = encode_pairs(rows, tokenizer, max_length=max_length)
        said = f"{cut} of {len(examples)} texts of {rows.source} are cut at max_length {max_length}"
        return EncodedRows(rows, examples, (said,) if cut else ())

    def collate(self, tokenizer: Any) -> Collate:
        """Return a collator that pads on the right."""
        return PairCollator(tokenizer.pad_token_id)

    def class_counts(self, rows: Rows) -> dict[str, int]:
        """Raise: a text is no class."""
        raise SettingsError(f"task {self.task.name!r} generates texts and has no classes to count")

    def validate(
        self,
        model: nn.Module,
        data: EncodedRows,
        tokenizer: Any,
        *,
        autocast_dtype: torch.dtype | None,
        processes: Processes = ONE_PROCESS,
    ) -> Metrics:
        """Return mean loss and perplexity of the references' tokens."""
        most = self.settings.loss_references
        examples = [each for each in data.encoded if most is None or each["reference"] < most]
        collate = self.collate(tokenizer)
        return token_loss(model, examples, collate, autocast_dtype=autocast_dtype, processes=processes)

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
        """Return loss, perplexity and the metrics of the texts that are found by beam search, and the texts."""
        found = validated or self.validate(model, data, tokenizer, autocast_dtype=autocast_dtype, processes=processes)
        sources = [row["source"] for row in data.rows]
        references = [list(row["references"]) for row in data.rows]
        outputs = decode(model, tokenizer, sources, self.decoding, autocast_dtype=autocast_dtype, processes=processes)
        metrics = found | score_texts(self.metrics, outputs, references)
        predictions = [
            {"id": row["id"], "source": source, "output": output, "references": those}
            for row, source, output, those in zip(data.rows, sources, outputs, references, strict=True)
        ]
        return Evaluated(metrics, predictions, self._files(outputs, references, metrics))

    def _files(self, outputs: list[str], references: list[list[str]], metrics: Metrics) -> dict[str, str]:
        """Return the files that the official E2E scorer reads, and the scores with how they came about."""
        scores = {"metrics": metrics, "rows": len(outputs), "decoding": resolved(self.decoding)}
        return {
            "outputs.txt": "".join(f"{each}\n" for each in outputs),
            "references.txt": "\n".join("".join(f"{each}\n" for each in those) for those in references),
            "scores.json": json.dumps(scores, indent=2) + "\n",
        }
