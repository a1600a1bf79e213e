"""Generation of a text from an input, by a causal language model."""

import dataclasses
import json
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from bilora.data.faults import Fault
from bilora.data.loaders import Collate
from bilora.data.rows import Row, Rows, check_record, check_records
from bilora.data.sets import TaskRows, shared_texts
from bilora.data.tables import Record
from bilora.errors import DataError, SettingsError
from bilora.metrics.monitor import Monitor
from bilora.metrics.texts import score_texts, text_metric
from bilora.settings.sections import build_section, refuse_faults, resolved
from bilora.tasks.generation.batches import PairCollator, encode_pairs
from bilora.tasks.generation.decoding import Decoding, decode, one_line, token_loss
from bilora.tasks.generation.layouts import read_references, read_source
from bilora.tasks.generation.prompts import AsWritten
from bilora.tasks.generation.rows import SET_FILES, join_references, read_entries, read_generation_file
from bilora.tasks.labels import LabelledFiles
from bilora.tasks.sources import read_sets, take_rows
from bilora.tasks.task import Answers, AnyTask, BaseTask, EncodedRows, Evaluated, HubNames, Inference, Metrics


@dataclass(frozen=True)
class GenerationSettings:
    """Which rows of a data-to-text task are scored, by what, and how its texts are searched for.

    Args:
        d2: ``validation``: D1 is the training set, D2 the validation set, and the test set is scored; ``split``: D1
            and D2 are drawn from the training set, and the validation set is scored.
        metrics: Names of metrics, the headline one first; None takes the task's.
        generate_rows: Rows of the scored set that are read, for loss and texts alike, the same ones in every run;
            None takes all.
        loss_references: References of a row that enter the losses that are reported; None takes all.
        beams: See :class:`~bilora.tasks.generation.decoding.Decoding`.
        length_penalty: Of Decoding; None takes the task's.
        no_repeat_ngram_size: Of Decoding.
        max_new_tokens: Of Decoding.
        generate_batch: Rows searched at once.

    Raises:
        SettingsError: A value is out of range.
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
        names, rows, references = self.metrics, self.generate_rows, self.loss_references
        once = names is None or (bool(names) and len(set(names)) == len(names))
        checks = (
            ("d2", "allowed: validation, split", self.d2 in ("validation", "split")),
            ("metrics", "give at least one, each once", once),
            ("generate_rows", "it must be at least 1, or none for all", rows is None or rows >= 1),
            ("loss_references", "it must be at least 1, or none for all", references is None or references >= 1),
        )
        refuse_faults("task_settings", self, checks)
        # Decoding refuses what is wrong with its part of the settings, here and not at the end of a run.
        self.decoding(1.0)

    def decoding(self, length_penalty: float) -> Decoding:
        """Return how texts are searched for, with the task's length penalty where none is set."""
        penalty = length_penalty if self.length_penalty is None else self.length_penalty
        return Decoding(self.beams, penalty, self.no_repeat_ngram_size, self.max_new_tokens, self.generate_batch)


