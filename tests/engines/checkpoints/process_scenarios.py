"""What two processes do for test_several_processes.py: each scenario is a function, and gives JSON.

Run by two processes with torchrun's variables in the environment: ``process_scenarios.py FOLDER [killed | asleep]``.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from tiny_models import tiny_bert
from torch import Tensor, nn

from bilora import BiloraConfig
from bilora.commands.train import TRAIN
from bilora.engines.callbacks.callback import Callback
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import fit
from bilora.engines.training.split_loaders import DividedRows
from bilora.errors import BiloraError, InterruptedRun, ProcessesError, SettingsError
from bilora.problems.levels.losses import terms_of
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.problems.variant import Variant
from bilora.processes import shard_base
from bilora.processes.group import join_processes
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.tasks.scoring import predict
from bilora.tasks.task import Inference

PRODUCTS = {how: {"finite_difference": how} for how in ("central", "forward")} | {"exact": {"products": "exact"}}
APPROXIMATIONS: dict[str, dict[str, Any]] = {
    **{"darts": {}, "adaptive": {}, "neumann": {"terms": 3}, "unrolled": {"steps": 2}},
    **{"conjugate_gradient": {"damping": 1.0}, "nystrom": {"rank": 2, "damping": 1.0}},
}
COMBINATIONS = {"first_order": {"name": "first_order"}} | {
    f"{name}-{how}": {"name": name, **settings, **product}
    for (name, settings), (how, product) in itertools.product(APPROXIMATIONS.items(), PRODUCTS.items())
}
ROWS = 48


class LowRank(nn.Module):
    """A frozen layer with P diag(E) Q beside it, in float64; it keeps what its levels were given and drew."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.register_buffer("base", 0.3 * drawn(3, 4))
        self.left, self.right = nn.Parameter(0.5 * drawn(3, 2)), nn.Parameter(0.5 * drawn(2, 4))
        self.values = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.noise = noise
        self.seen: dict[str, list[list[int]]] = {"lower": [], "upper": []}
        self.masks: list[list[float]] = []

    def loss(self, batch: dict[str, Tensor], level: str) -> Tensor:
        self.seen[level].append(batch["row"].tolist())
        inputs = batch["inputs"]
        if self.noise:
            mask = torch.rand_like(inputs)
            self.masks.append(mask.flatten().tolist())
            inputs = inputs + self.noise * mask
        weight = self.base + (self.left * self.values) @ self.right
        return nn.functional.cross_entropy(torch.tanh(inputs @ weight.T), batch["labels"])


class VectorsLower(LowerProblem):
    def level_parameters(self) -> dict[str, nn.Parameter]:
        return {"left": self.module.left, "right": self.module.right}

    def training_step(self, batch: Any) -> Any:
        return {"loss": self.module.loss(batch, "lower") + self.penalty(), "penalty": self.penalty()}

    def penalty(self) -> Tensor:
        gram = self.module.left.T @ self.module.left
        return 0.1 * ((gram - torch.eye(2, dtype=torch.float64)) ** 2).sum()


class ValuesUpper(UpperProblem):
    def level_parameters(self) -> dict[str, nn.Parameter]:
        return {"values": self.module.values}

    def training_step(self, batch: Any) -> Any:
        return self.module.loss(batch, "upper")


VARIANT = Variant("low_rank", VectorsLower, ValuesUpper, dict, lambda model, *_, **__: model)


def collate(rows: Any) -> dict[str, Tensor]:
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}


def some_rows(count: int = ROWS) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return [{"row": row, "inputs": inputs[row], "labels": row % 3} for row in range(count)]


class Records(Callback):
    def __init__(self) -> None:
        self.steps: list[Any] = []

    def on_step(self, engine: Any, record: Any) -> None:
        self.steps.append(record)


class InTheSecond(Callback):
    """Does something at a step, in the second process alone."""

    must_work = True

    def __init__(self, step: int, action: Callable[[Any], object]) -> None:
        self.step, self.action = step, action

    def on_step(self, engine: Any, record: Any) -> None:
        if record.step == self.step and not engine.processes.is_first:
            self.action(engine)


def level(processes: Processes, *, accumulation: int = 1, rows: int = 8) -> LevelSettings:
    # The same rows per micro-batch whatever the number of processes.
    batch = rows // processes.count
    return LevelSettings(learning_rate=2e-2, batch_size=batch, accumulation=accumulation, gradient_clipping=0.5)


