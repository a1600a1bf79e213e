"""Ids of inputs and answers with real tokenizers."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from bilora.errors import SettingsError
from bilora.models.embedded import embedded_model_folder
from bilora.tasks.generation.prompts import Prompts


def test_input_separator_answer_end(causal_tokenizer: Any) -> None:
    prompts = Prompts(causal_tokenizer)
    end = causal_tokenizer.eos_token_id
    prompt, answer = prompts.prompt("name : Zizzi"), prompts.answer("It is a pub.")
    assert (prompt[-1], answer[-1]) == (end, end)
    assert end not in prompt[:-1] + answer[:-1]
    assert causal_tokenizer.decode(prompt[:-1]) == "name : Zizzi"
    assert causal_tokenizer.decode(answer[:-1]) == " It is a pub."


def test_a_begin_token_that_the_tokenizer_puts_first_stays_first() -> None:
    class Llama:
        bos_token_id, eos_token_id = 1, 2

        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            ids = [100 + ord(each) for each in text]
            return {"input_ids": [1, *ids] if add_special_tokens else ids}

    prompts = Prompts(Llama())
    assert prompts.prompt("a") == [1, 197, 1]
    assert prompts.answer("b") == [132, 198, 2]


def test_a_tokenizer_without_an_end_is_refused() -> None:
    with pytest.raises(SettingsError, match="no end-of-text token.*take a causal language model's tokenizer"):
        Prompts(AutoTokenizer.from_pretrained(embedded_model_folder()))
