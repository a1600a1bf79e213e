"""NIST score of a set of generated texts, as NIST's mteval-13a and the official E2E scorer define it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from bilora.metrics.mteval_tokens import mteval_tokens
from bilora.metrics.text_metric import References, TextMetric

Ngram = tuple[str, ...]

# A text two thirds as long as its references keeps half of its score.
_BETA = math.log(0.5) / math.log(1.5) ** 2


class Nist(TextMetric):
    """NIST score (Doddington 2002, equation 3) of n-grams weighted by information, over mteval-13a tokens.

    Sum over n = 1..5 of the information of matched n-grams by the number of n-grams in the predictions, times
    ``exp(beta * ln(min(1, L_sys / L_ref))^2)``, where L_ref is the mean length of an item's references, summed.
    ``info(w_1..w_n) = log2(count(w_1..w_{n-1}) / count(w_1..w_n))``, counted over all references; matches are
    clipped at the largest count in any one reference. Lower-cased, as in the official E2E scorer.

    Args:
        order: Longest n-gram.

    Example:
        >>> metric = Nist(order=1)
        >>> metric.compute(predictions=["a b"], references=[["a b", "a c"]])  # log2(4 / 2), and log2(4 / 1), by 2
        {'nist': 1.5}
    """

    key = "nist"

    def __init__(self, *, order: int = 5) -> None:
        self.order = order
        super().__init__()

    def score(self, predictions: Sequence[str], references: References) -> float | None:
        """Return the NIST score, or None where no prediction has a token."""
        outputs = [mteval_tokens(text) for text in predictions]
        wanted = [[mteval_tokens(text) for text in those] for those in references]
        length = sum(len(tokens) for tokens in outputs)
        reference_length = sum(sum(map(len, those)) / len(those) for those in wanted)
        if not length or not reference_length:
            return None
        information = _information(wanted, self.order)
        total = sum(_precision(outputs, wanted, information, n) for n in range(1, self.order + 1))
        return total * math.exp(_BETA * math.log(min(1.0, length / reference_length)) ** 2)


def _precision(
    outputs: Sequence[list[str]], wanted: Sequence[list[list[str]]], information: Mapping[Ngram, float], n: int
) -> float:
    """Return the information of the matched n-grams by the number of n-grams in the outputs."""
    matched, count = 0.0, 0
    for tokens, those in zip(outputs, wanted, strict=True):
        own = Counter(ngrams(tokens, n))
        largest: Counter[Ngram] = Counter()
        for reference in those:
            largest |= Counter(ngrams(reference, n))
        matched += sum(information[each] * times for each, times in (own & largest).items())
        count += own.total()
    return matched / count if count else 0.0


def _information(wanted: Sequence[list[list[str]]], order: int) -> dict[Ngram, float]:
    texts = [tokens for those in wanted for tokens in those]
    counts = Counter(each for tokens in texts for n in range(1, order + 1) for each in ngrams(tokens, n))
    counts[()] = sum(map(len, texts))
    return {each: math.log2(counts[each[:-1]] / times) for each, times in counts.items() if each}


def ngrams(tokens: Sequence[str], n: int) -> Iterator[Ngram]:
    """Yield the n-grams of a text.

    Example:
        >>> list(ngrams(["a", "b", "c"], 2))
        [('a', 'b'), ('b', 'c')]
    """
    return zip(*(tokens[start:] for start in range(n)), strict=False)
