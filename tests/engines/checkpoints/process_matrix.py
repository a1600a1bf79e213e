"""The same runs on 1, 2, 3 and 4 processes, for test_process_matrix.py: ``process_matrix.py FOLDER``.

The processes of each count are started as torchrun starts them, and the first of them writes ``COUNT.json``.
"""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import get_peft_model
from process_scenarios import APPROXIMATIONS, VARIANT, Weighted, WeightedLower, WeightedUpper, vector, weighted_rows
from process_scenarios import collate as stacked
from tiny_models import tiny_bert
from torch import Tensor

from bilora import BiloraConfig
from bilora.engines.callbacks.callback import Callback
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import fit
from bilora.engines.training.split_loaders import DividedRows
from bilora.processes import shard_base
from bilora.processes.group import join_processes
from bilora.processes.processes import ONE_PROCESS, Processes

# Rows of a micro-batch of all processes together, which 1, 2, 3 and 4 divide.
BATCH = 12
STEPS = 50
# Rows of D1 and D2: whole batches; a last one of 5 rows; one of 2 rows and 1, fewer than most counts of processes.
EVEN, ODD, LAST = (24, 12), (29, 17), (26, 13)


@dataclass(frozen=True)
class Case:
    """One run: what differs from the plain one."""

    over: str = "rows"
    rows: tuple[int, int] = EVEN
    accumulation: int = 1
    is_bert: bool = False
    is_sharded: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


OTHERS = [name for name in APPROXIMATIONS if name != "darts"]
BERT = Case(is_bert=True, settings={"unroll_steps": 5})
CASES = {
    **{"plain": Case(), "odd_rows": Case(rows=ODD), "odd_last_batch": Case(rows=LAST)},
    **{"accumulation": Case(accumulation=2), "accumulation_and_odd": Case(rows=LAST, accumulation=2)},
    **{"tokens": Case("tokens", ODD), "class_weights": Case("classes", ODD)},
    # The plain one is darts.
    **{name: Case(settings={"hypergradient": {"name": name} | APPROXIMATIONS[name]}) for name in OTHERS},
    "first_order": Case(settings={"hypergradient": "first_order"}),
    "length_groups": dataclasses.replace(BERT, rows=ODD, settings={**BERT.settings, "group_by_length": True}),
    "sharded": dataclasses.replace(BERT, is_sharded=True),
    "bf16": dataclasses.replace(BERT, settings={**BERT.settings, "precision": "bf16"}),
}
SAVED = 21
# By processes: rows of a micro-batch in each, and accumulation, of the runs that save, and of those that go on.
SAVING = {1: (3, 4), 2: (3, 2), 4: (3, 1)}
GOING_ON = {"fewer": (4, 1, 3, 4), "three of four": (4, 3, 4, 1), "more and less accumulated": (1, 4, 3, 1)}
GOING_ON |= {"twice as many, half accumulated": (2, 4, 3, 1), "two, half accumulated": (1, 2, 3, 2)}


class Watch(Callback):
    """What is trained, right after the first step; and the numbers of the first upper step."""

    must_work = True

    def __init__(self) -> None:
        self.first_upper: list[float] = []

    def on_step(self, engine: Any, record: Any) -> None:
        if record.step == 1:
            self.after_one = vector(engine.lower_level.module)
            self.first_lower = [record.loss, record.gradient_norm]
        if record.upper and not self.first_upper:
            self.first_upper = [record.upper.loss, record.upper.direct_norm, record.upper.hypergradient_norm]


def token_rows(count: int) -> list[dict[str, Any]]:
    """Rows of 2 to 8 tokens."""
    tokens = torch.randint(1, 64, (count, 8), generator=torch.Generator().manual_seed(1)).tolist()
    return [{"input_ids": ids[: 2 + row % 7], "labels": row % 2} for row, ids in enumerate(tokens)]


def padded(rows: Any) -> dict[str, Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True)
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def model_of(case: Case, processes: Processes) -> Any:
    if not case.is_bert:
        return Weighted(case.over, torch.float32)
    torch.manual_seed(0)
    model = get_peft_model(tiny_bert(0.0), BiloraConfig(task_type="SEQ_CLS", r=2, init_weights=False))
    if case.is_sharded and processes.count > 1:
        shard_base(model, processes=processes)
    return model


