"""Tokens as the Penn Treebank cuts them, without punctuation: what ROUGE-L and CIDEr count."""

from __future__ import annotations

import re

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
    """Return the lower-cased tokens of a text in the manner of Stanford's Penn Treebank tokenizer, punctuation dropped.

    Written anew for plain English sentences: clitics are cut off, hyphenated words and ranges of numbers stay whole,
    currency signs stand alone. Rarer things that it knows (longer lists of abbreviations, emoticons, fractions) are
    left out. Of the 4,672 references of E2E's validation set, 6 are cut otherwise than by that tokenizer (which also
    writes £ as #).

    Example:
        >>> ptb_tokens("It isn't family-friendly: Alimentum's £20, 5 out of 5.")
        ['it', 'is', "n't", 'family-friendly', 'alimentum', "'s", '£', '20', '5', 'out', 'of', '5']
    """
    return [token for token in _TOKEN.findall(text.lower().replace("’", "'")) if token not in _DROPPED]
