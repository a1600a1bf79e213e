"""The base of every metric: an ``evaluate.Metric`` over a table of measures, which asks no hub and writes no file."""

import abc
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import evaluate

from bilora.errors import DataError

# From predictions and references of a whole set to one number; raises Undefined where there is none.
Compute = Callable[[Any, Any], float]

References = Sequence[Sequence[str]]

NUMBER, INDEX, TEXT = (datasets.Value(name) for name in ("float64", "int64", "string"))


class Undefined(ArithmeticError):
    """A measure has no value; the text says why."""


class UndefinedMetricWarning(UserWarning):
    """A metric has no value for these predictions and is given as None."""


class Metric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """The measures of one task by key, the headline one first; an undefined one is None, with a warning.

    ``prediction`` and ``reference`` are the ``datasets`` features of one row; both columns go through ``convert``.
    """

    def __init__(
        self,
        title: str,
        measures: Mapping[str, Compute],
        prediction: Any,
        reference: Any = None,
        *,
        convert: Callable[[Any], Any] = list,
    ) -> None:
        self.title, self.measures, self.convert = title, measures, convert
        self._columns = {"predictions": prediction, "references": reference or prediction}
        # Values are kept in memory: cache files would collide when two runs score at once.
        # The seed is given because evaluate would take it from numpy's global state.
        super().__init__(config_name=title, keep_in_memory=True, seed=0)

    def _build_data_dir(self) -> str:
        return str(self._data_dir_root)  # evaluate would make an empty folder in the user's cache here

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=f"{', '.join(self.measures)} of {self.title}",
            citation="",
            inputs_description="predictions and references: one item per row",
            features=datasets.Features(self._columns),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float | None]:
        columns = self.convert(predictions), self.convert(references)
        return {key: self._value(key, *columns) for key in self.measures}

    def _value(self, key: str, predictions: Any, references: Any) -> float | None:
        try:
            return self.measures[key](predictions, references)
        except Undefined as reason:
            text = f"{key} of {self.title} is undefined: {reason}"
            warnings.warn(text, UndefinedMetricWarning, stacklevel=2)
            return None


class TextMetric(Metric, abc.ABC):
    """A metric of generated texts: one prediction and one or more references per item, one number for the whole set.

    A subclass names itself in ``key`` and computes :meth:`score`. Items may have different numbers of references.

    Example:
        >>> class Equal(TextMetric):
        ...     key = "equal"
        ...     def score(self, predictions, references):
        ...         return sum(text in allowed for text, allowed in zip(predictions, references)) / len(predictions)
        >>> Equal().compute(predictions=["a", "b"], references=[["a", "c"], ["c"]])
        {'equal': 0.5}
    """

    key: str
    greater_is_better = True

    def __init__(self) -> None:
        super().__init__("the texts", {self.key: self.score}, TEXT, datasets.Sequence(TEXT))

    @abc.abstractmethod
    def score(self, predictions: Sequence[str], references: References) -> float:
        """Return the metric of the whole set; raise :class:`Undefined` where it has no value."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float | None]:
        bare = [index for index, texts in enumerate(references, start=1) if not texts]
        if bare:
            raise DataError(f"item {bare[0]} of the references has none; each item needs one or more")
        return super()._compute(predictions, references)
