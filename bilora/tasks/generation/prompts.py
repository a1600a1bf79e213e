"""From an input and a text to token ids: what a causal model reads, and where its answer begins."""

from __future__ import annotations

from typing import Any

from bilora.errors import SettingsError


class Prompts:
    """Token ids of inputs and answers, in the form of the LoRA paper's code.

    ``input, separator, answer, end``: the separator is the tokenizer's begin-of-text token, or its end-of-text token
    where it has no other (GPT-2's are one and the same), the answer starts with a space, and the end is the
    end-of-text token (https://github.com/microsoft/LoRA, examples/NLG). A tokenizer that puts a begin-of-text token
    before any text, as Llama's do, also does so here.

    Args:
        tokenizer: A tokenizer of transformers.

    Raises:
        SettingsError: The tokenizer has no end-of-text token.

    Example:
        >>> from types import SimpleNamespace
        >>> class Letters(SimpleNamespace):
        ...     def __call__(self, text, add_special_tokens=True):
        ...         return {"input_ids": [ord(each) for each in text]}
        >>> prompts = Prompts(Letters(bos_token_id=None, eos_token_id=0))
        >>> prompts.prompt("ab"), prompts.answer("c")
        ([97, 98, 0], [32, 99, 0])
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise SettingsError(
                "the tokenizer has no end-of-text token, by which a model learns where a text ends; set "
                "tokenizer.eos_token and save it with the model, or take a causal language model's tokenizer"
            )
        self.tokenizer = tokenizer
        self.end: int = tokenizer.eos_token_id
        self.separator: int = self.end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        self._start = [self.separator] if begins else []

    def prompt(self, source: str) -> list[int]:
        """Return the ids of an input, up to where the answer begins."""
        return [*self._start, *self._ids(source), self.separator]

    def answer(self, text: str) -> list[int]:
        """Return the ids of an answer, with its end."""
        return [*self._ids(" " + text), self.end]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
