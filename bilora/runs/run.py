"""One run: from a config, a method and a seed to an adapter folder and a row of results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import set_seed

from bilora import check_saved
from bilora.adapter.export import export_lora
from bilora.adapter.spectrum import Spectrum, magnitudes
from bilora.artifacts.adapter_files import save_adapter
from bilora.artifacts.fingerprint import base_fingerprint, command
from bilora.artifacts.scored_on import set_kind
from bilora.data.rows import Rows
from bilora.data.sets import TaskRows
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.progress import Progress, SpikeWarning
from bilora.engines.training.fit import fit
from bilora.engines.training.result import FitResult
from bilora.files.formats import finite_or_null, write_json
from bilora.metrics.monitor import Monitor
from bilora.models.pretrained import Tokenizer, load_model, load_tokenizer
from bilora.problems.levels.betty_problem import autocast_dtype
from bilora.processes.devices import choose_device
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.processes.sharded import shard_base
from bilora.runs.adapted_model import put_adapter
from bilora.runs.checks import check_room, check_shared, check_watched, shared_by_levels
from bilora.runs.config import RunConfig
from bilora.runs.description import describe_run
from bilora.runs.evaluation import Evaluation
from bilora.runs.folder import enter_run_folder
from bilora.runs.results import (
    PeakMemory,
    has_values,
    results_row,
    run_identity,
    run_records,
    training_details,
    write_predictions,
    write_texts,
)
from bilora.runs.rows import training_rows
from bilora.tasks.class_weights import resolve_class_weights, weigh_classes
from bilora.tasks.task import AnyTask, EncodedRows, Inference


@dataclass(frozen=True)
class Prepared:
    """What the runs of one command share: checked rows, and the tokenizer that fits the model.

    Args:
        task: How its rows are read, trained on and scored.
        rows: Training and validation rows.
        tokenizer: The tokenizer, and where its model is.
        validation: Encoded validation rows, by set.
        upper: Encoded rows of D2, where a set of its own is D2.
        notices: What a reader of the results must know, one sentence each.
    """

    task: AnyTask
    rows: TaskRows
    tokenizer: Tokenizer
    validation: dict[str, EncodedRows]
    upper: EncodedRows | None = None
    notices: tuple[str, ...] = ()


def prepare(runs: Sequence[RunConfig], rows: TaskRows, *, processes: Processes = ONE_PROCESS) -> Prepared:
    """Return what the runs share, which differ in method, seed and settings of training; no weights are read for it."""
    config, task = runs[0], rows.task
    choose_device(config.device)
    check_room(runs, rows, processes)
    check_watched(config, rows)
    check_shared(config, processes)
    for run in runs:  # a class without rows is told before the model is read
        _class_weights(run, task, training_rows(run, rows.train))
    tokenizer = load_tokenizer(config.model or task.default_model, task, max_length=config.max_length)
    validation = {
        name: task.encode(each, tokenizer.own, max_length=config.max_length) for name, each in rows.validation.items()
    }
    upper = None if rows.upper is None else task.encode(rows.upper, tokenizer.own, max_length=config.max_length)
    encoded = [*validation.values(), *([] if upper is None else [upper])]
    of_sets = (notice for each in encoded for notice in each.notices)
    notices = (*shared_by_levels(runs, rows), *tokenizer.notices, *of_sets)
    return Prepared(task, rows, tokenizer, validation, upper, notices)


def run_once(
    config: RunConfig,
    prepared: Prepared,
    *,
    folder: Path,
    callbacks: Sequence[Callback] = (),
    monitor: Monitor | None = None,
    processes: Processes = ONE_PROCESS,
) -> dict[str, Any]:
    """Train, write its folder, and return its row of results.

    The folder holds ``config.yaml`` (resolved), ``metrics.jsonl``, ``times.jsonl``, ``split.json`` (row ids of every
    split that was used), ``adapter/`` (PEFT, with the model's config), ``label_map.json`` (class names to indices),
    for BILORA adapters ``lora/`` (the same as plain LoRA), ``values.jsonl`` (their singular values over the steps) and
    ``spectrum.json``, ``learned.json`` (what a method learns beside its adapter), ``predictions-<set>.jsonl`` (for
    kinds of task that keep them), ``all_results.json`` and ``trainer_state.json``; every adapter has its model card
    and ``bilora_task.json``.

    Args:
        config: The run; its seed decides training rows, head, split, order and masks.
        prepared: From :func:`prepare`.
        folder: Holds no run yet, or one that was interrupted: it goes on. The first process alone writes in it.
        callbacks: Hang on the engine beside those that write ``metrics.jsonl`` and show the progress.
        monitor: The metric that early stopping and keep-the-best watch; None for the one of the task.
        processes: The processes that train together.

    Returns:
        The row, ready for strict JSON.
    """
    resumed = processes.first_only(
        lambda: enter_run_folder(folder, config.of(config.method, config.seed), processes=processes.count)
    )
    task, tokenizer = prepared.task, prepared.tokenizer.own
    rows = training_rows(config, prepared.rows.train)
    memory = PeakMemory(choose_device(config.device))
    model = _adapted(config, prepared, rows)
    if config.shard_base:
        shard_base(model, processes=processes)
    train = task.encode(rows, tokenizer, max_length=config.max_length)
    if processes.is_first:
        print("".join(f"note: {notice}\n" for notice in train.notices), end="")
    evaluation = Evaluation(
        Inference(model, tokenizer, autocast_dtype(config.precision), processes),
        task=task,
        train=train,
        validation=prepared.validation,
    )
    scored_on = set_kind(next(iter(prepared.validation)))
    told = (
        *run_records(model, folder, scored_on=scored_on),
        Progress(f"{config.method}, seed {config.seed}"),
        SpikeWarning(),
        *callbacks,
    )
    result = fit(
        model,
        train.encoded,
        upper_rows=None if prepared.upper is None else prepared.upper.encoded,
        collate=task.collator(tokenizer),
        variant=config.variant,
        variant_settings=config.variant_settings,
        settings=config.fit_settings(),
        validate=evaluation.validation,
        monitor=monitor or task.watched,
        callbacks=told if processes.is_first else (),
        folder=folder,
        resume=resumed,
        allow_config_change=config.allow_config_change,
        processes=processes,
    )
    megabytes = memory.megabytes()
    base = base_fingerprint(model)  # by all, as each may hold a part of the base
    processes.first_only(lambda: _save(model, prepared, rows, result, folder, base=base))
    scores = evaluation.final(result)
    processes.first_only(lambda: write_predictions(scores.predictions, folder))
    processes.first_only(lambda: write_texts(scores.files, folder))
    row = results_row(
        run_identity(config, prepared.rows.task),
        scores,
        result,
        model,
        scored_on=scored_on,
        megabytes=megabytes,
        config_sha256=config.sha256(),
    )
    more = training_details(result) | {
        "processes": processes.count,
        "skipped_rows": prepared.rows.skipped,
        "command": command(),
    }
    processes.first_only(lambda: _describe(config, prepared, rows, row | more, folder))
    return finite_or_null(row)  # type: ignore[no-any-return]


def _describe(config: RunConfig, prepared: Prepared, rows: Rows, results: dict[str, Any], folder: Path) -> None:
    write_json(folder / "all_results.json", results)
    place, sets = prepared.tokenizer.place, prepared.rows.validation
    describe_run(folder, task=prepared.task, base=place, train=rows, validation=sets, max_length=config.max_length)


def _adapted(config: RunConfig, prepared: Prepared, rows: Rows) -> PeftModel:
    """Return the model, with the adapter on it and the loss that the class weights ask for."""
    weights = _class_weights(config, prepared.task, rows)
    set_seed(config.seed)
    loaded = load_model(prepared.tokenizer, prepared.task)
    task_type, steps = prepared.task.hub_names.peft, config.lower_steps
    model = put_adapter(loaded, config.method, config.variant_settings, task_type=task_type, steps=steps)
    if weights is not None:
        weigh_classes(model, prepared.task.loss, weights)
    return model


def _class_weights(config: RunConfig, task: AnyTask, rows: Rows) -> tuple[float, ...] | None:
    if config.class_weights == "none":
        return None
    return resolve_class_weights(config.class_weights, task.class_counts(rows))


def _save(model: PeftModel, prepared: Prepared, rows: Rows, result: FitResult, folder: Path, *, base: str) -> None:
    own = has_values(model)
    if own:
        check_saved(model)
    save_adapter(model, folder / "adapter", fingerprint=base)
    # Number and names of the labels, which the adapter's own config does not hold.
    model.config.save_pretrained(str(folder / "adapter"))
    names = prepared.task.model_settings.get("label2id")
    if names is not None:
        write_json(folder / "label_map.json", names)
    if own:
        export_lora(model, folder / "lora")
    spectrum = result.spectrum or (Spectrum.of(magnitudes(model)) if own else None)
    if result.spectrum is not None:
        print(result.spectrum.table())
    if spectrum is not None:
        write_json(folder / "spectrum.json", spectrum.to_json())
    if result.learned:
        write_json(folder / "learned.json", result.learned)
    if result.splits:
        write_json(folder / "split.json", [split.to_json(ids=rows.ids) for split in result.splits])
