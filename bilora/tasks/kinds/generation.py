"""Generation of a text from an input, by a causal language model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from bilora.data.collate import Collate
from bilora.data.row_sets import TaskRows
from bilora.data.rows import Rows
from bilora.errors import SettingsError
from bilora.metrics.monitor import Monitor
from bilora.metrics.texts import score_texts, text_metric
from bilora.processes.alone import ONE_PROCESS, Processes
from bilora.settings.checked import resolved
from bilora.tasks.generation.batches import PairCollator, encode_pairs
from bilora.tasks.generation.sources import load_generation_rows
from bilora.tasks.generation.task import GenerationTask
from bilora.tasks.kinds.decoding import decode
from bilora.tasks.kinds.generation_loss import token_loss
from bilora.tasks.kinds.generation_settings import GenerationSettings
from bilora.tasks.kinds.kind import EncodedRows, Evaluated, Metrics
from bilora.tasks.sources import take_rows


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
