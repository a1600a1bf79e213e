"""``bilora doctor``: whether ``bilora train`` with the same words would run here, and what to do if not."""

import importlib.metadata
import importlib.util
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from packaging.requirements import Requirement

from bilora.artifacts.scored_on import set_in_words
from bilora.commands.train import check_words, plan_of
from bilora.commands.train_config import TrainConfig
from bilora.commands.usual_names import FILES, aliases_of
from bilora.commands.verb import Verb
from bilora.data.sets import TaskRows
from bilora.engines.callbacks.trackers import LOGGERS
from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.engines.hypergradients.implicit import ProductSettings
from bilora.errors import BiloraError, SettingsError, first_ten
from bilora.processes.devices import choose_device, has_bf16
from bilora.runs.columns import find_columns
from bilora.runs.run import adapted, prepare
from bilora.tasks.kinds import kind_of

State = Literal["ok", "note", "fault"]

# Bytes on the disk; a run with its checkpoints takes a few hundred MiB with most models.
LEAST_FREE = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """What a check found about its subject, in words, and with a fault or a note what to do."""

    # A fault keeps a run from starting, a note does not.
    state: State
    subject: str
    text: str


def check_versions(package: str = "bilora") -> list[Finding]:
    """Return one finding a required package: there, and of a version that is allowed."""
    checked = [Finding("ok", "python", platform.python_version())]
    for requirement in map(Requirement, importlib.metadata.requires(package) or ()):
        # Those of an extra have a marker that holds for its name alone.
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            checked.append(check_package(requirement.name, str(requirement.specifier)))
    return checked


def check_package(name: str, allowed: str) -> Finding:
    """Return whether a package is there, in an allowed version."""
    wanted = Requirement(f"{name}{allowed}")
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("fault", name, f"is not installed; run pip install '{wanted}'")
    # A nightly build of torch is a pre-release, and often what a new GPU needs.
    if not wanted.specifier.contains(version, prereleases=True):
        return Finding("fault", name, f"{version} is not {allowed}; run pip install '{wanted}'")
    return Finding("ok", name, version)


