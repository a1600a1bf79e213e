"""A tiny run to do harm to: a random BERT with an adapter, dropout on, forty rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.files import MetricsFile
from bilora.engines.checkpoints.files import read_parts
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import fit
from bilora.engines.training.result import FitResult
from bilora.files import whole_folders
from bilora.metrics.monitor import Monitor
from bilora.problems.catalog import find_variant

ROWS = 40


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No waiting for the disk, and nothing written but here."""
    monkeypatch.setattr(whole_folders, "flush", lambda _: None)
    monkeypatch.chdir(tmp_path)


def tiny_base(*, seed: int = 0, attention: str = "eager") -> nn.Module:
    """Return a random two-layer BERT."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 32}
    config = BertConfig(num_hidden_layers=2, num_attention_heads=2, **sizes)
    return BertForSequenceClassification._from_config(config, attn_implementation=attention)  # type: ignore[no-any-return]


def collate(rows: Any) -> dict[str, Tensor]:
    """Return ids and labels as tensors."""
    return {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}


def token_rows() -> list[dict[str, Any]]:
    """Return rows of synthetic ids."""
    tokens = torch.randint(1, 64, (ROWS, 6), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": ids, "labels": index % 2} for index, ids in enumerate(tokens.tolist())]


@dataclass
class Ended:
    """What a run left behind."""

    model: Any
    result: FitResult
    folder: Path

    def parameters(self) -> dict[str, Tensor]:
        """Return what is trained, by name."""
        return {name: each.detach() for name, each in self.model.named_parameters() if each.requires_grad}

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
        assert same(self.parameters(), other.parameters())
        assert self.metrics() == other.metrics()


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], each) for name, each in right.items())


class Adapted:
    """A model to run on, kept, so that a test can look at it also when the run raised."""

    def __init__(self, method: str = "bilora", *, base: nn.Module | None = None, steps: int = 8) -> None:
        self.method = method
        self.settings = find_variant(method).settings(rank=2, dropout=0.1)
        base = tiny_base() if base is None else base
        self.model = find_variant(method).adapt(base, self.settings, task_type="SEQ_CLS", steps=steps)  # type: ignore[arg-type]

    def trained(self) -> dict[str, Tensor]:
        """Return a copy of what is trained."""
        return {name: each.detach().clone() for name, each in self.model.named_parameters() if each.requires_grad}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ended]:
    """Run a fit in a folder; words that ``fit`` does not know are settings."""

    def make(
        name: str = "run", *, on: Adapted | None = None, rows: Any = None, callbacks: Any = (), **options: Any
    ) -> Ended:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        words = ("collate", "validate", "monitor", "resume", "allow_config_change")
        known = {"collate": collate} | {word: options.pop(word) for word in words if word in options}
        batches = LevelSettings(batch_size=8, learning_rate=1e-2)
        settings = {"steps": 8, "unroll_steps": 2, "lower": batches, "upper": batches, "device": "cpu", **options}
        on = on or Adapted()
        result = fit(
            on.model,
            token_rows() if rows is None else rows,
            variant=on.method,
            variant_settings=on.settings,
            settings=FitSettings(**settings),
            callbacks=(MetricsFile(folder / "metrics.jsonl"), *callbacks),
            folder=folder,
            **known,
        )
        return Ended(on.model, result, folder)

    return make


class At(Callback):
    """Do something at a step."""

    must_work = True

    def __init__(self, step: int, action: Callable[[Any], object]) -> None:
        self.step, self.action = step, action

    def on_step(self, engine: Any, record: Any) -> None:
        """Do it, if it is time."""
        if record.step == self.step:
            self.action(engine)


@dataclass
class Faults:
    """The names above, for the tests."""

    at = At
    adapted = Adapted
    same = staticmethod(same)
    tiny_base = staticmethod(tiny_base)
    smaller = LevelSettings(batch_size=4, accumulation=2, learning_rate=1e-2)
    monitor = Monitor("score", greater_is_better=True)


@pytest.fixture
def faults() -> Faults:
    """What the tests do harm with."""
    return Faults()
