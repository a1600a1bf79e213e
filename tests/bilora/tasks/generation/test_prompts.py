"""What a causal model reads: token ids of inputs and answers, and inputs as the lines of the LoRA paper's code."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from bilora.data.records import read_records
from bilora.errors import SettingsError
from bilora.models.embedded import embedded_model_folder
from bilora.tasks.catalog import GENERATION_TASKS
from bilora.tasks.generation.prompts import Prompts, linearize_slots, linearize_triples


def test_input_separator_answer_end(causal_tokenizer: Any) -> None:
    prompts = Prompts(causal_tokenizer)
    end = causal_tokenizer.eos_token_id
    prompt, answer = prompts.prompt("name : Zizzi"), prompts.answer("It is a pub.")
    assert (prompt[-1], answer[-1]) == (end, end)
    assert end not in prompt[:-1] + answer[:-1]
    assert [causal_tokenizer.decode(ids[:-1]) for ids in (prompt, answer)] == ["name : Zizzi", " It is a pub."]
    with pytest.raises(SettingsError, match="no end-of-text token.*take a causal language model's tokenizer"):
        Prompts(AutoTokenizer.from_pretrained(embedded_model_folder()))


def test_a_begin_token_that_the_tokenizer_puts_first_stays_first() -> None:
    class Llama:
        bos_token_id, eos_token_id = 1, 2

        def __call__(
            self, text: str, add_special_tokens: bool = True, split_special_tokens: bool = False
        ) -> dict[str, list[int]]:
            ids = [100 + ord(letter) for letter in text]
            return {"input_ids": [1, *ids] if add_special_tokens else ids}

    prompts = Prompts(Llama())
    assert (prompts.prompt("a"), prompts.answer("b")) == ([1, 197, 1], [132, 198, 2])


E2E_FILES = ("e2e/train.jsonl.gz", "e2e/validation.jsonl", "e2e/test.jsonl")


@pytest.mark.parametrize("file", [*E2E_FILES, "dart/validation.jsonl.gz", "dart/test.jsonl.gz"])
def test_real_inputs_become_the_lines_of_the_lora_papers_code(real_data: Path, file: str) -> None:
    for _, row, _ in read_records(real_data / file):
        checked, faults = GENERATION_TASKS[file.split("/")[0]].check_row(row)
        assert not faults
        assert checked["source"] == " ".join(row["source"].split())
        texts = [" ".join(text.split()) for text in row["references"]]
        assert checked["references"] == [text for text in texts if text]
        assert checked["blank"] == texts.count("")
        assert checked["label"] is None


def test_triples_are_joined_only_dart_puts_properties_in_lower_case_and_slots_have_brackets() -> None:
    row = {"triples": [["Zizzi", "eatType", "pub"]], "references": ["Zizzi is a pub."]}
    sources = {name: task.check_row(row)[0]["source"] for name, task in GENERATION_TASKS.items()}
    assert sources["webnlg"] == "Zizzi : eatType : pub"
    assert sources["dart"] == "Zizzi : eattype : pub"
    triples = [("A", "b", "C"), ("D", "e", "F, G")]
    assert linearize_triples(triples, lowercase_properties=False) == "A : b : C | D : e : F, G"
    for text, character in (("name", 1), ("name[Zizzi", 1), ("name[Zizzi] food[x]", 1), ("a[b], c", 6)):
        with pytest.raises(ValueError, match=f"is no list of slots .* from character {character} on"):
            linearize_slots(text)