def check_device(name: str, precision: str) -> list[Finding]:
    """Return what device a run gets, and whether it computes in the precision."""
    try:
        device = choose_device(name)
    except SettingsError as error:
        return [Finding("fault", "device", str(error))]
    text = f"{device}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        text = f"{device}, {torch.cuda.get_device_name(device)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return [Finding("ok", "device", text), check_precision(device, precision)]


def check_precision(device: torch.device, precision: str) -> Finding:
    """Return whether a device computes in a precision."""
    if precision == "fp16" and device.type == "cpu":
        return Finding("fault", "precision", "fp16 needs a GPU; set --precision bf16 or fp32")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return Finding("fault", "precision", "this GPU has no bf16; set --precision fp16 or fp32")
    if precision == "bf16" and device.type == "cpu" and not has_bf16(device):
        text = "this CPU has no instructions for bf16, which takes it many times as long as fp32"
        return Finding("note", "precision", f"{text}; --precision auto takes what is fast")
    return Finding("ok", "precision", precision)


def check_attention(hypergradient: str | Mapping[str, Any], implementation: str) -> Finding:
    """Return whether a model's attention has the derivatives that a hypergradient, as in a config, takes."""
    built = build_hypergradient(hypergradient)
    if not (isinstance(built, ProductSettings) and built.products == "exact"):
        return Finding("ok", "attention", f"{implementation}: the hypergradient takes first derivatives only")
    if implementation == "eager":
        return Finding("ok", "attention", "eager: it has the second derivatives that exact products take")
    if implementation == "sdpa":
        text = "sdpa: exact products use its slower math kernel, which has two derivatives"
        return Finding("note", "attention", text)
    text = f"{implementation} has no second derivatives, which exact products take"
    cure = "set the model's attn_implementation to eager or sdpa, or products: finite_difference"
    return Finding("fault", "attention", f"{text}; {cure}")


def check_disk(folder: Path) -> Finding:
    """Return whether there is room where the run will be written."""
    # The run makes its folder itself: the nearest one that is there is on the same disk.
    try:
        parent = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    except OSError as error:  # of a name that is too long
        return Finding("fault", "disk", f"{folder} cannot be made: {error.strerror}; give another --output")
    free = shutil.disk_usage(parent).free
    text = f"{free / 2**30:.1f} GiB free at {parent}"
    if free < LEAST_FREE:
        return Finding("fault", "disk", f"{text}; make room, or give --output elsewhere")
    return Finding("ok", "disk", text)


def check_trackers(names: Sequence[str]) -> list[Finding]:
    """Return one finding a tracker: is its package installed?"""
    cure = "is not installed, and the run will go on without it; run pip install"
    return [
        Finding("ok", name, "installed") if importlib.util.find_spec(name) else Finding("note", name, f"{cure} {name}")
        for name in names
        if name in LOGGERS
    ]


def doctor(config: TrainConfig) -> None:
    """Print one line a finding; raise SettingsError where something would keep the run from starting."""
    faults = 0
    for finding in findings(config):
        mark = "FAULT" if finding.state == "fault" else finding.state
        # Line by line: the last checks encode all training rows, which takes a while.
        print(f"{mark:5} {finding.subject}: {finding.text}", flush=True)
        faults += finding.state == "fault"
    if faults:
        raise SettingsError(f"{faults} {'fault' if faults == 1 else 'faults'}; each line says what to do")
    print("everything is there: bilora train with the same words will start")


def findings(config: TrainConfig) -> Iterator[Finding]:
    """Yield what every check finds, the quick ones first."""
    yield from check_versions()
    # Betty stands in no list of requirements: pip would refuse it on the Python versions that this library needs.
    yield check_package("betty-ml", ">=0.2.1")
    yield from check_device(config.device, config.precision)
    yield check_disk(Path(config.output or "runs"))
    yield from check_trackers(config.report_to)
    yield from _words_data_and_model(config)


def _words_data_and_model(config: TrainConfig) -> Iterator[Finding]:
    # By what train calls, in its order, so that both refuse the same.
    try:
        check_words(config)
    except BiloraError as error:
        yield Finding("fault", "settings", str(error))
        return
    try:
        columns = find_columns(config)
        plan = plan_of(columns)
    except BiloraError as error:
        yield Finding("fault", "data", str(error))
        return
    rows = plan.rows
    for notice in (*columns.found, *rows.notices):
        yield Finding("note", "data", notice)
    yield Finding("ok", "data", _described(rows))
    try:
        prepared = prepare([plan])
        tokenizer = prepared.tokenizer
        # Shapes alone: every file of the model is checked, and no memory is taken for its weights.
        model, notices = adapted(plan, prepared, weights=False)
        encoded = rows.task.encode(rows.train, tokenizer.own, max_length=config.max_length)
    except BiloraError as error:
        yield Finding("fault", "model", str(error))
        return
    for notice in prepared.notices:
        yield Finding("note", "data", notice)
    yield Finding("ok", "model", tokenizer.place)
    for notice in notices:
        yield Finding("note", "model", notice)
    for notice in encoded.notices:
        yield Finding("note", "data", notice)
    tokens = [row["input_ids"] for row in encoded.encoded]
    yield _lengths(sorted(map(len, tokens)), config.max_length)
    yield _unknown(tokens, tokenizer.own.unk_token_id)
    yield check_attention(config.hypergradient, model.config._attn_implementation or "sdpa")


def _described(rows: TaskRows) -> str:
    sets = ", ".join(f"{len(part):,} {set_in_words(name)}" for name, part in rows.validation.items())
    with_classes = any(type(label) is int for label in rows.train.labels)
    counts = rows.task.class_counts(rows.train).items() if with_classes else ()
    classes = first_ten(f"{name}: {count:,}" for name, count in counts)
    per_class = f"; rows per class: {classes}" if classes else ""
    return f"{len(rows.train):,} training rows, {sets}; {kind_of(rows.task)}{per_class}"


def _lengths(lengths: list[int], max_length: int) -> Finding:
    # The tokenizer has cut them already, so a row that fits exactly cannot be told from one that was longer.
    cut = sum(length >= max_length for length in lengths)
    text = f"median {lengths[len(lengths) // 2]}, longest {lengths[-1]} tokens of at most {max_length}"
    if cut <= len(lengths) / 20:
        return Finding("ok", "lengths", text)
    return Finding("note", "lengths", f"{text}; {cut:,} of {len(lengths):,} rows fill it or are cut: --max-length more")


def _unknown(rows: list[list[int]], unknown: int | None) -> Finding:
    total = sum(map(len, rows))
    count = 0 if unknown is None else sum(row.count(unknown) for row in rows)
    text = f"{count:,} of {total:,} tokens are unknown to the tokenizer"
    if count > total / 50:
        return Finding("note", "tokenizer", f"{text}; take a model that knows this language or script")
    return Finding("ok", "tokenizer", text)


DOCTOR = Verb(
    "doctor",
    "Check versions, device, data, model and disk for a run; takes the options of train.",
    TrainConfig,
    doctor,
    aliases=aliases_of(TrainConfig, **FILES),
)