def trained(
    processes: Processes, hypergradient: Any = "darts", *, model: Any = None, rows: Any = None, **options: Any
) -> tuple[LowRank, Records, Any]:
    """Fit a model and return it, its records and the result; what ``fit`` does not know are settings."""
    model, records = model or LowRank(), Records()
    batches = level(processes, accumulation=options.pop("accumulation", 1), rows=options.pop("batch", 8))
    given = {"collate": collate, "processes": processes, "callbacks": (records, *options.pop("callbacks", ()))}
    given["variant"] = options.pop("variant", VARIANT)
    given |= {name: options.pop(name) for name in ("validate", "collate", "folder", "resume") if name in options}
    settings = {"steps": 40, "unroll_steps": 2, "hypergradient": hypergradient, "device": "cpu", "split_ratio": 0.5}
    settings = FitSettings(**{**settings, "lower": batches, "upper": batches, **options})
    return model, records, fit(model, rows or some_rows(), settings=settings, **given)


def vector(model: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten().double() for weight in model.parameters() if weight.requires_grad])


def message_of(action: Callable[[], object]) -> str:
    try:
        action()
    except BiloraError as error:
        return str(error)
    return "nothing"


def with_warnings(action: Callable[[], Any]) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        return action(), [str(warning.message) for warning in warned]


def equality(processes: Processes) -> dict[str, Any]:
    """Train by every approximation and product, together and alone, with and without accumulation."""
    outcome = {}
    for index, ((name, chosen), accumulation) in enumerate(itertools.product(COMBINATIONS.items(), (1, 2))):
        # 12 upper steps, whatever the accumulation of both levels; only unrolling needs two lower steps for each.
        unroll = 2 if name.startswith("unrolled") else 1
        options = {"accumulation": accumulation, "steps": 12 * unroll, "unroll_steps": unroll}
        together, records, result = trained(processes, chosen, **options)
        others = processes.gathered(vector(together))
        # Each trains alone in half of the cases.
        if index % 2 != processes.rank:
            continue
        alone, single, _ = trained(ONE_PROCESS, chosen, **options)
        upper = [(a.upper, b.upper) for a, b in zip(records.steps, single.steps, strict=True) if a.upper]
        outcome[f"{name}-{accumulation}"] = {
            "upper_steps": result.upper_steps,
            "moved": float((vector(alone) - vector(LowRank())).abs().max()),
            "apart": float((vector(together) - vector(alone)).abs().max()),
            "drift": float((others[0] - others[1]).abs().max()),
            "losses": max(abs(a.loss - b.loss) for a, b in zip(records.steps, single.steps, strict=True)),
            "hypergradients": max(abs(a.hypergradient_norm - b.hypergradient_norm) for a, b in upper),
            "directs": max(abs(a.direct_norm - b.direct_norm) for a, b in upper),
            "upper_losses": max(abs(a.loss - b.loss) for a, b in upper),
        }
    first, second = processes.gathered(outcome)
    return {**first, **second}


def rows_read(processes: Processes) -> dict[str, Any]:
    """Read rows whose number does not divide evenly."""
    together = trained(processes, steps=12, rows=some_rows(46))[0].seen
    alone = trained(ONE_PROCESS, steps=12, rows=some_rows(46))[0].seen if processes.is_first else {}
    return {"together": processes.gathered(together), "alone": alone}


