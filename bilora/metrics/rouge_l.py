"""ROUGE-L of a set of generated texts, as the COCO caption tools and the official E2E scorer define it."""

from __future__ import annotations

from collections.abc import Sequence

from bilora.metrics.ptb_tokens import ptb_tokens
from bilora.metrics.text_metric import References, TextMetric

_BETA = 1.2


class RougeL(TextMetric):
    """ROUGE-L (Lin 2004): F-score of the longest common subsequence, recall and precision each of the best reference.

    ``(1 + beta^2) P R / (R + beta^2 P)`` with beta = 1.2, averaged over items, over tokens without punctuation:
    the definition of the COCO caption tools (Chen et al. 2015), which the official E2E scorer calls. Other packages
    take beta = 1 and other tokens.

    Example:
        >>> RougeL().compute(predictions=["a b c d"], references=[["a x b y", "c d"]])  # P = 1/2, R = 1
        {'rouge_l': 0.709...}
    """

    key = "rouge_l"

    def score(self, predictions: Sequence[str], references: References) -> float:
        """Return the mean F-score as a fraction of one."""
        scores = [_item(ptb_tokens(text), those) for text, those in zip(predictions, references, strict=True)]
        return sum(scores) / len(scores)


def _item(tokens: list[str], references: Sequence[str]) -> float:
    precision = recall = 0.0
    for reference in map(ptb_tokens, references):
        common = longest_common_subsequence(tokens, reference)
        precision = max(precision, common / max(1, len(tokens)))
        recall = max(recall, common / max(1, len(reference)))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def longest_common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    Example:
        >>> longest_common_subsequence("a b c d".split(), "b x d".split())
        2
    """
    above = [0] * (len(other) + 1)
    for word in one:
        row = [0]
        for column, each in enumerate(other):
            row.append(above[column] + 1 if word == each else max(above[column + 1], row[column]))
        above = row
    return above[-1]
