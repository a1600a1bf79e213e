"""What models say of rows that they were not trained on: the rows in folds, each judged by a model of the others."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from bilora.data.groups import group_folds
from bilora.data.rows import Rows
from bilora.data.sets import TaskRows
from bilora.errors import DataError, first_ten
from bilora.files.formats import write_whole
from bilora.models.pretrained import load_model, load_tokenizer
from bilora.processes.devices import choose_device
from bilora.runs.config import RunConfig
from bilora.runs.plan import plan_run
from bilora.runs.run import adapted, fit_adapted, prepare
from bilora.tasks.scoring import in_row_order, ordered_loader, predict
from bilora.tasks.task import Inference

Chances = NDArray[numpy.float64]
# Of each fold, the rows to learn from and those to judge.
Folds = list[tuple[list[int], list[int]]]

# Rows whose embeddings are kept together: what a run that was stopped has to do again.
PART = 512
BATCH = 64
"""Rows that go through the frozen model at once."""


def folds_of(rows: Rows, count: int, *, names: tuple[str, ...], seed: int) -> Folds:
    """Return for each fold the rows to learn from and those to judge, each with its share of every class; no group of
    rows is in two folds.

    Raises:
        DataError: A class has one row, which no other row could teach, or all its rows in the groups of one fold.
    """
    labels = numpy.asarray(rows.labels, dtype=int)
    sizes = numpy.bincount(labels, minlength=len(names))
    if alone := [name for name, size in zip(names, sizes.tolist(), strict=True) if size == 1]:
        raise DataError(
            f"{rows.source}: class {first_ten(alone)} has one row, whose label no other row can judge; add rows of it, "
            "or leave it out"
        )
    count = min(count, int(sizes[sizes > 0].min()))
    if rows.groups is not None:
        parts = list(group_folds(rows.labels, rows.groups, count, key=f"folds {seed}"))
        folds = [(sorted(set(range(len(rows))) - set(judge)), judge) for judge in parts]
        untaught = {int(c) for learn, judge in folds for c in set(labels[judge]) - set(labels[learn])}
        if untaught:
            raise DataError(
                f"{rows.source}: class {first_ten([names[c] for c in sorted(untaught)])} has all its rows in groups "
                "that are judged together, so that no other row could teach it; leave the group column out, or make "
                "smaller groups"
            )
        return folds
    from sklearn.model_selection import StratifiedKFold  # here: every training would pay for it in memory

    drawn = StratifiedKFold(count, shuffle=True, random_state=seed)
    return [(learn.tolist(), judge.tolist()) for learn, judge in drawn.split(labels, labels)]


def by_embeddings(config: RunConfig, rows: TaskRows, folds: Folds, *, parts: Path) -> Chances:
    """Return the probabilities ``(rows, classes)`` of a logistic regression over a frozen model's embeddings."""
    from sklearn.linear_model import LogisticRegression  # here: every training would pay for it in memory

    task = rows.task
    features = embeddings(config, rows, parts=parts).numpy()
    labels = numpy.asarray(rows.train.labels, dtype=int)
    chances = numpy.zeros((len(labels), len(task.model_settings["id2label"])))
    for learn, judge in folds:
        model = LogisticRegression(max_iter=1000).fit(features[learn], labels[learn])
        chances[numpy.ix_(judge, model.classes_)] = model.predict_proba(features[judge])
    return chances


def embeddings(config: RunConfig, rows: TaskRows, *, parts: Path) -> Tensor:
    """Return the mean of the last hidden states over the tokens of each row, at length one: ``(rows, hidden)``.

    Parts of them are kept in a folder, and read from there by a run that goes on.
    """
    task = rows.task
    tokenizer = load_tokenizer(config.model, task, max_length=config.max_length, revision=config.revision)
    encoded = task.encode(rows.train, tokenizer.own, max_length=config.max_length).encoded
    # Neighbours of one length, so that little is padded.
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]["input_ids"]))
    name = _key(config, tokenizer.place, [encoded[index]["input_ids"] for index in order])
    model: Any = None
    device = choose_device(config.device)
    found: list[Tensor] = []
    with tqdm(total=len(order), desc="embedding", unit=" rows") as progress:
        for start in range(0, len(order), PART):
            path = parts / f"{name}-{start}.safetensors"
            part = _read(path)
            if part is None:
                if model is None:
                    loaded = load_model(tokenizer, task).model
                    model = getattr(loaded, loaded.base_model_prefix).to(device).eval()
                chosen = [encoded[index] for index in order[start : start + PART]]
                part = torch.cat(list(_embedded(model, chosen, task.collator(tokenizer.own), device)))
                _keep(path, part)
            found.append(part)
            progress.update(len(part))
    whole = torch.cat(found)
    in_order = torch.empty_like(whole)
    in_order[torch.tensor(order)] = whole
    return in_order


@torch.no_grad()
def _embedded(model: Any, rows: list[Any], collate: Callable[..., Any], device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(rows), BATCH):
        batch = {
            name: value.to(device) for name, value in collate(rows[start : start + BATCH]).items() if name != "labels"
        }
        states = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].to(states)
        mean = (states * mask).sum(1) / mask.sum(1)  # (batch, hidden)
        yield torch.nn.functional.normalize(mean, dim=-1).float().cpu()


def by_training(config: RunConfig, rows: TaskRows, folds: Folds, *, parts: Path) -> Chances:
    """Return the probabilities ``(rows, classes)`` of an adapter that is trained for each fold."""
    task = rows.task
    chances = torch.zeros(len(rows.train), len(task.model_settings["id2label"]), dtype=torch.float64)
    inputs = [[list(row.values()) for row in rows.train], [judge for _, judge in folds]]
    name = _key(config, str(config.steps), inputs)
    for number, (learn, judge) in enumerate(tqdm(folds, desc="folds", unit=" folds")):
        path = parts / f"{name}-fold-{number}.safetensors"
        of_fold = _read(path)
        if of_fold is None:
            of_fold = _trained(config, rows, learn, judge)
            _keep(path, of_fold)
        chances[torch.tensor(judge)] = of_fold.double()
    return chances.numpy()


def _trained(config: RunConfig, rows: TaskRows, learn: list[int], judge: list[int]) -> Tensor:
    fold = TaskRows(rows.task, rows.train.select(learn), {"fold": rows.train.select(judge)})
    plan = plan_run(config, fold)
    prepared = prepare([plan])
    model, _ = adapted(plan, prepared)
    own = prepared.tokenizer.own
    train = rows.task.encode(plan.train, own, max_length=config.max_length)
    fit_adapted(model, train, plan, prepared)
    data = prepared.validation["fold"]
    logits, _ = predict(Inference(model, own), ordered_loader(data.encoded, rows.task.collator(own)))
    return torch.stack(in_row_order(list(logits.double().softmax(dim=-1)), data.encoded))


def _key(config: RunConfig, place: str, inputs: Any) -> str:
    """Return a name that is another one for other rows or folds, another model or another length."""
    settings = [place, config.model, config.revision, config.max_length, config.method, config.seed, inputs]
    return hashlib.sha256(json.dumps(settings, default=str).encode()).hexdigest()[:16]


def remove_parts(parts: Path) -> None:
    """Remove what was kept for a run that goes on, and the folder of it."""
    for path in parts.glob("*.safetensors"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody else's file may be there
        parts.rmdir()


def _keep(path: Path, part: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save({"part": part.contiguous()}))


def _read(path: Path) -> Tensor | None:
    try:
        return load_file(path)["part"]
    except (OSError, SafetensorError, KeyError):
        return None  # not there, or cut off: made again