def trained(case: Case, processes: Processes, *watch: Callback, batch: int | None = None, **where: Any) -> Tensor:
    model = model_of(case, processes)
    level = LevelSettings(
        learning_rate=2e-3 if case.is_bert else 2e-2,
        batch_size=batch or BATCH // processes.count,
        accumulation=case.accumulation,
        gradient_clipping=0.5,
        # From its first step on, after which the parameters are looked at.
        warmup=0.0,
    )
    given = {name: where.pop(name) for name in ("folder", "resume") if name in where}
    options = {"steps": STEPS, "unroll_steps": 2, "device": "cpu", "lower": level, "upper": level}
    settings = FitSettings(**{**options, **case.settings, **where})
    if case.is_bert:
        rows, collate = DividedRows(*map(token_rows, case.rows)), padded
        given["variant"] = "bilora"
    else:
        rows, collate = DividedRows(*(weighted_rows(case.over, count) for count in case.rows)), stacked
        given["variant"] = dataclasses.replace(VARIANT, lower=WeightedLower, upper=WeightedUpper)
    fit(model, rows, collate=collate, settings=settings, processes=processes, callbacks=watch, **given)
    return vector(model)


def matrix(processes: Processes) -> dict[str, Any]:
    """Run every case, and return what is trained at its start, after one step and at its end, and first numbers."""
    outcome = {}
    for name, case in CASES.items():
        watch = Watch()
        start = vector(model_of(dataclasses.replace(case, is_sharded=False), ONE_PROCESS))
        end = trained(case, processes, watch)
        numbers = {"lower": watch.first_lower, "upper": watch.first_upper}
        outcome[name] = {"start": start.tolist(), "one": watch.after_one.tolist(), "end": end.tolist(), **numbers}
    return outcome


UNROLLED = Case(settings={"hypergradient": {"name": "unrolled", "steps": 2}})


def going_on(processes: Processes, folder: Path) -> dict[str, list[float]]:
    """Save in the middle of an unroll, with some rows per micro-batch, and go on from what others have saved."""
    if processes.count in SAVING:
        batch, accumulation = SAVING[processes.count]
        case = dataclasses.replace(UNROLLED, accumulation=accumulation)
        trained(case, processes, batch=batch, folder=folder / f"saved-{processes.count}", save_every=SAVED)
    ends = {}
    for name, (before, now, batch, accumulation) in GOING_ON.items():
        if now != processes.count:
            continue
        checkpoint = folder / f"saved-{before}" / f"checkpoint-{SAVED}"
        while not checkpoint.is_dir():
            time.sleep(0.05)
        case = dataclasses.replace(UNROLLED, accumulation=accumulation)
        where = {"folder": folder / f"{name}-{now}", "resume": checkpoint}
        ends[name] = trained(case, processes, batch=batch, **where).tolist()
    return ends


class Messages(Callback):
    """The messages of every step: their bytes, by the function of torch that sends them."""

    must_work = True

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.by_step: list[list[tuple[str, int]]] = []

    def on_stage_start(self, engine: Any) -> None:
        self.sent.clear()

    def on_step_end(self, engine: Any) -> None:
        self.by_step.append(list(self.sent))
        self.sent.clear()

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        originals = {name: getattr(dist, name) for name in ("all_reduce", "all_gather_object", "broadcast_object_list")}

        def noting(name: str, original: Any) -> Any:
            def send(*args: Any, **how: Any) -> Any:
                is_numbers = name == "all_reduce" and args[0].is_floating_point()
                self.sent.append((name, args[0].nbytes) if is_numbers else ("flag", 0))
                return original(*args, **how)

            return send

        for name, original in originals.items():
            setattr(dist, name, noting(name, original))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(dist, name, original)


def messages(processes: Processes) -> dict[str, Any]:
    """Count the messages of every step, by scheme of differences and by accumulation."""
    outcome = {}
    for scheme in ("forward", "central"):
        for accumulation in (1, 2):
            case = Case(accumulation=accumulation)
            counted, settings = Messages(), {"hypergradient": {"name": "darts", "finite_difference": scheme}}
            with counted.counted():
                trained(dataclasses.replace(case, settings=settings), processes, counted, steps=8)
            outcome[f"{scheme}-{accumulation}"] = counted.by_step
    return outcome


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    processes = join_processes(device="cpu", timeout=300.0)
    outcome = {"matrix": matrix(processes), "going_on": going_on(processes, folder)}
    if processes.count == 2:
        outcome["messages"] = messages(processes)
    if processes.is_first:
        (folder / f"{processes.count}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
