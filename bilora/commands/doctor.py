"""``bilora doctor``: whether ``bilora train`` with the same words would run here, and what to do if not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from packaging.requirements import Requirement
from transformers import AutoConfig

from bilora.artifacts.scored_on import set_in_words
from bilora.commands.train import plan_of
from bilora.commands.train_config import TrainConfig
from bilora.commands.verb import Verb
from bilora.data.sets import TaskRows
from bilora.engines.callbacks.trackers import LOGGERS
from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.engines.hypergradients.implicit import ProductSettings
from bilora.errors import BiloraError, SettingsError
from bilora.models.pretrained import Tokenizer, load_tokenizer, only_local
from bilora.processes.devices import choose_device
from bilora.tasks.kinds import kind_of

State = Literal["ok", "note", "fault"]

LEAST_FREE = 2 * 2**30
"""Bytes on the disk; a run with its checkpoints takes a few hundred MiB with most models."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Args:
        state: ``fault`` keeps a run from starting, ``note`` does not.
        subject: What was looked at.
        text: What was found, and with a fault or a note what to do.
    """

    state: State
    subject: str
    text: str


def check_versions(package: str = "bilora") -> list[Finding]:
    """Return one finding a required package: there, and of a version that is allowed.

    Example:
        >>> {finding.state for finding in check_versions()}
        {'ok'}
    """
    findings = [Finding("ok", "python", platform.python_version())]
    for line in importlib.metadata.requires(package) or ():
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            findings.append(check_package(wanted.name, str(wanted.specifier)))
    return findings


def check_package(name: str, allowed: str) -> Finding:
    """Return whether a package is there, in an allowed version.

    Example:
        >>> check_package("torch", ">=999").text.split(";")[1]
        " run pip install 'torch>=999'"
    """
    wanted = Requirement(f"{name}{allowed}")
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("fault", name, f"is not installed; run pip install '{wanted}'")
    if not wanted.specifier.contains(found, prereleases=True):
        return Finding("fault", name, f"{found} is not {allowed}; run pip install '{wanted}'")
    return Finding("ok", name, found)


def check_device(name: str, precision: str) -> list[Finding]:
    """Return what device a run gets, and whether it computes in the precision."""
    try:
        device = choose_device(name)
    except SettingsError as error:
        return [Finding("fault", "device", str(error))]
    said = f"{device}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        said = f"{device}, {torch.cuda.get_device_name(device)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return [Finding("ok", "device", said), check_precision(device, precision)]


def check_precision(device: torch.device, precision: str) -> Finding:
    """Return whether a device computes in a precision.

    Example:
        >>> check_precision(torch.device("cpu"), "fp16").state
        'fault'
    """
    if precision == "fp16" and device.type == "cpu":
        return Finding("fault", "precision", "fp16 needs a GPU; set --precision bf16 or fp32")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return Finding("fault", "precision", "this GPU has no bf16; set --precision fp16 or fp32")
    return Finding("ok", "precision", precision)


def check_attention(hypergradient: object, implementation: str | None) -> Finding:
    """Return whether the attention of a model has the derivatives that a hypergradient takes.

    Args:
        hypergradient: Name or mapping, as in a config.
        implementation: The model's attention; None where its config does not say.

    Example:
        >>> check_attention({"name": "neumann", "products": "exact"}, "flash_attention_2").state
        'fault'
    """
    built = build_hypergradient(hypergradient)  # type: ignore[arg-type]  # the config has checked it
    exact = isinstance(built, ProductSettings) and built.products == "exact"
    chosen = implementation or "sdpa"
    if not exact:
        return Finding("ok", "attention", f"{chosen}: the hypergradient takes first derivatives only")
    if chosen == "eager":
        return Finding("ok", "attention", "eager: it has the second derivatives that exact products take")
    if chosen == "sdpa":
        return Finding(
            "note", "attention", "sdpa: exact products use its slower math kernel, which has two derivatives"
        )
    cure = "set the model's attn_implementation to eager or sdpa, or products: finite_difference"
    return Finding("fault", "attention", f"{chosen} has no second derivatives, which exact products take; {cure}")


def check_disk(folder: Path) -> Finding:
    """Return whether there is room where the run will be written.

    Example:
        >>> check_disk(Path(".")).subject
        'disk'
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(there).free
    said = f"{free / 2**30:.1f} GiB free at {there}"
    if free < LEAST_FREE:
        return Finding("fault", "disk", f"{said}; make room, or give --output elsewhere")
    return Finding("ok", "disk", said)


def check_trackers(names: list[str]) -> list[Finding]:
    """Return one finding a tracker: is its package installed?

    Example:
        >>> check_trackers([])
        []
    """
    found = []
    for name in (each for each in names if each in LOGGERS):
        there = importlib.util.find_spec(name) is not None
        cure = f"is not installed, and the run will go on without it; run pip install {name}"
        found.append(Finding("ok", name, "installed") if there else Finding("note", name, cure))
    return found


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
        rows = plan_of(config)[0].rows
    except BiloraError as error:
        yield Finding("fault", "data", str(error))
        return
    for notice in rows.notices:
        yield Finding("note", "data", notice)
    yield Finding("ok", "data", _described(rows))
    try:
        tokenizer = load_tokenizer(config.model, rows.task, max_length=config.max_length)
        encoded = rows.task.encode(rows.train, tokenizer.own, max_length=config.max_length).encoded
    except BiloraError as error:
        yield Finding("fault", "model", str(error))
        return
    yield Finding("ok", "model", tokenizer.place)
    yield _lengths(encoded, config.max_length)
    yield _unknown(encoded, tokenizer.own)
    yield check_attention(config.hypergradient, _attention(tokenizer))


def _described(rows: TaskRows) -> str:
    sets = ", ".join(f"{len(each):,} {set_in_words(name)}" for name, each in rows.validation.items())
    labels = rows.train.labels
    counts = Counter(labels)
    named = isinstance(next(iter(counts), None), int)
    shares = ", ".join(f"{label}: {count:,}" for label, count in sorted(counts.items())[:10]) if named else ""
    per_class = f"; rows a class: {shares}" if shares else ""
    return f"{len(rows.train):,} training rows, {sets}; {kind_of(rows.task)}{per_class}"


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
    config = AutoConfig.from_pretrained(tokenizer.place, local_files_only=only_local(tokenizer.place))
    chosen: str | None = config._attn_implementation
    return chosen


DOCTOR = Verb(
    "doctor",
    "Check versions, device, data, model and disk for a run; takes the options of train.",
    TrainConfig,
    doctor,
    aliases={"--seed": "--seeds"},
)
