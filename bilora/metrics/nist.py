"""NIST score of a set of generated texts, as NIST's mteval-13a and the official E2E scorer define it."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from bilora.metrics.metric import References, TextMetric, Undefined
from bilora.settings.lookup import import_extra

Ngram = tuple[str, ...]

# A text two thirds as long as its references keeps half of its score.
_BETA = math.log(0.5) / math.log(1.5) ** 2


class Nist(TextMetric):
    """NIST score (Doddington 2002, equation 3) of n-grams weighted by information, over mteval-13a tokens."""

    # Sum over n = 1..5 of the information of matched n-grams by the number of n-grams in the predictions, times
    # exp(beta * ln(min(1, L_sys / L_ref))^2), where L_ref is the mean length of an item's references, summed.
    # info(w_1..w_n) = log2(count(w_1..w_{n-1}) / count(w_1..w_n)), counted over all references; matches are clipped at
    # the largest count in any one reference. Lower-cased, as in the official E2E scorer.
    key = "nist"

    def __init__(self, *, order: int = 5) -> None:
        self.order = order  # of the longest n-gram
        super().__init__()

    def score(self, predictions: Sequence[str], references: References) -> float:
        """Return the NIST score; without a token on one of the two sides there is none."""
        outputs = [mteval_tokens(text) for text in predictions]
        targets = [[mteval_tokens(text) for text in texts] for texts in references]
        length = sum(len(tokens) for tokens in outputs)
        reference_length = sum(sum(map(len, texts)) / len(texts) for texts in targets)
        if not length or not reference_length:
            raise Undefined("there is no word in the predictions, or none in the references")
        information = _information(targets, self.order)
        total = sum(_precision(outputs, targets, information, n) for n in range(1, self.order + 1))
        return total * math.exp(_BETA * math.log(min(1.0, length / reference_length)) ** 2)


def _precision(
    outputs: Sequence[list[str]], targets: Sequence[list[list[str]]], information: Mapping[Ngram, float], n: int
) -> float:
    """Return the information of the matched n-grams by the number of n-grams in the outputs."""
    matched, count = 0.0, 0
    for tokens, texts in zip(outputs, targets, strict=True):
        counts = Counter(ngrams(tokens, n))
        # Clipped at one reference's count, not at their sum: | of Counters keeps the larger one.
        largest: Counter[Ngram] = Counter()
        for reference in texts:
            largest |= Counter(ngrams(reference, n))
        matched += sum(information[ngram] * times for ngram, times in (counts & largest).items())
        count += counts.total()
    return matched / count if count else 0.0


def _information(targets: Sequence[list[list[str]]], order: int) -> dict[Ngram, float]:
    texts = [tokens for references in targets for tokens in references]
    counts = Counter(ngram for tokens in texts for n in range(1, order + 1) for ngram in ngrams(tokens, n))
    counts[()] = sum(map(len, texts))  # the empty n-gram before every word
    return {ngram: math.log2(counts[ngram[:-1]] / times) for ngram, times in counts.items() if ngram}


def ngrams(tokens: Sequence[str], n: int) -> Iterator[Ngram]:
    """Yield the n-grams of a text."""
    return zip(*(tokens[start:] for start in range(n)), strict=False)


def mteval_tokens(text: str) -> list[str]:
    """Return the lower-cased mteval-13a tokens of a text: punctuation apart, but inside of numbers."""
    return _tokenizer()(text.lower()).split()


# Once, and not at the top of the file: sacrebleu is an extra.
@functools.cache
def _tokenizer() -> Callable[[str], str]:
    tokenizer: Callable[[str], str] = import_extra("sacrebleu.tokenizers.tokenizer_13a", extra="nlg").Tokenizer13a()
    return tokenizer
