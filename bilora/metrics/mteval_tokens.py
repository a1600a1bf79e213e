"""Tokens as NIST's mteval-13a cuts them."""

from __future__ import annotations

import functools
from collections.abc import Callable

from bilora.settings.lookup import import_extra


def mteval_tokens(text: str) -> list[str]:
    """Return the lower-cased mteval-13a tokens of a text: punctuation apart, but inside of numbers.

    Example:
        >>> mteval_tokens("It's £1,000. Family-friendly!")
        ["it's", '£1,000', '.', 'family-friendly', '!']
    """
    return _tokenizer()(text.lower()).split()


@functools.cache
def _tokenizer() -> Callable[[str], str]:
    made: Callable[[str], str] = import_extra("sacrebleu.tokenizers.tokenizer_13a", extra="nlg").Tokenizer13a()
    return made
