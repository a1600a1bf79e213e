"""What every metric of generated text shares: outputs, several references each, one number for the whole set."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Sequence

import datasets
import evaluate

from bilora.errors import DataError
from bilora.metrics.task_metrics import UndefinedMetricWarning

References = Sequence[Sequence[str]]


class TextMetric(evaluate.Metric, abc.ABC):  # type: ignore[misc]  # evaluate has no types
    """An ``evaluate.Metric`` over texts: one prediction and one or more references an item.

    A subclass names itself in ``key`` and computes :meth:`score`. Items may have different numbers of references.

    Example:
        >>> class Equal(TextMetric):
        ...     key = "equal"
        ...     def score(self, predictions, references):
        ...         return sum(each in those for each, those in zip(predictions, references)) / len(predictions)
        >>> Equal().compute(predictions=["a", "b"], references=[["a", "c"], ["c"]])
        {'equal': 0.5}
    """

    key: str
    greater_is_better = True

    def __init__(self) -> None:
        # Values are kept in memory: cache files would collide when two runs score at once.
        # The seed is given because evaluate would take it from numpy's global state.
        super().__init__(config_name=self.key, keep_in_memory=True, seed=0)

    @abc.abstractmethod
    def score(self, predictions: Sequence[str], references: References) -> float | None:
        """Return the metric of the whole set, or None where it has no value."""

    def _build_data_dir(self) -> str:
        return str(self._data_dir_root)  # evaluate would make an empty folder in the user's cache here

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=str(type(self).__doc__).splitlines()[0],
            citation="",
            inputs_description="predictions: one text an item; references: a list of texts an item",
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        )

    def _compute(self, predictions: Sequence[str], references: References) -> dict[str, float | None]:
        bare = [index for index, those in enumerate(references) if not those]
        if bare:
            raise DataError(f"item {bare[0] + 1} of the references has none; each item needs one or more")
        value = self.score(predictions, references)
        if value is None:
            text = f"{self.key} is undefined for {len(predictions)} predictions"
            warnings.warn(text, UndefinedMetricWarning, stacklevel=2)
        return {self.key: value}
