"""What the roads of the speed benchmark share: models, batches, a clock and an account of memory."""

from __future__ import annotations

import contextlib
import gc
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from bilora.models.embedded import embedded_model_folder
from bilora.models.pretrained import quiet_peft
from bilora.problems.catalog import find_variant
from bilora.problems.levels.betty_problem import PRECISIONS
from bilora.problems.variant import Variant

MODELS: dict[str, Callable[[], Any]] = {
    "minilm": lambda: AutoModelForSequenceClassification.from_pretrained(
        embedded_model_folder(), local_files_only=True
    ),
    "base": lambda: BertForSequenceClassification(BertConfig()),
    "roberta_base": lambda: RobertaForSequenceClassification(RobertaConfig(max_position_embeddings=514)),
    "roberta_large": lambda: RobertaForSequenceClassification(
        RobertaConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            max_position_embeddings=514,
        )
    ),
    "llama_1b": lambda: LlamaForSequenceClassification(  # type: ignore[no-untyped-call]
        LlamaConfig(
            hidden_size=2048,
            num_hidden_layers=22,
            num_attention_heads=32,
            num_key_value_heads=4,
            intermediate_size=5632,
            vocab_size=32000,
            pad_token_id=0,
        )
    ),
    "toy": lambda: BertForSequenceClassification(
        BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    ),
}
"""The embedded MiniLM; with random weights a 12-layer, 768-wide encoder, RoBERTa's two shapes and a Llama of 1.1
billion weights; and a 2-layer encoder for trials."""


def settings_of(variant: Variant) -> Any:
    """Return a variant's settings, for BiLoRA those that the published times are of."""
    return variant.settings(formulation="softmax") if variant.name == "bilora" else variant.settings()


BATCHES = 8
"""Batches that are gone through again and again."""

RATE = 1e-4
"""Learning rate of every level on every road."""


@dataclass(frozen=True)
class Shape:
    """Rows of a batch and tokens of a row.

    Example:
        >>> Shape.read("16x32")
        Shape(batch=16, length=32)
    """

    batch: int
    length: int

    @classmethod
    def read(cls, text: str) -> Shape:
        """Return the shape that ``BATCHxLENGTH`` names."""
        batch, _, length = text.partition("x")
        shape = cls(int(batch), int(length))
        if min(shape.batch, shape.length) < 1:
            raise ValueError(f"{text!r} holds no token")
        return shape

    def __str__(self) -> str:
        return f"{self.batch}x{self.length}"


@dataclass(frozen=True)
class Compilation:
    """How the model of a road is compiled: torch.compile's own mode and backend."""

    mode: str
    backend: str | Callable[..., Any] = "inductor"

    def apply(self, model: PeftModel) -> None:
        """Compile the base model in place, so that no parameter is renamed and PEFT's wrapper stays as it is."""
        # Other backends than inductor know no modes.
        mode = self.mode if self.backend == "inductor" and self.mode != "default" else None
        model.get_base_model().compile(backend=self.backend, mode=mode)


@dataclass
class Bench:
    """One model, shape and precision on one device."""

    model: str  # a name from MODELS
    shape: Shape  # of every batch
    precision: str  # fp32, or bf16 by autocast
    device: torch.device
    compilation: Compilation | None = None  # of the roads that allow it
    checkpointing: bool = False  # activations are computed again in the backward pass
    _models: dict[tuple[str, str, bool], PeftModel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Draw the batches: random tokens, since the time of a pass does not depend on them."""
        self.batches = [self._batch(seed) for seed in range(BATCHES)]

    def adapted(self, variant: str, *, owner: str = "", compiled: bool = False) -> PeftModel:
        """Return the model with the adapter of ``variant``."""
        # Roads that leave the model as it is share one, so that none is better placed in memory than another.
        compilation = self.compilation if compiled else None
        key = (variant, owner, compilation is not None)
        if key not in self._models:
            torch.manual_seed(0)
            row = find_variant(variant)
            with quiet_peft():
                model = row.adapt(_base_model(self.model), settings_of(row), task_type="SEQ_CLS", steps=1)
            if self.checkpointing:
                # The base is frozen: the other way gives its adapters no gradient.
                model.activation_checkpointing_enable({"use_reentrant": False})
            if compilation is not None:
                compilation.apply(model)
            self._models[key] = model.to(self.device).train()
        return self._models[key]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the precision as a context."""
        dtype = PRECISIONS[self.precision]
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    def model_megabytes(self) -> float:
        """Return the size of the model with PEFT's LoRA on it, in MiB."""
        model = self.adapted("lora")
        return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())) / 2**20

    def _batch(self, seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        # 30522 tokens in BERT's vocabulary and MiniLM's, 64 in the toy's.
        tokens = torch.randint(1, 64, (self.shape.batch, self.shape.length), generator=generator)
        labels = torch.randint(0, 2, (self.shape.batch,), generator=generator)
        batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}
        return {name: tensor.to(self.device) for name, tensor in batch.items()}


def _base_model(name: str) -> Any:
    model = MODELS[name]()
    # transformers sets it in the first forward pass, and torch.compile would then compile everything a second time.
    model.config.problem_type = "single_label_classification"
    return model


class Clock:
    """Wall-clock and CPU time of the steps after the first ``warm`` ones."""

    # ``warm`` is whole cycles, so that the first upper step is among them.
    def __init__(self, warm: int, steps: int, device: torch.device) -> None:
        self.warm, self.steps, self.device = warm, steps, device
        self.total = warm + steps
        self.ticks = 0
        self.wall = self.cpu = float("nan")
        self._started = (0.0, 0.0)

    def tick(self) -> None:
        """Note that a step is over."""
        self.ticks += 1
        if self.ticks == self.warm:
            self._started = self._now()
        elif self.ticks == self.total:
            wall, cpu = self._now()
            self.wall = (wall - self._started[0]) / self.steps
            self.cpu = (cpu - self._started[1]) / self.steps

    def _now(self) -> tuple[float, float]:
        # On a GPU all that was begun must have ended first. CPU time is that of this process alone.
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time()


def peak_megabytes(work: Callable[[], None], device: torch.device) -> float:
    """Return the most memory that ``work`` held at once in tensors, above what was held before, in MiB."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # The profiler notes every allocation and release, as CUDA's allocator counts them. The resident memory of the
    # process also grows by the pages of the model's file that the first pass reads, and by what malloc keeps.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None  # it has just run
    held = peak = 0
    notes = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    for note in sorted(notes, key=lambda event: event.start_ns()):
        held += note.nbytes()
        peak = max(peak, held)
    return peak / 2**20


class _Terminal(io.StringIO):
    """A terminal that nobody looks at: progress bars draw themselves, and their time is in the measurement."""

    def isatty(self) -> bool:
        """Return True."""
        return True


@contextlib.contextmanager
def unseen_terminal() -> Iterator[None]:
    """Send both outputs of the block to a terminal in memory."""
    with contextlib.redirect_stderr(_Terminal()), contextlib.redirect_stdout(_Terminal()):
        yield
