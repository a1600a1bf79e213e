"""A tiny run to do harm to: a random BERT with an adapter, dropout on, forty rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fingerprint import assert_same
from tiny_models import tiny_bert
from torch import Tensor, nn

from bilora.engines.callbacks.callback import Callback
from bilora.engines.checkpoints.files import read_parts
from bilora.engines.settings import LevelSettings
from bilora.engines.training.result import FitResult
from bilora.metrics.monitor import Monitor
from bilora.problems.catalog import find_variant

Run = Callable[..., "Ended"]
BATCHES = LevelSettings(batch_size=8, learning_rate=1e-2)
HALVED = LevelSettings(batch_size=4, accumulation=2, learning_rate=1e-2)
MONITOR = Monitor("score", greater_is_better=True)
TOKENS = torch.randint(1, 64, (40, 6), generator=torch.Generator().manual_seed(1)).tolist()
ROWS = [{"input_ids": ids, "labels": index % 2} for index, ids in enumerate(TOKENS)]


def collate(rows: Any) -> dict[str, Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}


def tiny_base(*, seed: int = 0, attention: str = "eager") -> nn.Module:
    torch.manual_seed(seed)
    return tiny_bert(0.1, attention=attention)


def trained(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of what is trained, by name."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


class Adapted:
    """A model to run on, kept, so that a test can look at it also when the run raised."""

    def __init__(self, method: str = "bilora", *, base: nn.Module | None = None, steps: int = 8) -> None:
        variant = find_variant(method)
        self.method, self.settings = method, variant.settings(rank=2, dropout=0.1)
        base = base or tiny_base()
        self.model = variant.adapt(base, self.settings, task_type="SEQ_CLS", steps=steps)  # type: ignore[arg-type]


@dataclass
class Ended:
    """What a run left behind."""

    model: Any
    result: FitResult
    folder: Path

    def metrics(self) -> bytes:
        return (self.folder / "metrics.jsonl").read_bytes()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.metrics().splitlines()]

    def digests(self, step: int) -> dict[str, str]:
        """Return the hash of every part of a checkpoint, without the time that was taken."""
        parts = read_parts(self.folder / f"checkpoint-{step}")
        del parts["stages"].tree["seconds"]
        return {name: part.digest() for name, part in parts.items()}

    def check_same(self, other: Ended) -> None:
        """Hold every number trained and every line written against another run's, to the bit."""
        assert_same(trained(self.model), trained(other.model))
        assert self.metrics() == other.metrics()


class At(Callback):
    """Do something after a step, or with step 0 at the start of a stage."""

    must_work = True

    def __init__(self, step: int, action: Callable[[Any], object]) -> None:
        self.step, self.action = step, action

    def on_stage_start(self, engine: Any) -> None:
        if self.step == 0:
            self.action(engine)

    def on_step(self, engine: Any, record: Any) -> None:
        if record.step == self.step:
            self.action(engine)
