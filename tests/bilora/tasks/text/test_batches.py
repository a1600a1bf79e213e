import copy
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, GPT2Config, MPNetConfig, RobertaConfig, RobertaModel, T5Config

from bilora.data.rows import Rows, check_rows
from bilora.errors import DataError, SettingsError
from bilora.models.embedded import embedded_model_folder
from bilora.tasks.catalog import TASKS
from bilora.tasks.text.batches import Collator, check_fits

PAIRS = [
    {"sentence1": "a film", "sentence2": "a very long film about a film", "label": 4.0},
    {"sentence1": "word " * 40, "sentence2": "brief", "label": 0.5},
    {"sentence1": "one", "sentence2": "two", "label": 2},
]


def rows_of(name: str, rows: list[dict[str, Any]]) -> Rows:
    return check_rows(enumerate(rows, 1), TASKS[name], source="toy", split="train")


SINGLES = rows_of("sst2", [{"sentence": "good " * length, "label": length % 2} for length in range(1, 31)])


def test_single_texts_against_the_tokenizer_one_by_one(tokenizer: Any) -> None:
    encoded = TASKS["sst2"].encode(SINGLES, tokenizer, max_length=20).encoded
    for row, ids in zip(SINGLES, encoded, strict=True):
        assert ids == {**tokenizer(row["sentence"], truncation=True, max_length=20), "labels": row["label"]}
    assert max(len(row["input_ids"]) for row in encoded) == 20
    assert len(encoded[0]["input_ids"]) == 3  # not padded


def test_pairs_are_marked_and_the_longer_text_is_cut(tokenizer: Any) -> None:
    encoded = TASKS["stsb"].encode(rows_of("stsb", PAIRS), tokenizer, max_length=12).encoded
    assert encoded[2]["token_type_ids"] == [0, 0, 0, 1, 1]
    assert len(encoded[1]["input_ids"]) == 12
    assert tokenizer.decode(encoded[1]["input_ids"]).endswith("[SEP] brief [SEP]")
    assert [(type(row["labels"]), row["labels"]) for row in encoded] == [(float, 4.0), (float, 0.5), (float, 2.0)]
    batch = Collator(tokenizer)(encoded)
    assert batch["labels"].dtype == torch.float32 and batch["labels"].tolist() == [4.0, 0.5, 2.0]


def test_a_length_without_room_for_text_and_a_text_without_a_token(tokenizer: Any) -> None:
    for name, rows, special in (("sst2", SINGLES, 2), ("stsb", rows_of("stsb", PAIRS), 3)):
        with pytest.raises(SettingsError, match=rf"max_length is {special}, of which special tokens take {special}"):
            TASKS[name].encode(rows, tokenizer, max_length=special)
        assert len(TASKS[name].encode(rows, tokenizer, max_length=special + 1).encoded) == len(rows)

    class Deaf:
        unk_token_id, all_special_ids = None, ()

        def num_special_tokens_to_add(self, *, pair: bool) -> int:
            return 0

        def __call__(self, texts: list[str], **settings: Any) -> dict[str, list[list[int]]]:
            ids: list[list[int]] = [[] if index == 4 else [1] for index in range(len(texts))]
            return {"input_ids": ids, "special_tokens_mask": [[0] * len(row) for row in ids]}

    with pytest.raises(DataError, match=r"toy:5: the tokenizer finds no token in the text; 1 such rows"):
        TASKS["sst2"].encode(SINGLES, Deaf(), max_length=128)


def test_batches_are_padded_to_their_own_longest(tokenizer: Any) -> None:
    encoded = TASKS["sst2"].encode(SINGLES.select([0, 4, 2]), tokenizer, max_length=128).encoded
    before = copy.deepcopy(encoded)
    batch = Collator(tokenizer)(encoded)
    assert type(batch) is dict and set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert batch["input_ids"].shape == (3, 7)
    assert batch["attention_mask"].sum(1).tolist() == [3, 7, 5]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()
    for row, ids, length in zip(encoded, batch["input_ids"], (3, 7, 5), strict=True):
        assert ids[:length].tolist() == row["input_ids"]
    assert batch["labels"].dtype == torch.int64 and batch["labels"].tolist() == [1, 1, 1]
    assert encoded == before


FITTING = [
    (BertConfig(), 512),
    (RobertaConfig(vocab_size=30522, pad_token_id=0, max_position_embeddings=514), 513),
    (MPNetConfig(vocab_size=30527, pad_token_id=0, max_position_embeddings=514), 513),
    (GPT2Config(pad_token_id=0), 1024),
]


@pytest.mark.parametrize(("config", "positions"), FITTING, ids=lambda config: getattr(config, "model_type", None))
def test_the_longest_text_that_fits(tokenizer: Any, config: Any, positions: int) -> None:
    check_fits(tokenizer, config, max_length=positions)
    check_fits(tokenizer, T5Config(), max_length=100_000)  # relative positions have no limit
    text = rf"{config.model_type} model has {positions} positions; set max_length={positions}"
    misfit(tokenizer, config, text, max_length=positions + 1)


def test_the_limit_is_that_of_the_model_itself(tokenizer: Any) -> None:
    """A tiny RoBERTa takes a text of the length that check_fits allows, and fails with one token more."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = RobertaConfig(vocab_size=30522, pad_token_id=0, max_position_embeddings=20, **sizes)
    check_fits(tokenizer, config, max_length=19)
    model, ids = RobertaModel(config), torch.full((1, 20), 5)
    assert model(input_ids=ids[:, 1:], attention_mask=torch.ones(1, 19)).last_hidden_state.shape == (1, 19, 8)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids, attention_mask=torch.ones(1, 20))


def misfit(tokenizer: Any, config: Any, text: str, *, max_length: int = 8) -> str:
    with pytest.raises(DataError, match=text) as caught:
        check_fits(tokenizer, config, max_length=max_length)
    return str(caught.value)


def test_token_ids_beyond_the_vocabulary_and_no_pad_token() -> None:
    own_tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder())  # which this test changes
    few = r"ids up to 30521, but the bert model has embeddings for 0 to 30520;.*resize"
    misfit(own_tokenizer, BertConfig(vocab_size=30521), few)
    check_fits(own_tokenizer, BertConfig(), max_length=8)
    own_tokenizer.add_tokens(["[new]"])
    misfit(own_tokenizer, BertConfig(), "ids up to 30522")
    own_tokenizer.pad_token = None
    misfit(own_tokenizer, GPT2Config(), "no pad token.*tokenizer.pad_token = tokenizer.eos_token")


def test_another_pad_token_in_the_model_and_all_misfits_together(tokenizer: Any) -> None:
    for config in (GPT2Config(), BertConfig(pad_token_id=5)):
        text = rf"pad_token_id is {config.pad_token_id}, the tokenizer's is 0; set model.config.pad_token_id"
        misfit(tokenizer, config, text)
    error = misfit(tokenizer, BertConfig(vocab_size=10, pad_token_id=5), "up to 30521", max_length=513)
    assert "pad_token_id is 5" in error and "512 positions" in error
