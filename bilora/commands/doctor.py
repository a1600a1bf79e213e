"""``bilora doctor``: whether ``bilora train`` with the same words would run here, and what to do if not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from bilora.artifacts.scored_on import spoken_set
from bilora.commands.doctor_checks import (
    Finding,
    check_attention,
    check_device,
    check_disk,
    check_package,
    check_trackers,
    check_versions,
)
from bilora.commands.train import text_columns_of
from bilora.commands.train_config import TrainConfig
from bilora.commands.verb import Verb
from bilora.data.row_sets import TaskRows
from bilora.errors import BiloraError, SettingsError
from bilora.models.pretrained import Tokenizer, load_tokenizer, must_be_here
from bilora.runs.run_rows import load_run_rows
from bilora.tasks.kinds.table import build_kind

MARKS = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}


def doctor(config: TrainConfig) -> None:
    """Print one line a finding.

    Raises:
        SettingsError: Something would keep the run from starting.
    """
    faults = 0
    for finding in findings(config):
        print(f"{MARKS[finding.state]} {finding.subject}: {finding.text}", flush=True)
        faults += finding.state == "fault"
    if faults:
        raise SettingsError(f"{faults} {'fault' if faults == 1 else 'faults'}; each line says what to do")
    print("everything is there: bilora train with the same words will start")


def findings(config: TrainConfig) -> Iterator[Finding]:
    """Yield what every check finds, the quick ones first."""
    yield from check_versions()
    yield check_package("betty-ml", ">=0.2.1")
    yield from check_device(config.device, config.precision)
    yield check_disk(Path(config.output or "runs"))
    yield from check_trackers(config.report_to)
    yield from _data_and_model(config)


def _data_and_model(config: TrainConfig) -> Iterator[Finding]:
    try:
        rows = load_run_rows(config.run_config(text_columns=text_columns_of(config)))
    except BiloraError as error:
        yield Finding("fault", "data", str(error))
        return
    for notice in rows.notices:
        yield Finding("note", "data", notice)
    yield Finding("ok", "data", _described(rows))
    kind = build_kind(rows.task, config.task_settings)
    try:
        tokenizer = load_tokenizer(config.model, kind, max_length=config.max_length)
        encoded = kind.encode(rows.train, tokenizer.own, max_length=config.max_length).encoded
    except BiloraError as error:
        yield Finding("fault", "model", str(error))
        return
    yield Finding("ok", "model", tokenizer.place)
    yield _lengths(encoded, config.max_length)
    yield _unknown(encoded, tokenizer.own)
    yield check_attention(config.hypergradient, _attention(tokenizer))


def _described(rows: TaskRows) -> str:
    sets = ", ".join(f"{len(each):,} {spoken_set(name)}" for name, each in rows.validation.items())
    labels = rows.train.labels
    counts = Counter(labels)
    named = isinstance(next(iter(counts), None), int)
    shares = ", ".join(f"{label}: {count:,}" for label, count in sorted(counts.items())[:10]) if named else ""
    return f"{len(rows.train):,} training rows, {sets}; {rows.task.kind}{f'; rows a class: {shares}' if shares else ''}"


def _lengths(encoded: list[dict[str, Any]], max_length: int) -> Finding:
    lengths = sorted(len(row["input_ids"]) for row in encoded)
    cut = sum(length >= max_length for length in lengths)
    said = f"median {lengths[len(lengths) // 2]}, longest {lengths[-1]} tokens of at most {max_length}"
    if cut > len(lengths) / 20:
        return Finding(
            "note", "lengths", f"{said}; {cut:,} of {len(lengths):,} rows fill it or are cut: --max-length more"
        )
    return Finding("ok", "lengths", said)


def _unknown(encoded: list[dict[str, Any]], tokenizer: Any) -> Finding:
    unknown = tokenizer.unk_token_id
    total = sum(len(row["input_ids"]) for row in encoded)
    count = 0 if unknown is None else sum(row["input_ids"].count(unknown) for row in encoded)
    said = f"{count:,} of {total:,} tokens are unknown to the tokenizer"
    if count > total / 50:
        return Finding("note", "tokenizer", f"{said}; take a model that knows this language or script")
    return Finding("ok", "tokenizer", said)


def _attention(tokenizer: Tokenizer) -> str | None:
    config = AutoConfig.from_pretrained(tokenizer.place, local_files_only=must_be_here(tokenizer.place))
    chosen: str | None = config._attn_implementation
    return chosen


DOCTOR = Verb(
    "doctor",
    "Check versions, device, data, model and disk for a run; takes the options of train.",
    TrainConfig,
    doctor,
    aliases={"--seed": "--seeds"},
)
