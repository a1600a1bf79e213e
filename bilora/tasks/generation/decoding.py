"""Texts out of a causal model, by beam search."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.nn import functional

from bilora.data.loaders import Collate, make_loader
from bilora.errors import SettingsError
from bilora.processes.processes import ONE_PROCESS, taken_in_turn
from bilora.processes.sharded import is_sharded
from bilora.settings.sections import refuse_faults
from bilora.tasks.generation.batches import padded
from bilora.tasks.generation.prompts import AsWritten, Prompts
from bilora.tasks.scoring import evaluating, in_row_order, length_order
from bilora.tasks.task import IGNORED, Inference, Metrics
from bilora.tensors import to_device


@dataclass(frozen=True)
class Decoding:
    """How texts are searched for; the defaults are those of the LoRA paper."""

    # https://github.com/microsoft/LoRA, examples/NLG/README.md: beam 10, no 4-gram twice, at most 64 new tokens

    beams: int = 10  # 1 takes the likeliest token each time
    length_penalty: float = 1.0  # a text's log-probability is divided by its length to this power
    no_repeat_ngram_size: int = 4  # length of n-grams that a text may hold once only; 0 allows all
    max_new_tokens: int = 64
    batch_size: int = 8  # rows searched at once; memory grows with rows times beams

    def __post_init__(self) -> None:
        checks = (
            ("beams", "it must be at least 1", self.beams >= 1),
            ("length_penalty", "it must be finite", abs(self.length_penalty) < float("inf")),
            ("no_repeat_ngram_size", "it must be positive, or 0 for none", self.no_repeat_ngram_size >= 0),
            ("max_new_tokens", "it must be at least 1", self.max_new_tokens >= 1),
            ("batch_size", "it must be at least 1", self.batch_size >= 1),
        )
        refuse_faults("decoding", self, checks)


def decode(inference: Inference, sources: Sequence[str], decoding: Decoding) -> list[str]:
    """Return the text that a causal model gives for each input, on one line where the input is a line too."""
    prompts = Prompts(inference.tokenizer)
    encoded = [{"input_ids": prompts.prompt(source)} for source in sources]
    _check_positions(inference.model, max(len(row["input_ids"]) for row in encoded), new=decoding.max_new_tokens)
    # Rows of one length need no padding; results depend on the rows that share a batch by rounding alone.
    order = length_order(encoded)
    with evaluating(inference) as one_batch:
        texts_of_batches = taken_in_turn(
            [order[start : start + decoding.batch_size] for start in range(0, len(order), decoding.batch_size)],
            lambda rows: _search(inference, [encoded[row]["input_ids"] for row in rows], decoding, one_batch),
            # A sharded model answers when all processes ask, so each searches everything.
            ONE_PROCESS if is_sharded(inference.model) else inference.processes,
        )
        texts = in_row_order(itertools.chain.from_iterable(texts_of_batches), encoded)
    # One line a text, as the files for the official scorers have it.
    pairs = zip(texts, sources, strict=True)
    return [text.strip() if isinstance(source, AsWritten) else one_line(text) for text, source in pairs]


def one_line(text: str) -> str:
    """Return a text without its line ends."""
    return " ".join(text.split())


def _search(inference: Inference, prompts: list[list[int]], decoding: Decoding, one_batch: Any) -> list[str]:
    model: Any = inference.model
    tokenizer = inference.tokenizer
    # As in the paper's code, the best text that ended within max_new_tokens is looked for; transformers' default stops
    # as soon as the texts that have ended are better than the others are now. Greedy search knows neither setting.
    beams = {"length_penalty": decoding.length_penalty, "early_stopping": "never"} if decoding.beams > 1 else {}
    with one_batch() as device:
        batch = to_device(padded(prompts, tokenizer.pad_token_id, side="left"), device)
        ids = model.generate(
            **batch,
            **beams,
            do_sample=False,
            num_beams=decoding.beams,
            no_repeat_ngram_size=decoding.no_repeat_ngram_size,
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    # The ids begin with the prompt.
    answers = ids[:, batch["input_ids"].shape[1] :]
    texts: list[str] = tokenizer.batch_decode(answers, skip_special_tokens=True)
    return texts


def _check_positions(model: Any, longest: int, *, new: int) -> None:
    # Models with relative positions have no such entry, and no limit.
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions and 0 <= positions < longest + new:  # -1 is no limit (XLNet)
        raise SettingsError(
            f"the longest input has {longest} tokens and max_new_tokens is {new}, together more than the model's "
            f"{positions} positions; set max_new_tokens to {max(1, positions - longest)} or less"
        )


# Examples per batch: logits have a column for every word of the vocabulary, which takes memory.
LOSS_BATCH = 16


def token_loss(inference: Inference, examples: Sequence[Mapping[str, Any]], collate: Collate) -> Metrics:
    """Return ``loss``, the mean cross entropy over all labelled tokens, and ``perplexity``, its exponential."""
    ordered = [examples[position] for position in length_order(examples)]
    loader = make_loader(ordered, batch_size=LOSS_BATCH, seed=0, collate=collate, shuffle=False)
    with evaluating(inference) as one_batch:

        def summed(batch: Mapping[str, Any]) -> tuple[float, int]:
            with one_batch() as device:
                moved = to_device(batch, device)
                labels = moved.pop("labels")[:, 1:]  # the logits of a token are of the one behind it
                # Without labels, so that a regularizer that a method adds to the model's loss does not enter.
                logits = inference.model(**moved).logits[:, :-1].float()
                # The sum over a batch in float32, the sum over batches in float64.
                loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
            return loss, int((labels != IGNORED).sum())

        losses, counts = zip(*taken_in_turn(loader, summed, inference.processes), strict=True)
    loss = sum(losses) / sum(counts)
    # exp(709.8) is the largest float; JSON has no infinity.
    return {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else None}