@dataclass(frozen=True)
class GenerationTask(BaseTask):
    """A task whose answer is a text: a causal model reads an input and goes on with a text."""

    task_types = ("generation",)
    hub_names = HubNames("CAUSAL_LM", "text-generation", "AutoModelForCausalLM", has_head=False)
    default_model = "smollm2"
    # The metrics of texts need a search, which is too slow to choose a step by.
    watched = Monitor("loss", greater_is_better=False)

    name: str
    metric: str = "bleu"
    other_metrics: tuple[str, ...] = ()
    greater_is_better: bool = True
    length_penalty: float = 1.0  # exponent of the length by which beam search divides a text's log-probability
    lowercase_properties: bool = False  # of triples
    validation_splits: tuple[str, ...] = ("test",)
    upper_split: str | None = "validation"
    hub: str | None = None
    hub_config: str | None = None
    # Not compared: the file beside an adapter leaves the settings out, and the task is the same one.
    settings: GenerationSettings = field(default_factory=GenerationSettings, compare=False)

    def __post_init__(self) -> None:
        if len(set(self.metric_keys)) < len(self.metric_keys):
            raise SettingsError(f"task {self.name!r}: metrics {self.metric_keys} name one more than once")

    @property
    def decoding(self) -> Decoding:
        """How texts are searched for."""
        return self.settings.decoding(self.length_penalty)

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """Return the task with other metrics, sets or decoding."""
        checked = build_section(GenerationSettings, settings, kind=f"task_settings of task {self.name!r}")
        changes: dict[str, Any] = {"settings": checked}
        if checked.d2 == "split":
            changes |= {"upper_split": None, "validation_splits": ("validation",)}
        if checked.metrics is not None:
            first, *others = checked.metrics
            greater = text_metric(first).greater_is_better
            changes |= {"metric": first, "other_metrics": tuple(others), "greater_is_better": greater}
        task = dataclasses.replace(self, **changes)
        for key in task.metric_keys:
            text_metric(key)  # refuses a name that is unknown, or a metric that cannot be computed here
        return task

    def load_rows(self, data_dir: str | os.PathLike[str] | None) -> TaskRows:
        """Return the rows, those with the same input joined; of the scored set as many as the settings say."""
        sets, notices = read_sets(self, data_dir, SET_FILES)
        for name, rows in sets.items():
            if blank := sum(row["blank"] for row in rows):
                notices.append(f"{blank} blank references of the {name} set are left out")
        sets = {name: join_references(rows) for name, rows in sets.items()}
        for name, rows in sets.items():
            if name != "train" and (shared := shared_texts(self, sets["train"], rows)):
                notices.append(f"{shared} of {len(rows)} {name} rows have the input of a training row")
        scored = {name: sets[name] for name in self.validation_splits}
        if (most := self.settings.generate_rows) is not None:
            counts = {name: min(most, len(rows)) for name, rows in scored.items()}
            notices += [f"{count} of the {len(scored[name])} {name} rows are scored" for name, count in counts.items()]
            # The seed is fixed: runs with different seeds are scored on the same rows.
            scored = {name: take_rows(scored[name], count, seed=0) for name, count in counts.items()}
        upper = None if self.upper_split is None else sets[self.upper_split]
        return TaskRows(self, sets["train"], scored, tuple(notices), upper=upper)

    def read_rows(self, path: str, *, labelled: bool) -> Rows:
        """Return the rows of a file, in any of the layouts that are published."""
        # Whatever stands for references in a file to be predicted is not looked at.
        task = self if labelled else _WithoutReferences(**vars(self))
        return read_generation_file(Path(path), task, split="evaluation" if labelled else "prediction")

    @property
    def text_columns(self) -> tuple[str, ...]:
        """None: the input is found in the fields of any layout that is published."""
        return ()

    def own_records(self, path: str) -> list[Record] | None:
        """Return the entries of a ``.json`` or ``.xml`` file."""
        return read_entries(Path(path))

    def check_unlabelled(self, record: Record) -> tuple[dict[str, Any], list[Fault]]:
        """Return input and id, whatever stands for references, and everything wrong with the row."""
        return check_record(record, _WithoutReferences(**vars(self)))

    def unlabelled_rows(self, records: Sequence[Record], *, source: str) -> Rows:
        """Return records as checked rows, whatever stands for their references."""
        return check_records(records, _WithoutReferences(**vars(self)), source=source, split="prediction")

    def check_row(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
        """Return input, references (blank ones are counted and left out) and id, and everything wrong with the row."""
        source, faults = read_source(row, lowercase_properties=self.lowercase_properties)
        references, more = read_references(row)
        kept = [reference for reference in references if reference]
        blank = len(references) - len(kept)
        # One's own file may have a column by which rows belong together.
        own = row if isinstance(source, AsWritten) else {}
        checked = {**own, "id": row.get("id"), "source": source, "references": kept, "blank": blank, "label": None}
        return checked, [*faults, *more]

    def text_of(self, row: Mapping[str, Any]) -> Hashable:
        """Return the input of a row."""
        source: str = row["source"]
        return source

    def examples_of(self, row: Mapping[str, Any]) -> int:
        """Return the number of references."""
        return len(row["references"])

    def encode(self, rows: Rows, tokenizer: Any, *, max_length: int) -> EncodedRows:
        """Return every pair of an input and a reference as token ids."""
        examples, cut = encode_pairs(rows, tokenizer, max_length=max_length)
        notice = f"{cut} of {len(examples)} texts of {rows.source} are cut at max_length {max_length}"
        return EncodedRows(rows, examples, (notice,) if cut else ())

    def collator(self, tokenizer: Any) -> Collate:
        """Return a collator that pads on the right."""
        return PairCollator(tokenizer.pad_token_id)

    def class_counts(self, rows: Rows) -> dict[str, int]:
        """Raise: a text is no class."""
        raise SettingsError(f"task {self.name!r} generates texts and has no classes to count")

    def validate(self, inference: Inference, data: EncodedRows) -> Evaluated:
        """Return mean loss and perplexity of the references' tokens."""
        most = self.settings.loss_references
        examples = [example for example in data.encoded if most is None or example["reference"] < most]
        return Evaluated(token_loss(inference, examples, self.collator(inference.tokenizer)))

    def evaluate(self, inference: Inference, data: EncodedRows, validated: Evaluated | None = None) -> Evaluated:
        """Return loss, perplexity and the metrics of the texts that are found by beam search, and the texts."""
        # Losses may be those of the last validation; texts are searched for at the end only.
        losses = (validated or self.validate(inference, data)).metrics
        sources = [row["source"] for row in data.rows]
        references = [list(map(one_line, row["references"])) for row in data.rows]
        outputs = list(map(one_line, decode(inference, sources, self.decoding)))
        metrics = losses | score_texts([text_metric(key) for key in self.metric_keys], outputs, references)
        predictions = [
            {"id": row["id"], "line": line, "source": source, "output": output, "references": those}
            for row, line, source, output, those in zip(
                data.rows, data.rows.lines, sources, outputs, references, strict=True
            )
        ]
        return Evaluated(metrics, predictions, self._files(outputs, references, metrics))

    def answers(self, inference: Inference, rows: Rows, *, max_length: int) -> Answers:
        """Return ``source``, the input as the model reads it, and ``prediction``."""
        sources = [row["source"] for row in rows]
        pairs = zip(sources, decode(inference, sources, self.decoding), strict=True)
        return [{"source": source, "prediction": text} for source, text in pairs], ()

    @classmethod
    def guess(cls, rows: Sequence[Row], files: LabelledFiles) -> str | None:
        """Return ``generation`` for columns of prompts and completions, or of messages."""
        return "generation" if files.generates else None

    @classmethod
    def from_rows(cls, rows: Sequence[Row], files: LabelledFiles, task_type: str) -> AnyTask:
        """Return a task of the validation rows of a file."""
        if not files.generates:
            raise DataError(
                f"{files.train}: to generate, the columns are called prompt and completion, or messages; rename "
                f"{files.text_columns[0]!r} and {files.label_field!r}"
            )
        return cls(files.name, other_metrics=("chrf",), validation_splits=("validation",), upper_split=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields but the settings, which the config of a run holds."""
        return {name: value for name, value in super().to_dict().items() if name != "settings"}

    def _files(self, outputs: list[str], references: list[list[str]], metrics: Metrics) -> dict[str, str]:
        # The first two are as the official E2E scorer reads them: a line per text, a blank one between inputs.
        scores = {"metrics": metrics, "rows": len(outputs), "decoding": resolved(self.decoding)}
        return {
            "outputs.txt": "".join(f"{output}\n" for output in outputs),
            "references.txt": "\n".join("".join(f"{text}\n" for text in texts) for texts in references),
            "scores.json": json.dumps(scores, indent=2) + "\n",
        }


class _WithoutReferences(GenerationTask):
    """A task whose rows need no references; those that are there are not looked at."""

    def check_row(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
        # Of several fields with references the first counts, and this is the first.
        return super().check_row({**row, "references": ["-"]})
