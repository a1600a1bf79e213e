"""Translation edit rate of a set of generated texts, by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence

from bilora.metrics.bleu import padded_streams
from bilora.metrics.text_metric import References, TextMetric
from bilora.settings.lookup import import_extra


class Ter(TextMetric):
    """TER (Snover et al. 2006): edits and block shifts to the nearest reference, by the mean reference length.

    Not case-sensitive. Smaller is better, and above one where more has to be edited than the references have words.

    Example:
        >>> Ter().compute(predictions=["the dog sat"], references=[["the cat sat", "dogs"]])
        {'ter': 0.5}
    """

    key = "ter"
    greater_is_better = False

    def score(self, predictions: Sequence[str], references: References) -> float:
        """Return edits by reference words."""
        scorer = import_extra("sacrebleu", extra="nlg").TER()
        return float(scorer.corpus_score(list(predictions), padded_streams(references)).score) / 100
