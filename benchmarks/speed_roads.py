"""The roads that the speed benchmark compares: the same training step, driven in different ways.

Every road makes ``clock.total`` lower steps on the same batches, with AdamW at one constant learning rate and without
gradient clipping (stock Betty: Adam), and ticks after each.
"""

import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from betty.configs import Config
from peft import PeftModel
from speed_bench import RATE, Bench, Clock, settings_of, unseen_terminal
from speed_betty import stock_betty
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.files import MetricsFile
from bilora.engines.callbacks.progress import Progress
from bilora.engines.callbacks.records import StepRecord
from bilora.problems.catalog import find_variant
from bilora.problems.levels.level import Level

AnyLevel = TypeVar("AnyLevel", bound=Level)


@dataclass(frozen=True)
class Road:
    """A way to train."""

    name: str  # in tables and options
    run: Callable[[Bench, Clock], None]
    cost: float  # of a lower step in PEFT's LoRA steps, by the cost model
    cycle: int = 1  # lower steps per upper step; 1 where there is none
    compiled: bool = False  # where that is asked for


def bare_loop(bench: Bench, clock: Clock, *, compiled: bool = False, fused: bool = False) -> None:
    """Train PEFT's LoRA in a loop of six lines, with torch's AdamW as it comes or, as in our engine, fused."""
    model = bench.adapted("lora", compiled=compiled)
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=RATE, fused=fused
    )
    for batch in itertools.islice(itertools.cycle(bench.batches), clock.total):
        with bench.autocast():
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()


def trainer(bench: Bench, clock: Clock) -> None:
    """Train PEFT's LoRA with transformers' Trainer and its own fused AdamW, progress bar on."""
    with tempfile.TemporaryDirectory() as folder, unseen_terminal():
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=clock.total,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            bf16=bench.precision == "bf16",
            use_cpu=bench.device.type == "cpu",
            dataloader_pin_memory=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=False,
        )
        # Its own model: for bf16 accelerate wraps the forward of the one it is given, for good.
        model = bench.adapted("lora", owner="trainer")
        _GivenBatches(model, arguments, bench=bench, callbacks=[_TrainerTicks(clock)]).train()


class _GivenBatches(Trainer):
    """A Trainer that collates nothing: it takes the same batches as the other roads."""

    def __init__(self, model: PeftModel, arguments: TrainingArguments, *, bench: Bench, callbacks: list[Any]) -> None:
        super().__init__(model, arguments, callbacks=callbacks)
        self.batches = bench.batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches as they are."""
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]  # a list is a map-style data set


class _TrainerTicks(TrainerCallback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.tick()


def ours(
    bench: Bench, clock: Clock, *, variant: str, unroll_steps: int = 1, hypergradient: str | Mapping[str, Any] = "darts"
) -> None:
    """Train a variant in our engine, ``metrics.jsonl`` and progress bar on."""
    row = find_variant(variant)
    model = bench.adapted(variant, compiled=True)
    below = Config(unroll_steps=unroll_steps, precision=bench.precision)
    lower = _ready(row.lower("lower", below, model, extra_config=settings_of(row)), bench)
    upper = None
    if row.upper is not None:
        above = Config(precision=bench.precision)
        upper = _ready(row.upper("upper", above, model, extra_config=settings_of(row)), bench)
    with tempfile.TemporaryDirectory() as folder, unseen_terminal():
        BilevelEngine(
            lower,
            upper,
            steps=clock.total,
            hypergradient=hypergradient,
            callbacks=(MetricsFile(Path(folder) / "metrics.jsonl"), Progress(variant), _EngineTicks(clock)),
            device=str(bench.device),
        ).run()
    model.train()


def _ready(level: AnyLevel, bench: Bench) -> AnyLevel:
    level.optimizer = torch.optim.AdamW(level.trainable_parameters(), lr=RATE, weight_decay=0.0, fused=True)
    level.train_data_loader = bench.batches
    return level


class _EngineTicks(Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        self.clock.tick()


def _bilevel(name: str, scheme: str, k: int, passes: float) -> Road:
    def run(bench: Bench, clock: Clock) -> None:
        hypergradient = {"name": "darts", "finite_difference": scheme}
        ours(bench, clock, variant="bilora", unroll_steps=k, hypergradient=hypergradient)

    return Road(f"{name}_k{k}", run, 1 + passes / k, k, compiled=True)


def _betty(k: int) -> Road:
    return Road(f"betty_k{k}", lambda bench, clock: stock_betty(bench, clock, unroll_steps=k), 1 + 3.5 / k, k)


BASELINE = "peft"
FUSED = "peft_fused"

ROADS: dict[str, Road] = {
    road.name: road
    for road in (
        Road(BASELINE, bare_loop, 1.0),
        Road(FUSED, lambda bench, clock: bare_loop(bench, clock, fused=True), 1.0),
        Road("peft_compiled", lambda bench, clock: bare_loop(bench, clock, compiled=True), 1.0, compiled=True),
        Road("trainer", trainer, 1.0),
        Road("lora", lambda bench, clock: ours(bench, clock, variant="lora"), 1.0, compiled=True),
        *(_betty(k) for k in (1, 2, 4)),
        *(_bilevel("forward", "forward", k, 2.0) for k in (1, 2, 4, 8)),
        *(_bilevel("central", "central", k, 3.0) for k in (1, 2, 4, 8)),
    )
}
"""Every road by name. ``peft`` is what the others are measured in; it is never compiled."""
