"""The metrics of generated text by name, and all those of a task at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bilora.errors import DataError
from bilora.metrics.bleu import Bleu
from bilora.metrics.chrf import Chrf
from bilora.metrics.cider import Cider
from bilora.metrics.meteor import Meteor
from bilora.metrics.nist import Nist
from bilora.metrics.rouge_l import RougeL
from bilora.metrics.ter import Ter
from bilora.metrics.text_metric import References, TextMetric
from bilora.settings.lookup import find

TEXT_METRICS: dict[str, Callable[[], TextMetric]] = {
    "bleu": Bleu,
    "nist": Nist,
    "meteor": Meteor,
    "rouge_l": RougeL,
    "cider": Cider,
    "chrf": Chrf,
    "ter": Ter,
}
"""Every metric by name; ``meteor`` needs Java."""


def text_metric(name: str) -> TextMetric:
    """Return the metric called ``name``, or a user's own at ``package.module:NAME``.

    Raises:
        SettingsError: There is no such metric, or what it needs is missing.

    Example:
        >>> text_metric("ter").greater_is_better
        False
    """
    made: TextMetric = find(TEXT_METRICS, name, kind="metric")()
    return made


def score_texts(
    metrics: Sequence[TextMetric], outputs: Sequence[str], references: References
) -> dict[str, float | None]:
    """Return every metric of a set of outputs by its key.

    Args:
        metrics: From :func:`text_metric`.
        outputs: One text an item.
        references: One or more texts an item.

    Raises:
        DataError: There is no item, or not the same number of both.

    Example:
        >>> score_texts([text_metric("rouge_l"), text_metric("ter")], ["a b c d"], [["a b c d", "a"]])
        {'rouge_l': 1.0, 'ter': 0.0}
    """
    if not outputs or len(outputs) != len(references):
        raise DataError(f"{len(outputs)} outputs for {len(references)} items with references; there must be one each")
    values: dict[str, float | None] = {}
    for metric in metrics:
        values |= metric.compute(predictions=list(outputs), references=[list(those) for those in references])
    return values
