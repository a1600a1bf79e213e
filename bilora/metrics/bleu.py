"""BLEU of a set of generated texts, by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence

from bilora.metrics.text_metric import References, TextMetric
from bilora.settings.lookup import import_extra


class Bleu(TextMetric):
    """BLEU (Papineni et al. 2002) with four n-gram orders over mteval-13a tokens.

    Lower-cased, as in the official E2E scorer and in the LoRA paper's scoring of WebNLG and DART
    (https://github.com/microsoft/LoRA, examples/NLG). Two things follow sacrebleu and not mteval: orders without a
    match are smoothed instead of making the whole zero, and the effective reference length is the closest one.

    Args:
        lowercase: Whether upper and lower case are the same.

    Example:
        >>> found = Bleu().compute(predictions=["The cat sat on it."], references=[["the cat sat on it.", "it sat"]])
        >>> round(found["bleu"], 6)
        1.0
    """

    key = "bleu"

    def __init__(self, *, lowercase: bool = True) -> None:
        self.lowercase = lowercase
        super().__init__()

    def score(self, predictions: Sequence[str], references: References) -> float:
        """Return BLEU as a fraction of one."""
        # The inputs are detokenised text, whatever spaces stand before their full stops: no need of a warning.
        scorer = import_extra("sacrebleu", extra="nlg").BLEU(lowercase=self.lowercase, force=True)
        return float(scorer.corpus_score(list(predictions), padded_streams(references)).score) / 100


def padded_streams(references: References) -> list[list[str | None]]:
    """Return the references as sacrebleu takes them: one list a reference number, None where an item has no more.

    Example:
        >>> padded_streams([["a", "b"], ["c"]])
        [['a', 'c'], ['b', None]]
    """
    most = max(len(those) for those in references)
    return [[those[number] if number < len(those) else None for those in references] for number in range(most)]
