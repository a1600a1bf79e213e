"""CIDEr-D of a set of generated texts, as the COCO caption tools and the official E2E scorer define it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bilora.metrics.nist import Ngram, ngrams
from bilora.metrics.ptb_tokens import ptb_tokens
from bilora.metrics.text_metric import References, TextMetric

_ORDER = 4
_SIGMA = 6.0


class Cider(TextMetric):
    """CIDEr-D (Vedantam et al. 2015, equation 4 and section "CIDEr-D"), the form that the COCO caption tools compute.

    Ten times the mean, over items, references and n = 1..4, of the cosine of tf-idf vectors of n-grams, where the
    prediction's weights are clipped at the reference's, times ``exp(-(length difference)^2 / (2 * 6^2))``. Document
    frequencies are those of the references of the set that is scored: a value depends on the whole set, and is
    zero for a set of a single item, where every idf is.

    Example:
        >>> Cider().compute(predictions=["a b c d", "x"], references=[["a b c d"], ["x y"]])
        {'cider': 5.8...}
    """

    key = "cider"

    def score(self, predictions: Sequence[str], references: References) -> float:
        """Return the score, from 0 to 10."""
        wanted = [[_counts(text) for text in those] for those in references]
        weigh = _Weights(wanted)
        items = [
            _item(weigh(_counts(text)), [weigh(each) for each in those])
            for text, those in zip(predictions, wanted, strict=True)
        ]
        return sum(items) / len(items)


@dataclass(frozen=True)
class _Vector:
    """The tf-idf weights of a text by order of n-gram, their norms, and the text's length in bigrams."""

    weights: tuple[Mapping[Ngram, float], ...]
    norms: tuple[float, ...]
    length: int


class _Weights:
    """Turns counts into tf-idf vectors, by the number of items whose references have an n-gram."""

    def __init__(self, wanted: Sequence[Sequence[Counter[Ngram]]]) -> None:
        self.items = math.log(len(wanted))
        self.frequency = Counter(each for those in wanted for each in set().union(*those))

    def __call__(self, counts: Counter[Ngram]) -> _Vector:
        weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(_ORDER))
        for each, times in counts.items():
            weights[len(each) - 1][each] = times * (self.items - math.log(max(1, self.frequency[each])))
        norms = tuple(math.sqrt(sum(value**2 for value in own.values())) for own in weights)
        return _Vector(weights, norms, sum(times for each, times in counts.items() if len(each) == 2))


def _counts(text: str) -> Counter[Ngram]:
    tokens = ptb_tokens(text)
    return Counter(each for n in range(1, _ORDER + 1) for each in ngrams(tokens, n))


def _item(output: _Vector, references: Sequence[_Vector]) -> float:
    return 10 * sum(_likeness(output, each) for each in references) / len(references)


def _likeness(output: _Vector, reference: _Vector) -> float:
    """Return the clipped cosine, averaged over orders, under the length penalty."""
    penalty = math.exp(-((output.length - reference.length) ** 2) / (2 * _SIGMA**2))
    total = 0.0
    for own, other, norm, other_norm in zip(
        output.weights, reference.weights, output.norms, reference.norms, strict=True
    ):
        if norm and other_norm:
            shared = own.keys() & other.keys()
            total += sum(min(own[each], other[each]) * other[each] for each in shared) / (norm * other_norm)
    return penalty * total / _ORDER
