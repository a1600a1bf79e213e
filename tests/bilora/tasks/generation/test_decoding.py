"""Beam search against an exhaustive one, and the loss of a set against the model's own of single rows."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import bilora.tasks.generation.decoding
from bilora.errors import SettingsError
from bilora.tasks.generation.batches import PairCollator
from bilora.tasks.generation.decoding import Decoding, decode, token_loss
from bilora.tasks.generation.prompts import Prompts
from bilora.tasks.task import Inference

COLLATE = PairCollator(0)
SOURCES = ["name : Zizzi", "name : The Vaults | area : riverside", "a", "near : Burger King | food : French"]


def gpt2(words: int = 300) -> Any:
    torch.manual_seed(1)
    sizes = {"vocab_size": words, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 96}
    return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.5, bos_token_id=0, eos_token_id=0))


def llama() -> Any:
    torch.manual_seed(1)
    sizes = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 96}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.5))


class Letters:
    """A tokenizer of four words, of which the first is begin, end and padding, so that all texts can be tried."""

    bos_token_id = eos_token_id = pad_token_id = 0

    def __call__(
        self, text: str, add_special_tokens: bool = True, split_special_tokens: bool = False
    ) -> dict[str, list[int]]:
        return {"input_ids": ["_abc".index(letter) for letter in text]}

    def batch_decode(self, ids: Any, skip_special_tokens: bool) -> list[str]:
        return ["".join("_abc"[token] for token in row if token) for row in ids.tolist()]


def best_text(model: Any, source: str, *, length: int, penalty: float) -> str:
    """Return the best of all texts that end within ``length`` tokens or are cut there."""
    prompt = Prompts(Letters()).prompt(source)
    scores = {}
    for size in range(length + 1):
        for text in itertools.product((1, 2, 3), repeat=size):
            answer = (*text, 0)[:length]
            logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
            total = sum(logits[len(prompt) + place - 1, token].item() for place, token in enumerate(answer))
            scores["".join("_abc"[token] for token in text)] = total / len(answer) ** penalty
    return max(scores, key=lambda text: scores[text])


@pytest.mark.parametrize("penalty", [0.0, 0.9, 2.0])
def test_a_wide_beam_finds_the_best_of_all_texts(penalty: float) -> None:
    model = gpt2(words=4).eval()
    decoding = Decoding(beams=120, length_penalty=penalty, no_repeat_ngram_size=0, max_new_tokens=4)
    with torch.no_grad():
        expected = [best_text(model, source, length=4, penalty=penalty) for source in ("a", "bc", "cab")]
    assert decode(Inference(model, Letters()), ["a", "bc", "cab"], decoding) == expected


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("make", [gpt2, llama])
def test_no_text_depends_on_the_rows_beside_it(make: Callable[[], Any], tokenizer: Any, beams: int) -> None:
    inference, decoding = Inference(make(), tokenizer), Decoding(beams=beams, max_new_tokens=6)
    alone, *others = (decode(inference, SOURCES, replace(decoding, batch_size=size)) for size in (1, 3, 4))
    assert others == [alone, alone]
    assert len(set(alone)) > 1
    assert decode(inference, SOURCES[::-1], decoding) == alone[::-1]


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_random_state_stay_and_dropout_is_off(tokenizer: Any, training: bool) -> None:
    model = gpt2().train(training)
    state = torch.random.get_rng_state()
    inference, decoding = Inference(model, tokenizer), Decoding(beams=2, max_new_tokens=5)
    for answer in (lambda: decode(inference, SOURCES, decoding), lambda: token_loss(inference, examples(), COLLATE)):
        assert answer() == answer()
        assert model.training is training
        assert torch.equal(torch.random.get_rng_state(), state)


def test_a_ngram_is_not_repeated_and_too_few_positions_are_told(tokenizer: Any) -> None:
    inference, greedy = Inference(gpt2(), tokenizer), Decoding(beams=1, max_new_tokens=40)
    texts = [decode(inference, ["a"], replace(greedy, no_repeat_ngram_size=size)) for size in (0, 2)]
    assert texts[0] != texts[1]
    longest = len(Prompts(tokenizer).prompt(SOURCES[1]))
    with pytest.raises(SettingsError, match=rf"the longest input has {longest} tokens.*set max_new_tokens to"):
        decode(inference, SOURCES, Decoding(max_new_tokens=96 - longest + 1))


def test_a_text_is_one_line(tokenizer: Any, model: Any) -> None:
    newline = tokenizer("\n", add_special_tokens=False).input_ids[0]
    with torch.no_grad():
        # The output layer is the embedding: a vector that wins everywhere makes a text of line feeds.
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(model.lm_head.weight[newline] * 10)
    (text,) = decode(Inference(model, tokenizer), ["a"], Decoding(beams=2, no_repeat_ngram_size=0, max_new_tokens=4))
    assert text == ""


def test_bad_settings_are_refused() -> None:
    lengths: dict[str, Any] = {"length_penalty": float("inf"), "no_repeat_ngram_size": -1, "max_new_tokens": 0}
    for name, value in {"beams": 0, "batch_size": 0, **lengths}.items():
        with pytest.raises(SettingsError, match=f"decoding: {name} is {value}, it must"):
            Decoding(**{name: value})


def examples() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(1, 40, (length,), generator=generator).tolist() for length in (9, 4, 12, 6, 7)]
    return [{"input_ids": ids, "labels": [-100, -100, *ids[2:]], "group": 0, "reference": 0} for ids in texts]


def test_mean_over_tokens_whatever_the_batches_and_no_perplexity_beyond_all_numbers(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.eval()
    total, count = 0.0, 0
    for example in examples():
        ids, labels = (torch.tensor([example[name]]) for name in ("input_ids", "labels"))
        total += model(input_ids=ids, labels=labels).loss.item() * (ids.shape[1] - 2)
        count += ids.shape[1] - 2
    for batch in (1, 2, 16):
        monkeypatch.setattr(bilora.tasks.generation.decoding, "LOSS_BATCH", batch)
        metrics = token_loss(Inference(model.train(), None), examples(), COLLATE)
        assert metrics["loss"] == pytest.approx(total / count, rel=1e-6)
        assert metrics["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    with torch.no_grad():
        model.lm_head.weight.mul_(1e6)
    metrics = token_loss(Inference(model, None), examples(), COLLATE)
    assert metrics["loss"] is not None and metrics["loss"] > 700 and metrics["perplexity"] is None