class Weighted(LowRank):
    """Its loss is a mean over rows, over tokens of which some have no label, or over weights of classes."""

    def __init__(self, over: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.over, self.weights = over, torch.tensor([0.5, 2.0, 7.0], dtype=dtype)
        self.to(dtype)

    def loss(self, batch: dict[str, Tensor], level: str) -> Tensor:
        weight = self.base + (self.left * self.values) @ self.right
        answers, labels = torch.tanh(batch["inputs"].to(weight) @ weight.T), batch["labels"]
        weights = self.weights if self.over == "classes" else None
        return nn.functional.cross_entropy(answers.reshape(-1, 3), labels.reshape(-1), weight=weights)

    def terms(self, batch: dict[str, Tensor]) -> float:
        return float(self.weights[batch["labels"]].sum()) if self.over == "classes" else terms_of(batch, self)


class WeightedUpper(ValuesUpper):
    def terms(self, batch: Any) -> float:
        return self.module.terms(batch)  # type: ignore[no-any-return]


class WeightedLower(VectorsLower):
    def terms(self, batch: Any) -> float:
        return self.module.terms(batch)  # type: ignore[no-any-return]

    def penalty(self) -> Tensor:
        gram = self.module.left.T @ self.module.left
        return 0.1 * ((gram - torch.eye(2).to(gram)) ** 2).sum()


def weighted_rows(over: str, count: int) -> list[dict[str, Any]]:
    rows = some_rows(3 * count)
    if over != "tokens":
        return rows[:count]
    # Three tokens a row, of which row by row one to three are labelled.
    return [
        {
            "inputs": torch.stack([row["inputs"] for row in rows[start : start + 3]]),
            "labels": torch.tensor([0, -100 if start % 2 else 1, -100 if start % 5 else 2]),
        }
        for start in range(0, 3 * count, 3)
    ]


# Rows of D1 and D2. In batches of 8 they leave 5 and 1, 1 and 3, and none: in one process of two a row less, or the
# only row in both.
ODD_ROWS = {"odd": (13, 9), "alone": (17, 11), "even": (16, 8)}
ODD_CASES = list(itertools.product(("rows", "tokens", "classes"), ODD_ROWS))


def odd_batches(processes: Processes) -> dict[str, Any]:
    """Train on rows that leave smaller last batches, together and alone, and with half the batch twice."""
    outcome: dict[str, Any] = {}
    variant = dataclasses.replace(VARIANT, lower=WeightedLower, upper=WeightedUpper)

    def run(over: str, rows: str, joined: Processes, *, dtype: torch.dtype = torch.float64, **how: int) -> Any:
        model = Weighted(over, dtype)
        parts = DividedRows(*(weighted_rows(over, count) for count in ODD_ROWS[rows]))
        options: dict[str, Any] = {"rows": parts, "variant": variant, "unroll_steps": 1}
        result = trained(joined, model=model, split_ratio=0.8, **{**options, "steps": 50, **how})[2]
        return vector(model), result.upper_steps

    lengths = {"one step": {"steps": 1}, "fifty": {}, "accumulated": {"accumulation": 2}}
    for over, rows in ODD_CASES:
        ends, apart = {}, {}
        # In float32 the fifty steps alone, in which its differences have grown.
        for name, dtype in (*((name, torch.float64) for name in lengths), ("fifty", torch.float32)):
            together, steps = run(over, rows, processes, dtype=dtype, **lengths[name])
            alone, same = run(over, rows, ONE_PROCESS, dtype=dtype, **lengths[name])
            apart[f"{name} {dtype}"] = float((together - alone).abs().max())
            ends[name, dtype] = together
            assert steps == same == lengths[name].get("steps", 50)
        halved, steps = run(over, rows, processes, batch=4, accumulation=2)
        whole = ends["fifty", torch.float64]
        apart["moved"] = float((whole - vector(Weighted(over, torch.float64))).abs().max())
        outcome[f"{over}-{rows}"] = apart | {"halved": float((halved - whole).abs().max())}
        outcome[f"{over}-{rows}"]["upper_steps"] = [steps, run(over, rows, ONE_PROCESS, batch=4, accumulation=2)[1]]
    return outcome


def masks(processes: Processes) -> dict[str, Any]:
    """Draw masks: of every forward pass of the lower step before an upper one, and of its replays."""
    model, *_ = trained(processes, {"name": "darts", "finite_difference": "central"}, steps=2, model=LowRank(0.1))
    return {"masks": processes.gathered(model.masks)}


def decisions(processes: Processes) -> Any:
    """Ask the second process alone to stop, and validate with numbers that differ between the processes."""
    stop = InTheSecond(5, lambda engine: engine.stop("asked"))
    result = trained(processes, callbacks=[stop], validate=lambda: {"score": float(processes.rank)})[2]
    return processes.gathered([result.steps, result.stop_reason, result.metrics["score"]])


def divergence(processes: Processes) -> dict[str, Any]:
    """Give the second process alone a row that is not finite."""

    def broken(count: int) -> Callable[[Any], dict[str, Tensor]]:
        """Return a collator by which the first rows are not finite; the sample of rows that is compared is the same."""
        bad = [{**row, "inputs": row["inputs"] * float("nan")} if row["row"] < count else row for row in some_rows()]
        return lambda rows: collate(rows if processes.is_first else [bad[row["row"]] for row in rows])

    model = LowRank()
    words = message_of(lambda: trained(processes, steps=4, split_ratio=0.8, model=model, collate=broken(ROWS)))
    moved = float((vector(model) - vector(LowRank())).abs().max())
    outcome = {"message": processes.gathered(words), "moved": processes.gathered(moved)}
    # Two rows of the second process's alone: the steps that read them are skipped by both.
    options: dict[str, Any] = {"steps": 12, "split_ratio": 0.8, "skip_diverged": 12}
    (model, _, result), warned = with_warnings(lambda: trained(processes, collate=broken(2), **options))
    outcome["skipped"] = processes.gathered([result.skipped_steps, result.skipped_upper_steps])
    outcome["warnings"] = processes.gathered(len(warned))
    first, second = processes.gathered(vector(model))
    return outcome | {"same": torch.equal(first, second), "finite": bool(torch.isfinite(first).all())}


def refusals(processes: Processes) -> dict[str, Any]:
    """Start with models, rows and settings that differ, and raise in the first process alone."""
    other = LowRank()
    with torch.no_grad():
        other.left += float(processes.rank)

    def refuse() -> None:
        raise SettingsError("the first one's error")

    attempts: dict[str, Callable[[], object]] = {
        "model": lambda: trained(processes, model=other),
        "rows": lambda: trained(processes, rows=some_rows(40 + processes.rank)),
        "settings": lambda: trained(processes, seed=processes.rank),
        "first_only": lambda: processes.first_only(refuse),
    }
    return {name: processes.gathered(message_of(attempt)) for name, attempt in attempts.items()}


def bert() -> Any:
    torch.manual_seed(0)
    adapter = BiloraConfig(task_type="SEQ_CLS", r=2, formulation="softmax", init_weights=False)
    return get_peft_model(tiny_bert(0.0), adapter)


def token_rows() -> list[dict[str, Any]]:
    tokens = torch.randint(1, 32, (ROWS, 6), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": ids, "labels": index % 2} for index, ids in enumerate(tokens.tolist())]


def token_batches() -> list[dict[str, Tensor]]:
    # Three, of which two processes cannot take equally many.
    return [collate(token_rows()[start : start + 5]) for start in range(0, 15, 5)]


def fit_bert(model: Any, processes: Processes) -> Tensor:
    batches = level(processes)
    # Parts that divide into whole batches, which one process and two read alike.
    settings = FitSettings(steps=40, unroll_steps=2, split_ratio=0.5, lower=batches, upper=batches, device="cpu")
    fit(model, token_rows(), collate=collate, variant="bilora", settings=settings, processes=processes)
    return vector(model)


def local_bytes(model: Any) -> int:
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    return sum((weight.to_local() if hasattr(weight, "to_local") else weight).nbytes for weight in frozen)


def sharded_base(processes: Processes) -> dict[str, Any]:
    """Train a model whose base is cut up, beside one that is whole, alone; and validate it."""
    model = bert().double()
    whole = local_bytes(model)
    shard_base(model, processes=processes)
    cut = local_bytes(model)
    together, batches = fit_bert(model, processes), token_batches()
    logits, labels = predict(Inference(model, None, processes=processes), batches)
    outcome: dict[str, Any] = {"whole": whole, "cut": processes.gathered(cut)}
    if processes.is_first:
        single = bert().double()
        alone = fit_bert(single, ONE_PROCESS)
        expected, wanted = predict(Inference(single, None), batches)
        outcome |= {
            "apart": float((together - alone).abs().max()),
            "moved": float((alone - vector(bert().double())).abs().max()),
            "logits_apart": float((logits - expected).abs().max()),
            "labels": bool((labels == wanted).all()),
        }
    return outcome


def validation(processes: Processes) -> dict[str, Any]:
    model, batches, calls = bert(), token_batches(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    together = predict(Inference(model, None, processes=processes), batches)
    passes = processes.gathered(len(calls))
    alone = predict(Inference(model, None), batches)
    same = all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    return {"same": processes.gathered(same), "passes": passes}


def moved(processes: Processes, folder: Path, step: int) -> dict[str, Any]:
    """Go on alone from a checkpoint of two processes, and in two from one of a process alone; without masks."""
    # Of the two upper steps the first is the warm-up's, and moves nothing; the second comes after step 16.
    options: dict[str, Any] = {"accumulation": 2, "steps": 18, "split_ratio": 0.5, "refresh": 1}
    options |= {"unroll_steps": 4, "hypergradient": {"name": "unrolled", "steps": 4}}

    def run(name: str, joined: Processes, *, start: str | None = None) -> tuple[Tensor, list[str]]:
        where = {"save_every": step} if start is None else {"resume": folder / f"{start}-{step}" / f"checkpoint-{step}"}
        fitted, warned = with_warnings(lambda: trained(joined, folder=folder / f"{name}-{step}", **options, **where))
        return vector(fitted[0]), warned

    together, _ = run("together", processes)
    processes.first_only(lambda: run("alone", ONE_PROCESS))
    fewer = processes.first_only(lambda: run("fewer", ONE_PROCESS, start="together"))
    more = run("more", processes, start="alone")
    return {
        name: {"apart": processes.gathered(float((end - together).abs().max())), "told": processes.gathered(warned)}
        for name, (end, warned) in (("fewer", fewer), ("more", more))
    }


def saving(processes: Processes) -> dict[str, Any]:
    """Save between two unroll steps and inside the upper accumulation; go on, here and where that is refused."""
    folder = FOLDER / "saving"
    options: dict[str, Any] = {"accumulation": 2, "steps": 11, "split_ratio": 0.5, "refresh": 1}

    def run(name: str, **more: Any) -> tuple[LowRank, Records]:
        return trained(processes, model=LowRank(0.1), folder=folder / name, **options, **more)[:2]

    whole, records = run("whole", save_every=1)
    first, second = processes.gathered(whole.masks)
    outcome: dict[str, Any] = {"same": {}, "masks_differ": first != second}
    for step in (3, 6, 9):
        again, tail = run(f"from-{step}", resume=folder / "whole" / f"checkpoint-{step}")
        same = [
            torch.equal(vector(again), vector(whole)),
            tail.steps == records.steps[step:],
            again.masks == whole.masks[-len(again.masks) :],
            all(rows == whole.seen[name][-len(rows) :] for name, rows in again.seen.items()),
        ]
        outcome["same"][step] = processes.gathered(same)
    try:
        run("ended", callbacks=[InTheSecond(3, lambda _: signal.raise_signal(signal.SIGTERM))])
    except InterruptedRun as error:
        outcome["ended"] = processes.gathered([str(error), error.number])
    again, _ = run("ended", resume=True)
    outcome["ended_same"] = processes.gathered(torch.equal(vector(again), vector(whole)))
    outcome["halve"] = processes.gathered(message_of(lambda: run("refused", on_out_of_memory="halve")))
    outcome["elsewhere"] = {step: moved(processes, folder, step) for step in (3, 11, 14)}
    outcome["files"] = sorted(path.name for path in (folder / "ended").iterdir()) if processes.is_first else []
    return outcome


def train_command(processes: Processes) -> dict[str, Any]:
    """Run ``bilora train`` in both, and the verb that finds it finished."""
    outcome: dict[str, Any] = {}
    folder = FOLDER / "run"
    words = [*json.loads((FOLDER / "words.json").read_text(encoding="utf-8")), "--output", str(folder)]
    for name, given in (("trained", words), ("again", ["--resume", str(folder)])):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            code = TRAIN.run(given)
        outcome[name] = {"codes": processes.gathered(code), "printed": processes.gathered(out.getvalue())}
    if processes.is_first:
        outcome["results"] = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
        outcome["files"] = sorted(path.name for path in folder.iterdir())
    return outcome


SCENARIOS = (
    *(equality, rows_read, odd_batches, masks, decisions, divergence, refusals, validation, sharded_base, saving),
    train_command,
)


def vanish(how: str) -> None:
    """Train until the second process is killed, or falls asleep, at its third step; the first writes its error."""
    processes = join_processes(device="cpu", timeout=3.0)
    started = time.monotonic()

    def gone(_: Any) -> None:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)

    try:
        trained(processes, callbacks=[InTheSecond(3, gone)])
    except ProcessesError as error:
        if processes.is_first:
            outcome = {"message": str(error), "after": time.monotonic() - started}
            (FOLDER / f"{how}.json").write_text(json.dumps(outcome))
        # As a process that ends by an error, without the goodbye to a group that is broken.
        os._exit(1)


def main(chosen: list[str]) -> None:
    torch.set_num_threads(1)
    if chosen:
        vanish(chosen[0])
        return
    processes = join_processes(device="cpu", timeout=120.0)
    for scenario in SCENARIOS:
        outcome = scenario(processes)
        if processes.is_first:
            (FOLDER / f"{scenario.__name__}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    main(sys.argv[2:])
