"""ROUGE-L and CIDEr-D of generated texts, as the COCO caption tools and the official E2E scorer define them."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bilora.metrics.metric import References, TextMetric
from bilora.metrics.nist import Ngram, ngrams

_ROUGE_BETA = 1.2
_CIDER_ORDER = 4
_CIDER_SIGMA = 6.0

# Punctuation that the COCO caption tools drop after Stanford's tokenizer. Brackets stay: that tokenizer writes them
# -lrb- in lower case, which their list, in upper case, does not hold.
_DROPPED = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", '"', "“", "”", "–", "—"))

_TOKEN = re.compile(
    r"""
    (?:https?://|www\.)\S+                                                  # addresses
  | \b(?:(?:mr|mrs|ms|dr|st|jr|sr|inc|ltd|co|corp|vs|etc|[a-z])\.(?=[\s,]|$)    # full stops that belong to the word
      | [a-z](?:\.[a-z])+\b\.?)                                             # e.g., u.s
  | (?<!\S)-?\d+(?:[.,:/-]\d+)*(?![-\w])                                    # numbers, dates, ranges, ISBNs
  | \d+(?:[.,:/]\d+)*(?![-\w]) | \d+\.\d+(?=[a-z])                          # £20.50, 1.8g
  | n't\b | '(?:s|re|ve|ll|d|m)\b                                           # clitics
  | \w+?(?=n't\b)                                                           # and the word before one
  | \b[a-z]'\w{3,}                                                          # o'connor, d'oeuvre
  | \w+(?:[-&/]\w+)*                                                        # words, hyphens inside
  | \.\.\. | --+ | \S
    """,
    re.VERBOSE,
)


def ptb_tokens(text: str) -> list[str]:
    """Return the lower-cased tokens of a text as Stanford's Penn Treebank tokenizer cuts it, punctuation dropped."""
    # Written anew for plain English sentences, since that tokenizer needs Java. Rarer things that it knows (longer
    # lists of abbreviations, emoticons, fractions) are left out. Of the 4,672 references of E2E's validation set, 6 are
    # cut otherwise than by it (which also writes £ as #).
    return [token for token in _TOKEN.findall(text.lower().replace("’", "'")) if token not in _DROPPED]


class RougeL(TextMetric):
    """ROUGE-L (Lin 2004): F-score of the longest common subsequence with the references."""

    # (1 + beta^2) P R / (R + beta^2 P) with beta = 1.2, precision P and recall R each of the best reference, averaged
    # over items, over tokens without punctuation: the definition of the COCO caption tools (Chen et al. 2015), which
    # the official E2E scorer calls. Other packages take beta = 1 and other tokens.
    key = "rouge_l"

    def score(self, predictions: Sequence[str], references: References) -> float:
        """Return the mean F-score as a fraction of one."""
        scores = [_rouge_l(ptb_tokens(text), texts) for text, texts in zip(predictions, references, strict=True)]
        return sum(scores) / len(scores)


def _rouge_l(tokens: list[str], references: Sequence[str]) -> float:
    # A text without a token has nothing in common with any; it is not to divide by zero.
    precision = recall = 0.0
    for reference in map(ptb_tokens, references):
        common = longest_common_subsequence(tokens, reference)
        precision = max(precision, common / max(1, len(tokens)))
        recall = max(recall, common / max(1, len(reference)))
    if not precision or not recall:
        return 0.0
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def longest_common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    above = [0] * (len(other) + 1)
    for word in one:
        row = [0]
        for column, token in enumerate(other):
            row.append(above[column] + 1 if word == token else max(above[column + 1], row[column]))
        above = row
    return above[-1]


class Cider(TextMetric):
    """CIDEr-D (Vedantam et al. 2015, equation 4 and section "CIDEr-D"), as the COCO caption tools compute it."""

    # Ten times the mean, over items, references and n = 1..4, of the cosine of tf-idf vectors of n-grams, where the
    # prediction's weights are clipped at the reference's, times exp(-(length difference)^2 / (2 * 6^2)). Document
    # frequencies are those of the references of the set that is scored: a value depends on the whole set, and is zero
    # for a set of a single item, where every idf is.
    key = "cider"

    def score(self, predictions: Sequence[str], references: References) -> float:
        """Return the score, from 0 to 10."""
        counted = [[_counts(text) for text in texts] for texts in references]
        # Document frequency: the number of items whose references have an n-gram.
        frequency = Counter(ngram for counts in counted for ngram in set().union(*counts))
        vector = partial(_vector, frequency=frequency, items=len(counted))
        items = []
        for text, counts in zip(predictions, counted, strict=True):
            output = vector(_counts(text))
            items.append(10 * sum(_likeness(output, vector(reference)) for reference in counts) / len(counts))
        return sum(items) / len(items)


@dataclass(frozen=True)
class _Vector:
    """The tf-idf weights of a text by order of n-gram, their norms, and the text's length in bigrams."""

    weights: tuple[Mapping[Ngram, float], ...]
    norms: tuple[float, ...]
    length: int


def _counts(text: str) -> Counter[Ngram]:
    tokens = ptb_tokens(text)
    return Counter(ngram for n in range(1, _CIDER_ORDER + 1) for ngram in ngrams(tokens, n))


def _vector(counts: Counter[Ngram], frequency: Counter[Ngram], items: int) -> _Vector:
    weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(_CIDER_ORDER))
    for ngram, times in counts.items():
        # An n-gram of no reference counts as if one item had it.
        weights[len(ngram) - 1][ngram] = times * (math.log(items) - math.log(max(1, frequency[ngram])))
    norms = tuple(math.sqrt(sum(value**2 for value in order.values())) for order in weights)
    return _Vector(weights, norms, sum(times for ngram, times in counts.items() if len(ngram) == 2))


def _likeness(output: _Vector, reference: _Vector) -> float:
    """Return the clipped cosine, averaged over orders, under the length penalty."""
    penalty = math.exp(-((output.length - reference.length) ** 2) / (2 * _CIDER_SIGMA**2))
    total = 0.0
    for n in range(_CIDER_ORDER):
        weights, targets = output.weights[n], reference.weights[n]
        if output.norms[n] and reference.norms[n]:
            # In the order of the output, not of a set, which differs between processes and would move the last bit.
            shared = [ngram for ngram in weights if ngram in targets]
            product = sum(min(weights[ngram], targets[ngram]) * targets[ngram] for ngram in shared)
            total += product / (output.norms[n] * reference.norms[n])
    return penalty * total / _CIDER_ORDER
