"""chrF of a set of generated texts, by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence

from bilora.metrics.bleu import padded_streams
from bilora.metrics.text_metric import References, TextMetric
from bilora.settings.lookup import import_extra


class Chrf(TextMetric):
    """chrF (Popovic 2015): F-score, recall weighted twice, over character n-grams up to six, best reference an item.

    Args:
        word_order: Longest word n-gram that counts too; 2 gives chrF++.

    Example:
        >>> Chrf().compute(predictions=["the cat"], references=[["the cat", "a cat"]])
        {'chrf': 1.0}
    """

    key = "chrf"

    def __init__(self, *, word_order: int = 0) -> None:
        self.word_order = word_order
        super().__init__()

    def score(self, predictions: Sequence[str], references: References) -> float:
        """Return chrF as a fraction of one."""
        scorer = import_extra("sacrebleu", extra="nlg").CHRF(word_order=self.word_order)
        return float(scorer.corpus_score(list(predictions), padded_streams(references)).score) / 100
