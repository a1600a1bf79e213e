"""The answer to a row, its loss and its text are those of the row alone, whatever rows stand beside it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from bilora.data.rows import Rows, check_rows
from bilora.models.pretrained import load_model, load_tokenizer
from bilora.tasks.generation.decoding import Decoding, decode
from bilora.tasks.generation.task import GenerationTask
from bilora.tasks.task import AnyTask, Inference
from bilora.tasks.text.task import TextTask
from bilora.tasks.tokens.task import TokenTask

WORDS = "good bad great awful film movie was very not story plot actor scene liked hated really boring fun sad dull"
SHORT, LONG = "good film", " ".join(WORDS.split()[:18])
ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
DECODER = {**ENCODER, "num_key_value_heads": 2, "max_position_embeddings": 64}
BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("Bert", {**ENCODER, "max_position_embeddings": 64}),
    "RoBERTa": ("Roberta", {**ENCODER, "max_position_embeddings": 66}),
    "DistilBERT": ("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
    "DeBERTa-v3": (
        "DebertaV2",
        {
            **ENCODER,
            "max_position_embeddings": 64,
            "relative_attention": True,
            "position_buckets": 8,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "XLNet": ("XLNet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}),
    "GPT-2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "OPT": ("OPT", {**ENCODER, "ffn_dim": 64, "max_position_embeddings": 64, "word_embed_proj_dim": 32}),
    "Llama": ("Llama", DECODER),
    "Qwen": ("Qwen2", DECODER),
    "T5": ("T5", T5),
    "BART": ("Bart", BART),
}
CAUSAL = ("GPT-2", "OPT", "Llama", "Qwen")
NO_TAGS = ("Bart", "OPT")  # transformers has no head over every token for them


def saved(folder: Path, family: str, kind: str, side: str) -> Path:
    """Save a random model and a tokenizer that says to pad on a side, and return their folder."""
    name, sizes = FAMILIES[family]
    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    own.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<s>", "<cls>"]
    own.train_from_iterator([WORDS], trainers.BpeTrainer(vocab_size=120, special_tokens=special, show_progress=False))
    if family not in CAUSAL:
        ends = "$A </s> <cls>" if family == "XLNet" else "<s> $A </s>"
        own.post_processor = processors.TemplateProcessing(ends, special_tokens=[*zip(special, range(4), strict=True)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="<pad>", eos_token="</s>", bos_token="<s>", padding_side=side
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer) + 8, **tokens, **sizes)
    model = getattr(transformers, f"{name}{kind}")(config)
    for parameter in model.parameters():  # so that outputs differ well between rows
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def opened(place: Path, task: AnyTask) -> Inference:
    tokenizer = load_tokenizer(str(place), task, max_length=32)
    torch.manual_seed(0)
    return Inference(load_model(tokenizer, task).model.eval(), tokenizer.own)


def rows_of(task: AnyTask, *rows: dict[str, Any]) -> Rows:
    return check_rows(list(enumerate(rows, start=1)), task, source="rows", split="train")


def hold_losses(task: AnyTask, inference: Inference, rows: list[dict[str, Any]]) -> None:
    """Hold the loss of a training batch, and the loss of a set, to those of its rows alone."""
    encoded = [task.encode(rows_of(task, row), inference.tokenizer, max_length=32).encoded[0] for row in rows]
    collate = task.collator(inference.tokenizer)
    batches = [collate([row]) for row in encoded]
    terms = [task.terms(batch["labels"]) for batch in batches]
    with torch.no_grad():
        alone = [float(inference.model(**batch).loss) for batch in batches]
        together = float(inference.model(**collate(encoded)).loss)
    mean = sum(loss * count for loss, count in zip(alone, terms, strict=True)) / sum(terms)
    assert together == pytest.approx(mean, abs=1e-4)
    data = task.encode(rows_of(task, *rows), inference.tokenizer, max_length=32)
    assert task.validate(inference, data).metrics["loss"] == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_class_of_a_text(tmp_path: Path, family: str, side: str) -> None:
    task = TextTask("toy", ("text",), ("no", "yes"))
    inference = opened(saved(tmp_path, family, "ForSequenceClassification", side), task)
    rows = [{"text": text, "label": label} for label, text in enumerate((SHORT, LONG))]
    [alone], _ = task.answers(inference, rows_of(task, rows[0]), max_length=32)
    (beside, other), _ = task.answers(inference, rows_of(task, *rows), max_length=32)
    assert beside["probabilities"]["yes"] == pytest.approx(alone["probabilities"]["yes"], abs=1e-4)
    assert other["probabilities"]["yes"] != pytest.approx(alone["probabilities"]["yes"], abs=1e-3)
    hold_losses(task, inference, rows)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", [family for family, (name, _) in FAMILIES.items() if name not in NO_TAGS])
def test_the_tags_of_tokens(tmp_path: Path, family: str, side: str) -> None:
    task = TokenTask("toy", ("noun", "verb"))
    inference = opened(saved(tmp_path, family, "ForTokenClassification", side), task)
    rows = [{"tokens": text.split(), "tags": ["noun", "verb"] * (len(text.split()) // 2)} for text in (SHORT, LONG)]
    [alone], _ = task.answers(inference, rows_of(task, rows[0]), max_length=32)
    (beside, _), _ = task.answers(inference, rows_of(task, *rows), max_length=32)
    assert beside["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-4)
    hold_losses(task, inference, rows)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", CAUSAL)
def test_a_text(tmp_path: Path, family: str, side: str, beams: int) -> None:
    task = GenerationTask("toy")
    name = "LMHeadModel" if family == "GPT-2" else "ForCausalLM"
    inference = opened(saved(tmp_path, family, name, side), task)
    search = Decoding(beams=beams, max_new_tokens=8, batch_size=2)
    assert decode(inference, [SHORT, LONG], search)[0] == decode(inference, [SHORT], search)[0]
    hold_losses(task, inference, [{"source": text, "references": ["a fun plot"]} for text in (SHORT, LONG)])
