"""One run: from a config, a method and a seed to an adapter folder and a row of results."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import set_seed

from bilora import check_saved
from bilora.adapter.export import export_lora
from bilora.adapter.spectrum import Spectrum, magnitudes
from bilora.artifacts.adapter_files import save_adapter
from bilora.artifacts.fingerprint import base_fingerprint, command
from bilora.artifacts.scored_on import UPPER, set_kind
from bilora.data.trusted_rows import row_weight
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.progress import Progress, SpikeWarning
from bilora.engines.checkpoints.stop_signals import StopSignals, agreed
from bilora.engines.training.fit import fit_plan
from bilora.engines.training.result import FitResult
from bilora.engines.training.split_loaders import DividedRows
from bilora.files.formats import finite_or_null, write_json, write_whole
from bilora.files.whole_folders import write_files
from bilora.metrics.monitor import Monitor
from bilora.models.copies import ModelCopy
from bilora.models.pretrained import Tokenizer, load_model, load_tokenizer
from bilora.problems.levels.betty_problem import PRECISIONS
from bilora.processes.devices import choose_device
from bilora.processes.sharded import shard_base
from bilora.runs.adapted_model import put_adapter
from bilora.runs.config import RunConfig
from bilora.runs.config_hash import config_hash
from bilora.runs.description import describe_run
from bilora.runs.evaluation import Evaluation, Scores
from bilora.runs.folder import enter_run_folder
from bilora.runs.plan import RunPlan, flipped_labels, not_in_upper, shared_by_levels, slow_precision
from bilora.runs.results import (
    PeakMemory,
    has_values,
    results_row,
    run_identity,
    run_records,
    training_details,
    write_predictions,
)
from bilora.tasks.class_weights import weigh_classes
from bilora.tasks.row_weights import row_weighted_loss, weight_sum
from bilora.tasks.targets import standardise
from bilora.tasks.task import EncodedRows, Inference


@dataclass(frozen=True)
class Prepared:
    """What the runs of one command share: the tokenizer that fits the model, and the rows that all are scored on."""

    tokenizer: Tokenizer
    validation: dict[str, EncodedRows]  # by set
    upper: EncodedRows | None = None  # D2, where it is a set of its own
    notices: tuple[str, ...] = ()  # what a reader of the results must know, one sentence each


def prepare(plans: Sequence[RunPlan], *, base: ModelCopy | None = None) -> Prepared:
    """Return what the runs share, which differ in method, seed and settings of training; no weights are read for it."""
    config, rows, task = plans[0].config, plans[0].rows, plans[0].task
    base = base or ModelCopy(task.default_model if config.model is None else config.model)
    length, revision = config.max_length, config.revision
    tokenizer = load_tokenizer(base.model, task, max_length=length, copied=base.folder, revision=revision)
    sets = rows.validation if rows.upper is None else {**rows.validation, UPPER: rows.upper}
    encoded = {name: task.encode(part, tokenizer.own, max_length=config.max_length) for name, part in sets.items()}
    of_sets = (notice for part in encoded.values() for notice in part.notices)
    of_levels = (*not_in_upper(plans), *shared_by_levels(plans))
    notices = (*flipped_labels(plans), *slow_precision(config), *of_levels, *tokenizer.notices, *of_sets)
    upper = None if rows.upper is None else encoded.pop(UPPER)
    return Prepared(tokenizer, encoded, upper, notices)


def run_once(
    plan: RunPlan,
    prepared: Prepared,
    *,
    folder: Path,
    callbacks: Sequence[Callback] = (),
    monitor: Monitor | None = None,
    log_every: int | None = None,
) -> dict[str, Any]:
    """Train, write the folder, and return the row of results, ready for strict JSON; an interrupted run goes on.

    The folder holds ``config.yaml`` (resolved), ``metrics.jsonl``, ``times.jsonl``, ``split.json`` (row ids of every
    split that was used), ``adapter/`` (PEFT, with the model's config), ``label_map.json`` (class names to indices),
    for BILORA adapters ``lora/`` (the same as plain LoRA), ``values.jsonl`` (their singular values over the steps) and
    ``spectrum.json``, ``learned.json`` (what a method learns beside its adapter), ``predictions-<set>.jsonl`` (for
    kinds of task that keep them), ``all_results.json`` and ``trainer_state.json``; every adapter has its model card
    and ``bilora_task.json``.
    """
    config, task, processes = plan.config, plan.task, plan.processes
    tokenizer = prepared.tokenizer.own
    # One process looks and writes, and the others are told: they could find what it has just made.
    resumed = processes.first_only(
        lambda: enter_run_folder(folder, config.of(config.method, config.seed), processes=processes.count)
    )
    # From before the model is loaded, which is a part of what a run needs.
    memory = PeakMemory(choose_device(config.device))
    model, notices = adapted(plan, prepared)
    train = task.encode(plan.train, tokenizer, max_length=config.max_length)
    if processes.is_first:
        print("".join(f"note: {notice}\n" for notice in (*notices, *train.notices)), end="")
    inference = Inference(model, tokenizer, PRECISIONS[config.precision], processes)
    evaluation = Evaluation(inference, task=task, train=train, validation=prepared.validation)
    scored_on = set_kind(next(iter(prepared.validation)))
    watchers = (Progress(f"{config.method}, seed {config.seed}", log_every=log_every), SpikeWarning(), *callbacks)
    result = fit_adapted(
        model,
        train,
        plan,
        prepared,
        validate=evaluation.validation,
        monitor=monitor or task.watched,
        callbacks=(*run_records(model, folder, scored_on=scored_on), *watchers) if processes.is_first else (),
        folder=folder,
        resume=resumed,
    )
    megabytes = memory.megabytes()
    # By all processes, as each may hold a part of the base.
    base = base_fingerprint(model)
    # Saved before it is scored: what was trained must not be lost to a fault of the scoring, or to a signal.
    signals = StopSignals()
    with signals.watched():
        processes.first_only(lambda: _save(model, plan, result, folder, base=base))
    if (received := agreed(signals.received, processes)) is not None:
        signal.raise_signal(received)
    scores = evaluation.final(result)
    row = results_row(
        run_identity(config, task),
        scores,
        result,
        model,
        scored_on=scored_on,
        megabytes=megabytes,
        config_sha256=config_hash(config),
    )
    processes.first_only(
        lambda: _write(plan, prepared, folder, scores=scores, row=row | training_details(result, plan.stages))
    )
    # The caller writes it as strict JSON, which knows neither NaN nor infinity.
    return finite_or_null(row)  # type: ignore[no-any-return]


def fit_adapted(
    model: PeftModel, train: EncodedRows, plan: RunPlan, prepared: Prepared, *, resume: bool = False, **watched: Any
) -> FitResult:
    """Train the model that :func:`adapted` returns on the plan's encoded rows; ``watched`` is for ``fit_plan``."""
    weights = plan.class_weights()
    of_class = None if weights is None else torch.tensor(weights)
    weighted = plan.config.weight_column is not None

    def count_terms(batch: Any) -> float:
        if weighted:
            return float(weight_sum(batch["weights"], batch["labels"], of_class))
        return plan.task.terms(batch["labels"], of_class)

    rows = marked(train, plan.config)
    return fit_plan(
        model,
        rows if prepared.upper is None else DividedRows(rows, marked(prepared.upper, plan.config, trusted=True)),
        plan,
        collate=plan.task.collator(prepared.tokenizer.own),
        count_terms=count_terms,
        compute_loss=row_weighted_loss(plan.task, weights) if weighted else None,
        resume=resume,
        allow_config_change=plan.config.allow_config_change,
        **watched,
    )


def marked(data: EncodedRows, config: RunConfig, *, trusted: bool = False) -> list[dict[str, Any]]:
    """Return encoded rows with the source and the weight that the columns of the config give them."""
    # Not in what is evaluated too: a tokenizer would try to pad them.
    if config.source_column is None and config.weight_column is None:
        return data.encoded
    rows = []
    for row, encoded in zip(data.rows, data.encoded, strict=True):
        more: dict[str, Any] = {}
        if config.source_column is not None:
            # A file of trusted rows need not say where they are from.
            more["source"] = str(row.get(config.source_column, "trusted") if trusted else row[config.source_column])
        if config.weight_column is not None:
            more["weight"] = 1.0 if trusted else row_weight(row[config.weight_column])
        rows.append({**encoded, **more})
    return rows


def adapted(plan: RunPlan, prepared: Prepared, *, weights: bool = True) -> tuple[PeftModel, tuple[str, ...]]:
    """Return the model, with the adapter on it and the loss that the labels ask for, and notices on what is new in it.

    Without ``weights`` it can be looked at and not run, see :func:`~bilora.models.pretrained.load_model`.
    """
    of_class = plan.class_weights()
    # Right before the model is loaded, whose head is drawn then.
    set_seed(plan.config.seed)
    loaded = load_model(prepared.tokenizer, plan.task, weights=weights)
    task_type, steps = plan.task.hub_names.peft, plan.settings.lower_steps
    model = put_adapter(loaded, plan.config.method, plan.variant_settings, task_type=task_type, steps=steps)
    # As PEFT does: who loads the adapter gets the base that it was trained on.
    model.peft_config[model.active_adapter].revision = prepared.tokenizer.revision
    # In the model's own loss, since that is what both levels train on; validation computes its own.
    if of_class is not None:
        weigh_classes(model, plan.task.loss, of_class)
    notices = loaded.notices
    if plan.target_scale is not None:
        notices = (*notices, standardise(model, plan.target_scale, drawn=loaded.new_modules))
    if plan.config.shard_base:
        shard_base(model, processes=plan.processes)
    return model, notices


def _write(plan: RunPlan, prepared: Prepared, folder: Path, *, scores: Scores, row: dict[str, Any]) -> None:
    """Write what the run scored, and the descriptions that name it."""
    write_predictions(scores.predictions, folder)
    for name, text in scores.files.items():
        write_whole(folder / name, text)
    sources = {name: rows.source for name, rows in plan.rows.validation.items()}
    more = {"processes": plan.processes.count, "skipped_rows": plan.rows.skipped, "sources": sources}
    more |= {"command": command()}
    write_json(folder / "all_results.json", row | more)
    describe_run(
        folder,
        task=plan.task,
        tokenizer=prepared.tokenizer,
        train=plan.train,
        validation=plan.rows.validation,
        max_length=plan.config.max_length,
    )


def _save(model: PeftModel, plan: RunPlan, result: FitResult, folder: Path, *, base: str) -> None:
    of_bilora = has_values(model)
    if of_bilora:
        check_saved(model)
    adapter = folder / "adapter"
    adapter.mkdir(exist_ok=True)
    write_files(adapter, lambda scratch: save_adapter(model, scratch, fingerprint=base))
    names = plan.task.model_settings.get("label2id")
    if names is not None:
        write_json(folder / "label_map.json", names)
    if of_bilora:
        export_lora(model, folder / "lora")
    if result.spectrum is not None:
        print(result.spectrum.table())
    # Where ranks were cut, the spectrum by which they were, which has the terms that went too.
    if spectrum := result.spectrum or (Spectrum.of(magnitudes(model)) if of_bilora else None):
        write_json(folder / "spectrum.json", spectrum.to_json())
    if words := result.learned.get("words"):
        print(f"learned: {words}")
    if result.learned:
        write_json(folder / "learned.json", result.learned)
    if result.splits:
        write_json(folder / "split.json", [split.to_json(ids=plan.train.ids) for split in result.splits])
