"""The metrics of generated text by name, those of sacrebleu among them, and all those of a task at once."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

from bilora.errors import DataError
from bilora.metrics.coco import Cider, RougeL
from bilora.metrics.meteor import Meteor
from bilora.metrics.metric import References, TextMetric
from bilora.metrics.nist import Nist
from bilora.settings.lookup import find, import_extra


class Sacrebleu(TextMetric):
    """A corpus score of sacrebleu's class ``scorer``, as a fraction of one."""

    def __init__(self, key: str, scorer: str, *, greater_is_better: bool = True, **options: Any) -> None:
        self.key, self.greater_is_better = key, greater_is_better
        self._scorer = partial(getattr(import_extra("sacrebleu", extra="nlg"), scorer), **options)
        super().__init__()

    def score(self, predictions: Sequence[str], references: References) -> float:
        """Return the score of sacrebleu, which counts in percent."""
        # One list per reference number, None where an item has no more.
        streams = [list(texts) for texts in zip_longest(*references)]
        return float(self._scorer().corpus_score(list(predictions), streams).score) / 100


TEXT_METRICS: dict[str, Callable[[], TextMetric]] = {
    # BLEU (Papineni et al. 2002) with four n-gram orders over mteval-13a tokens, lower-cased as in the official E2E
    # scorer and in the LoRA paper's scoring of WebNLG and DART (https://github.com/microsoft/LoRA, examples/NLG).
    # Unlike in mteval, orders without a match are smoothed, and the closest reference gives the length. force: these
    # texts are detokenised, whatever spaces stand before their full stops, and need no warning.
    "bleu": partial(Sacrebleu, "bleu", "BLEU", lowercase=True, force=True),
    "nist": Nist,
    "meteor": Meteor,
    "rouge_l": RougeL,
    "cider": Cider,
    # chrF (Popovic 2015): F-score, recall weighted twice, over character n-grams up to six, best reference per item.
    "chrf": partial(Sacrebleu, "chrf", "CHRF"),
    # TER (Snover et al. 2006): edits and block shifts to the nearest reference, by the mean reference length, whatever
    # the case. It is above one where more has to be edited than the references have words.
    "ter": partial(Sacrebleu, "ter", "TER", greater_is_better=False),
}


def text_metric(name: str) -> TextMetric:
    """Return the metric called ``name``, or a user's own at ``package.module:NAME``."""
    metric: TextMetric = find(TEXT_METRICS, name, kind="metric")()
    # A task looks the value up by the name in its settings, which is a path where the metric is the user's.
    metric.measures = {name: metric.score}
    return metric


def score_texts(
    metrics: Sequence[TextMetric], outputs: Sequence[str], references: References
) -> dict[str, float | None]:
    """Return every metric of a set of outputs, one text per item, by its key."""
    if not outputs or len(outputs) != len(references):
        raise DataError(f"{len(outputs)} outputs for {len(references)} items with references; there must be one each")
    values: dict[str, float | None] = {}
    for metric in metrics:
        values |= metric.compute(predictions=list(outputs), references=[list(texts) for texts in references])
    return values
