from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from bilora.data.rows import Rows, check_rows
from bilora.errors import DataError, SettingsError
from bilora.models.embedded import embedded_model_folder
from bilora.tasks.tokens.batches import collate_tokens, encode_tokens
from bilora.tasks.tokens.task import TokenTask

TASK = TokenTask("toy", ("O", "B-town", "I-town"))


def rows_of(*sentences: list[tuple[str, str]]) -> Rows:
    rows = [{"tokens": [token for token, _ in pairs], "tags": [tag for _, tag in pairs]} for pairs in sentences]
    return check_rows(enumerate(rows, start=1), TASK, source="toy.jsonl", split="train")


SLOVENIA = [("in", "O"), ("Ljubljana", "B-town"), ("Škofja", "B-town"), ("Loka", "I-town")]


def test_first_pieces_carry_the_labels(tokenizer: Any) -> None:
    (row,) = encode_tokens(rows_of(SLOVENIA), tokenizer, TASK)
    pieces = tokenizer.convert_ids_to_tokens(row["input_ids"])
    labelled = [(piece, label) for piece, label in zip(pieces, row["labels"], strict=True) if label != -100]
    assert labelled == [("in", 0), ("ljubljana", 1), ("sk", 1), ("lok", 2)]
    assert row["positions"] == [0, 1, 2, 3]
    assert (pieces[0], pieces[-1]) == ("[CLS]", "[SEP]")
    assert {label for piece, label in zip(pieces, row["labels"], strict=True) if piece.startswith("##")} == {-100}
    (cut,) = encode_tokens(rows_of(SLOVENIA), tokenizer, TASK, max_length=5)
    assert cut["positions"] == [0, 1, 2], "the third token is cut in the middle, its first piece is there"
    assert (cut["input_ids"][:4], cut["labels"][:4]) == (row["input_ids"][:4], row["labels"][:4])
    assert [label for label in cut["labels"] if label != -100] == [0, 1, 1] and len(cut["input_ids"]) == 5


def test_a_token_of_which_nothing_is_left_is_skipped_and_such_a_row_is_named(tokenizer: Any) -> None:
    (row,) = encode_tokens(rows_of([("a", "O"), ("\u200b", "O"), ("Rome", "B-town")]), tokenizer, TASK)
    assert row["positions"] == [0, 2]
    assert [label for label in row["labels"] if label != -100] == [0, 1]
    with pytest.raises(DataError, match=r"toy.jsonl:2: the tokenizer leaves nothing of the tokens; 1 such rows"):
        encode_tokens(rows_of(SLOVENIA, [("\u200b", "O")]), tokenizer, TASK)


def test_no_room_and_a_slow_tokenizer_are_refused(tokenizer: Any) -> None:
    with pytest.raises(SettingsError, match="max_length is 2, of which special tokens take 2"):
        encode_tokens(rows_of(SLOVENIA), tokenizer, TASK, max_length=2)
    slow = SimpleNamespace(is_fast=False, num_special_tokens_to_add=lambda pair: 2)
    with pytest.raises(DataError, match="cannot say which piece belongs to which token"):
        encode_tokens(rows_of(SLOVENIA), slow, TASK)


@pytest.mark.parametrize("side", ["right", "left"])
def test_labels_are_padded_where_the_tokens_are(side: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder(), padding_side=side)
    rows = encode_tokens(rows_of(SLOVENIA, [("Rome", "B-town")]), tokenizer, TASK)
    kept = [{name: list(value) for name, value in row.items()} for row in rows]
    batch = collate_tokens(rows, tokenizer=tokenizer)
    assert rows == kept, "the rows given are not changed"
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    for place, row in enumerate(rows):
        seen = batch["attention_mask"][place] == 1
        assert batch["labels"][place][seen].tolist() == row["labels"]
        assert batch["input_ids"][place][seen].tolist() == row["input_ids"]
        assert (batch["labels"][place][~seen] == -100).all()
    assert batch["labels"].dtype == torch.int64
