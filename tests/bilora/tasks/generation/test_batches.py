"""Examples and batches of generation: what carries a loss, what is cut, what is padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from bilora.data.rows import Rows, check_rows
from bilora.errors import DataError
from bilora.tasks.catalog import GENERATION_TASKS
from bilora.tasks.generation.batches import PairCollator, encode_pairs, padded
from bilora.tasks.generation.prompts import Prompts

FIRST = {"source": "name : Zizzi", "references": ["Zizzi is a pub.", "There is a pub, Zizzi."]}
SECOND = {"source": "name : The Vaults | area : riverside", "references": ["The Vaults is near the river."]}


@pytest.fixture
def rows() -> Rows:
    return check_rows([(3, FIRST), (8, SECOND)], GENERATION_TASKS["e2e"], source="toy.jsonl", split="train")


def test_one_example_a_reference_and_a_loss_on_the_answer_alone(rows: Rows, causal_tokenizer: Any) -> None:
    examples, cut = encode_pairs(rows, causal_tokenizer, max_length=100)
    assert cut == 0
    assert [(each["group"], each["reference"]) for each in examples] == [(0, 0), (0, 1), (1, 0)]
    for each, text in zip(examples, [*FIRST["references"], *SECOND["references"]], strict=True):
        answer = [token for token in each["labels"] if token != -100]
        assert each["labels"] == [-100] * (len(each["labels"]) - len(answer)) + answer
        assert each["input_ids"][-len(answer) :] == answer
        assert answer[-1] == causal_tokenizer.eos_token_id
        assert causal_tokenizer.decode(answer[:-1]) == f" {text}"


def test_long_answers_lose_their_end_and_are_counted(rows: Rows, causal_tokenizer: Any) -> None:
    whole, _ = encode_pairs(rows, causal_tokenizer, max_length=100)
    longest = max(len(each["input_ids"]) for each in whole)
    examples, cut = encode_pairs(rows, causal_tokenizer, max_length=longest - 1)
    assert cut == 1
    for each, before in zip(examples, whole, strict=True):
        assert each["input_ids"] == before["input_ids"][: longest - 1]
        assert each["labels"] == before["labels"][: longest - 1]


def test_an_input_that_leaves_no_room_is_named(rows: Rows, causal_tokenizer: Any) -> None:
    room = len(Prompts(causal_tokenizer).prompt(SECOND["source"]))
    with pytest.raises(DataError, match=rf"toy\.jsonl:8: the input has {room} tokens.*set max_length above {room}"):
        encode_pairs(rows, causal_tokenizer, max_length=room)
    examples, _ = encode_pairs(rows, causal_tokenizer, max_length=room + 1)
    assert all(len(each["input_ids"]) <= room + 1 for each in examples)


def tiny_decoder() -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()


def test_the_loss_is_the_mean_over_answer_tokens(rows: Rows, causal_tokenizer: Any) -> None:
    """Padding with the end token, which is a label too: the loss equals that of the rows one by one."""
    model = tiny_decoder()
    examples, _ = encode_pairs(rows, causal_tokenizer, max_length=60)
    batch = PairCollator(causal_tokenizer.eos_token_id)(examples)
    assert batch["attention_mask"].sum(1).tolist() == [len(each["input_ids"]) for each in examples]
    total, count = 0.0, 0
    for each in examples:
        ids, labels = torch.tensor([each["input_ids"]]), torch.tensor(each["labels"])
        scores = model(input_ids=ids).logits[0].log_softmax(-1)
        wanted = [place for place in range(1, len(labels)) if labels[place] != -100]
        total -= sum(scores[place - 1, labels[place]].item() for place in wanted)
        count += len(wanted)
    assert model(**batch).loss.item() == pytest.approx(total / count, rel=1e-5)


def test_left_padding_keeps_what_follows() -> None:
    model = tiny_decoder()
    batch = padded([[5, 6, 7, 8], [9, 10]], 0, side="left")
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": 299}
    together = model.generate(**batch, **settings)[1, 4:]
    alone = model.generate(input_ids=torch.tensor([[9, 10]]), **settings)[0, 2:]
    assert together.tolist() == alone.tolist()
