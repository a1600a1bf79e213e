"""Examples and batches of generation: what carries a loss, what is cut, what is padding."""

from typing import Any

import pytest
import torch

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
    assert [(example["group"], example["reference"]) for example in examples] == [(0, 0), (0, 1), (1, 0)]
    for example, text in zip(examples, [*FIRST["references"], *SECOND["references"]], strict=True):
        answer = [token for token in example["labels"] if token != -100]
        assert example["labels"] == [-100] * (len(example["labels"]) - len(answer)) + answer
        assert example["input_ids"][-len(answer) :] == answer
        assert answer[-1] == causal_tokenizer.eos_token_id
        assert causal_tokenizer.decode(answer[:-1]) == f" {text}"


def test_long_answers_lose_their_end_and_an_input_that_leaves_no_room_is_named(
    rows: Rows, causal_tokenizer: Any
) -> None:
    whole, _ = encode_pairs(rows, causal_tokenizer, max_length=100)
    longest = max(len(example["input_ids"]) for example in whole)
    examples, cut = encode_pairs(rows, causal_tokenizer, max_length=longest - 1)
    assert cut == 1
    for name in ("input_ids", "labels"):
        assert [example[name] for example in examples] == [example[name][: longest - 1] for example in whole]
    room = len(Prompts(causal_tokenizer).prompt(SECOND["source"]))
    with pytest.raises(DataError, match=rf"toy\.jsonl:8: the input has {room} tokens.*set max_length above {room}"):
        encode_pairs(rows, causal_tokenizer, max_length=room)
    examples, _ = encode_pairs(rows, causal_tokenizer, max_length=room + 1)
    assert all(len(example["input_ids"]) <= room + 1 for example in examples)


def test_the_loss_is_the_mean_over_answer_tokens(rows: Rows, causal_tokenizer: Any, model: Any) -> None:
    """Padding with the end token, which is a label too: the loss equals that of the rows one by one."""
    model.eval()
    examples, _ = encode_pairs(rows, causal_tokenizer, max_length=60)
    batch = PairCollator(causal_tokenizer.eos_token_id)(examples)
    assert batch["attention_mask"].sum(1).tolist() == [len(example["input_ids"]) for example in examples]
    total, count = 0.0, 0
    for example in examples:
        ids, labels = torch.tensor([example["input_ids"]]), torch.tensor(example["labels"])
        scores = model(input_ids=ids).logits[0].log_softmax(-1)
        answer = [position for position in range(1, len(labels)) if labels[position] != -100]
        total -= sum(scores[position - 1, labels[position]].item() for position in answer)
        count += len(answer)
    assert model(**batch).loss.item() == pytest.approx(total / count, rel=1e-5)


def test_left_padding_keeps_what_follows(model: Any) -> None:
    model.eval()
    batch = padded([[5, 6, 7, 8], [9, 10]], 0, side="left")
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": 299}
    together = model.generate(**batch, **settings)[1, 4:]
    alone = model.generate(input_ids=torch.tensor([[9, 10]]), **settings)[0, 2:]
    assert together.tolist() == alone.tolist()
