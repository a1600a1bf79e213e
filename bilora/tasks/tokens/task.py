"""Classification of every token of a row."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy
from torch import Tensor
from torch.nn import functional

from bilora.data.faults import Fault
from bilora.data.loaders import Collate
from bilora.data.rows import Row, Rows
from bilora.errors import DataError, SettingsError
from bilora.metrics.tokens import TOKEN_MEASURES, Counts, token_metric
from bilora.tasks.labels import LabelledFiles, are_lists, label_settings, listed
from bilora.tasks.scoring import in_row_order, one_class, ordered_loader, predicted_batches, short_chance
from bilora.tasks.task import IGNORED, Answers, AnyTask, BaseTask, EncodedRows, Evaluated, HubNames, Inference, Metrics
from bilora.tasks.tokens.batches import collate_tokens, encode_tokens
from bilora.tasks.tokens.rows import OUTSIDE, check_row


@dataclass(frozen=True)
class TokenTask(BaseTask):
    """A token classification task: a head over every token, cross entropy over the tags of first pieces."""

    # Where the tags mark entities (IOB2) the score is the F1 of whole entities, as CoNLL's is: an entity of which a
    # token is missed is no use. Other tags are scored one by one.
    task_types = ("token_classification",)
    hub_names = HubNames("TOKEN_CLS", "token-classification", "AutoModelForTokenClassification")
    # Byte-level tokenizers (RoBERTa, GPT-2) take a token for the middle of a word without it; others ignore it.
    tokenizer_settings = {"add_prefix_space": True}
    greater_is_better = True

    name: str
    label_names: tuple[str, ...]  # the tags, in the order of the class indices
    tokens_field: str = "tokens"
    tags_field: str = "tags"  # a tag, or the index of one, for each token
    validation_splits: tuple[str, ...] = ("validation",)
    hub: str | None = None
    labels_from: str | None = None  # the file whose tags label_names are; tags are then read as names only

    def __post_init__(self) -> None:
        names = self.label_names
        few = len(names) < 2 or len(set(names)) < len(names)
        self._refuse(
            (few, f"label_names are {names!r}; give two or more different tags"),
            (self.tokens_field == self.tags_field, f"tokens_field and tags_field are both {self.tags_field!r}"),
        )

    @property
    def marks_entities(self) -> bool:
        """Whether the tags mark entities, in IOB2."""
        return all(name == OUTSIDE or name[:2] in ("B-", "I-") and len(name) > 2 for name in self.label_names)

    @property
    def metric(self) -> str:  # type: ignore[override]  # it follows from the tags, and no one sets it
        """Key of the headline metric."""
        return self.metric_keys[0]

    @property
    def metric_keys(self) -> tuple[str, ...]:
        """Keys of all the task's metrics, the headline one first."""
        # Accuracy comes last: most tokens are in no entity, so it is high for a model that finds none.
        entities = ("entity_f1", "entity_precision", "entity_recall") if self.marks_entities else ()
        return (*entities, "token_accuracy")

    @property
    def columns(self) -> LabelledFiles:
        """The column of tokens and that of tags."""
        return LabelledFiles("", (self.tokens_field,), self.tags_field)

    @property
    def model_settings(self) -> Mapping[str, Any]:
        """Number and names of the tags."""
        return label_settings(self.label_names)

    def check_row(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
        """Return the row with its tags as class indices, and everything wrong with it."""
        return check_row(row, self)

    def text_of(self, row: Mapping[str, Any]) -> Hashable:
        """Return the tokens of a row."""
        return tuple(row[self.tokens_field])

    def with_stand_in(self, row: Row) -> dict[str, Any]:
        """Return the row with the same tag for every token."""
        tokens = row.get(self.tokens_field)
        # A row of O is in order, whatever its length; one of I- would be refused.
        tag = OUTSIDE if OUTSIDE in self.label_names else self.label_names[0]
        return {**row, self.tags_field: [tag] * (len(tokens) if isinstance(tokens, list | tuple) else 0)}

    def encode(self, rows: Rows, tokenizer: Any, *, max_length: int) -> EncodedRows:
        """Return the tokens as ids of pieces, with a notice of those that did not fit."""
        encoded = encode_tokens(rows, tokenizer, self, max_length=max_length)
        pairs = zip(rows, encoded, strict=True)
        lost = [len(row[self.tokens_field]) - len(pieces["positions"]) for row, pieces in pairs]
        # A row that is cut stays, since its first tokens teach as well as any.
        notice = (
            f"{sum(count > 0 for count in lost)} of the {len(rows)} rows of {rows.source} are longer than max_length "
            f"{max_length}: {sum(lost)} tokens are not seen by the model, and count as not found"
        )
        return EncodedRows(rows, encoded, (notice,) if any(lost) else ())

    def collator(self, tokenizer: Any) -> Collate:
        """Return a collator that pads to the longest row."""
        return functools.partial(collate_tokens, tokenizer=tokenizer)

    def load_model(self, place: str, **options: Any) -> tuple[Any, Mapping[str, Any]]:
        """Return the model, without dropout before the head where its config has none anywhere."""
        model, loading = super().load_model(place, **options)
        config = model.config.to_dict()
        # transformers puts 0.1 there, which no decoder's config asks for.
        if not any(value for name, value in config.items() if "dropout" in name) and hasattr(model, "dropout"):
            model.dropout.p = model.config.classifier_dropout = 0.0
        return model, loading

    def class_counts(self, rows: Rows) -> dict[str, int]:
        """Return the number of tokens of each tag."""
        counts = Counter(tag for row in rows for tag in row[self.tags_field])
        return {name: counts[index] for index, name in enumerate(self.label_names)}

    def validate(self, inference: Inference, data: EncodedRows) -> Evaluated:
        """Return the mean loss over the labelled tokens, metrics over all tokens, and the tags of every row."""
        total, count, pieces, chances = 0.0, 0, [], []
        for logits, labels in self._batches(inference, data):
            # In float64, so that the mean does not depend on how the rows fall into batches.
            flat = logits.double().flatten(0, 1)
            total += float(functional.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="sum"))
            count += int((labels != IGNORED).sum())
            pieces += [self._named(row) for row in _first_pieces(logits.argmax(dim=-1), labels)]
            chances += list(_first_pieces(logits.double().softmax(dim=-1).amax(dim=-1), labels))
        # A token behind max_length counts as predicted to be in no entity; without O, as predicted wrongly.
        tags = self._by_token(data, pieces, unseen=OUTSIDE if OUTSIDE in self.label_names else "")
        references = [self._named(row[self.tags_field]) for row in data.rows]
        tokens = [list(row[self.tokens_field]) for row in data.rows]
        scores = token_metric(self).compute(predictions=tags, references=references)
        metrics: Metrics = {"loss": total / count if count else None, **scores}
        confidence = self._by_token(data, [list(map(short_chance, row)) for row in chances], unseen=None)
        columns = (data.rows.ids, data.rows.lines, tokens, references, tags, confidence)
        names = ("row", "line", "tokens", "tags", "predicted", "confidence")
        predictions = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        notices = one_class(chain.from_iterable(tags), chain.from_iterable(references), of="tokens")
        return Evaluated(metrics, predictions, notices=notices)

    def answers(self, inference: Inference, rows: Rows, *, max_length: int) -> Answers:
        """Return ``tokens``, and for each its ``prediction`` and ``probabilities``, null where the row was cut."""
        data = self.encode(rows, inference.tokenizer, max_length=max_length)
        tags, chances = [], []
        for logits, labels in self._batches(inference, data):
            best = logits.double().softmax(dim=-1).max(dim=-1)
            tags += [self._named(row) for row in _first_pieces(best.indices, labels)]
            chances += list(_first_pieces(best.values, labels))
        columns = (self._by_token(data, pieces, unseen=None) for pieces in (tags, chances))
        answers = [
            {"tokens": list(row[self.tokens_field]), "prediction": prediction, "probabilities": probabilities}
            for row, prediction, probabilities in zip(rows, *columns, strict=True)
        ]
        return answers, data.notices

    def rescored(self, predictions: Sequence[Mapping[str, Any]]) -> Callable[[Any], float]:
        """Return the headline metric as a function of row numbers."""
        share = TOKEN_MEASURES[self.metric]
        # Once per row: the counts of a resample are sums of these.
        counts = [share.count([row["predicted"]], [row["tags"]]) for row in predictions]
        by_row = numpy.asarray([dataclasses.astuple(of_row) for of_row in counts])
        return lambda rows: share.of(Counts(*by_row[rows].sum(axis=0).tolist()))

    def _batches(self, inference: Inference, data: EncodedRows) -> Iterator[tuple[Tensor, Tensor]]:
        return predicted_batches(inference, ordered_loader(data.encoded, self.collator(inference.tokenizer)))

    def _named(self, indices: Sequence[int]) -> list[str]:
        return [self.label_names[index] for index in indices]

    def _by_token(self, data: EncodedRows, pieces: Sequence[Sequence[Any]], *, unseen: Any) -> list[list[Any]]:
        # The pieces come row by row in order of length, as the loader gives them; the values go back in order of rows.
        values = [[unseen] * len(row[self.tokens_field]) for row in data.rows]
        for row_values, encoded, found in zip(values, data.encoded, in_row_order(pieces, data.encoded), strict=True):
            for position, value in zip(encoded["positions"], found, strict=True):
                row_values[position] = value
        return values

    @classmethod
    def guess(cls, rows: Sequence[Row], files: LabelledFiles) -> str | None:
        """Return ``token_classification`` where texts and labels are lists."""
        both = are_lists(rows, files.label_field) and are_lists(rows, files.text_columns[0])
        return "token_classification" if both else None

    @classmethod
    def from_rows(cls, rows: Sequence[Row], files: LabelledFiles, task_type: str) -> AnyTask:
        """Return a task whose tags are those of the rows."""
        columns = files.text_columns
        if len(columns) != 1:
            raise SettingsError(f"text_columns is {columns!r}; token classification reads one column of tokens")
        tags = {tag for tag in listed(rows, files) if isinstance(tag, str)}
        if len(tags) < 2:
            raise DataError(
                f"{files.train}: the tags in {files.label_field!r} are {', '.join(tags) or 'no text'}; token "
                "classification needs a list of tags per row, as text, and two different ones"
            )
        return cls(files.name, tuple(tags_in_order(tags)), columns[0], files.label_field, labels_from=files.train)


def tags_in_order(tags: Iterable[str]) -> list[str]:
    """Return tags with ``O`` first, and the two of an entity type beside each other."""
    return sorted(tags, key=lambda tag: (tag != OUTSIDE, tag[2:] if tag[:2] in ("B-", "I-") else tag, tag))


def _first_pieces(values: Tensor, labels: Tensor) -> Iterator[list[Any]]:
    # Only the first piece of a token has a label: it answers for the whole token.
    return (row[row_labels != IGNORED].tolist() for row, row_labels in zip(values, labels, strict=True))
