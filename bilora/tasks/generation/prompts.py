"""From an input and a text to token ids: what a causal model reads, and where its answer begins."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from bilora.errors import SettingsError


class AsWritten(str):
    """An input from somebody's own file, which goes to the model as it stands, without a separator behind it.

    Args:
        text: The input; of a conversation its lines, for a tokenizer without a chat template.
        messages: The conversation up to the answer, each message with ``role`` and ``content``; None where it is none.
    """

    messages: Sequence[Mapping[str, str]] | None

    def __new__(cls, text: str, messages: Sequence[Mapping[str, str]] | None = None) -> Self:
        """Return the text, which knows the conversation."""
        written = super().__new__(cls, text)
        written.messages = messages
        return written

    @classmethod
    def of_messages(cls, messages: Sequence[Mapping[str, str]]) -> Self:
        """Return a conversation as an input, each message behind its role, and the role that answers at the end."""
        lines = [f"{message['role']}: {message['content']}\n" for message in messages]
        return cls("".join([*lines, "assistant:\n"]), messages)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what makes it again, in another process too."""
        return AsWritten, (str(self), self.messages)


class Prompts:
    """Token ids of inputs and answers, in the form of the LoRA paper's code: ``input, separator, answer, end``.

    An input that is :class:`AsWritten` has no separator, and its answer no space before it; a conversation has the
    tokenizer's chat template where it has one.
    """

    # https://github.com/microsoft/LoRA, examples/NLG: the separator is the tokenizer's begin-of-text token, or its
    # end-of-text token where it has no other (GPT-2's are one and the same), and the answer starts with a space.
    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise SettingsError(
                "the tokenizer has no end-of-text token, by which a model learns where a text ends; set "
                "tokenizer.eos_token and save it with the model, or take a causal language model's tokenizer"
            )
        self.tokenizer = tokenizer
        self.end: int = tokenizer.eos_token_id
        # A special token, unlike all words of an input: by it the model sees where the answer begins.
        self.separator: int = self.end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        # Llama's tokenizers put a begin-of-text token before any text, and models expect it there.
        begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        self._start = [self.separator] if begins else []

    def prompt(self, source: str) -> list[int]:
        """Return the ids of an input, up to where the answer begins."""
        if not isinstance(source, AsWritten):
            return [*self._start, *self._ids(source), self.separator]
        if source.messages is None or not getattr(self.tokenizer, "chat_template", None):
            return [*self._start, *self._ids(source)]
        text = self.tokenizer.apply_chat_template(list(source.messages), tokenize=False, add_generation_prompt=True)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def answer(self, text: str, *, to: str = "") -> list[int]:
        """Return the ids of an answer to an input, with its end."""
        return [*self._ids(text if isinstance(to, AsWritten) else " " + text), self.end]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids


# How that code writes the slots of an E2E meaning representation whose name is no plain word.
_E2E_SLOTS = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}

_SLOT = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*(?:,|$)")


def linearize_slots(text: str) -> str:
    """Return an E2E meaning representation as ``slot : value | slot : value``."""
    # The form of https://github.com/microsoft/LoRA, examples/NLG, data/e2e.
    # Matched one behind the other, and not found by findall, which would skip what is no slot without a word.
    slots, end = [], 0
    while end < len(text):
        slot = _SLOT.match(text, end)
        if slot is None:
            raise ValueError(f"is no list of slots like 'name[Alimentum], area[riverside]' from character {end + 1} on")
        slots.append((slot[1].strip(), slot[2]))
        end = slot.end()
    return " | ".join(f"{_E2E_SLOTS.get(name, name)} : {value}" for name, value in slots)


def linearize_triples(triples: Iterable[Sequence[str]], *, lowercase_properties: bool) -> str:
    """Return triples as ``subject : property : object | subject : property : object``."""
    # The form of https://github.com/microsoft/LoRA, examples/NLG/src/format_converting_webnlg.py and _dart.py; the
    # latter puts properties in lower case.
    cased = str.lower if lowercase_properties else str
    return " | ".join(f"{subject} : {cased(name)} : {value}" for subject, name, value in triples)
