"""One training of a study: its rows, its config, and the line of results that comes of it."""

import base64
import dataclasses
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from sklearn import metrics as sklearn_metrics
from study_protocol import Job, Protocol, Setting
from torch import Tensor

from bilora.compare.config import with_values
from bilora.data.rows import Rows
from bilora.data.sets import TaskRows
from bilora.data.strata import draw_rows, make_strata
from bilora.errors import DivergedError, SettingsError
from bilora.metrics.classes import MEASURES
from bilora.metrics.metric import Undefined
from bilora.metrics.monitor import Monitor
from bilora.problems.levels.betty_problem import PRECISIONS
from bilora.runs.config import RunConfig
from bilora.runs.evaluation import Evaluation
from bilora.runs.plan import RunPlan, load_run_rows, plan_run
from bilora.runs.run import Prepared, adapted, fit_adapted, prepare
from bilora.runs.several_runs import SharedSettings
from bilora.runs.statistics import ROW_DRAWS
from bilora.tasks.scoring import in_row_order, ordered_loader, predict
from bilora.tasks.sources import take_rows
from bilora.tasks.task import EncodedRows, Inference

# Name of the set that a run is scored on.
TEST = "test"
# Bins of the calibration error (Guo et al. 2017, arXiv 1706.04599).
BINS = 15
# What numbers with fractions are kept in.
HUNDREDTHS = 100
# Scores are told in points, hundredths of a metric.
POINTS = 100.0


class Study:
    """A protocol on this machine; rows that were read and encoded once serve all jobs of a setting.

    Args:
        protocol: What is done.
        data: The folder of all data.
        models: Folders of models, by the name that the protocol gives them; the embedded one needs none.
    """

    def __init__(self, protocol: Protocol, data: Path, models: Mapping[str, Path]) -> None:
        self.protocol, self.data, self.models = protocol, data, models
        self._read: dict[str, tuple[TaskRows, Prepared]] = {}

    def run(self, job: Job) -> dict[str, Any]:
        """Train, and return the line of results; that of a training that diverged has no scores."""
        begun = time.process_time()
        setting, plan, prepared = self.protocol.settings[job.setting], self.plan(job), self.sets(job.setting)[1]
        train = _encoded(plan.train, plan, prepared)
        model, _ = adapted(plan, prepared)
        inference = Inference(model, prepared.tokenizer.own, PRECISIONS[plan.config.precision])
        line = {"job": job.name, **dataclasses.asdict(job), "run": dict(job.run), "rows": len(plan.train)}
        start = time.process_time()
        try:
            result = fit_adapted(model, train, plan, prepared, **_watched(plan, prepared, inference, train))
        except DivergedError as error:
            return {**line, "failed": str(error), "cpu": {"fit": time.process_time() - start}}
        cpu = {"fit": time.process_time() - start}
        line |= {"failed": None, "steps": result.steps, "upper_steps": result.upper_steps, "learned": result.learned}
        line["test"] = scored(prepared.validation[TEST], inference, plan, setting)
        if job.method == "lora_d1":
            assert plan.split is not None
            upper = _encoded(plan.train.select(plan.split.upper), plan, prepared)
            line["upper"] = scored(upper, inference, plan, setting)
        return {**line, "cpu": {**cpu, "whole": time.process_time() - begun}}

    def plan(self, job: Job) -> RunPlan:
        """Return the plan of a job, made as ``bilora train`` makes that of its config."""
        setting, config, rows = self.protocol.settings[job.setting], self.config(job), self.sets(job.setting)[0]
        if setting.rows_per_class is not None:
            rows = dataclasses.replace(rows, train=per_class(rows.train, setting.rows_per_class, seed=job.seed))
        # What a run watches is D2: test rows choose nothing.
        return plan_run(config, dataclasses.replace(rows, validation={}) if config.validate_every else rows)

    def config(self, job: Job) -> RunConfig:
        """Return the config of a job."""
        setting = self.protocol.settings[job.setting]
        family, task = setting.task.split("/")
        if family == "glue":
            rows: dict[str, Any] = {"task": task, "data_dir": str(self.data / family)}
        else:
            files = {part: str(self.data / setting.task / f"{part}.jsonl.gz") for part in ("train", "test")}
            rows = {"train_file": files["train"], "validation_file": files["test"], "task_type": "classification"}
            rows["text_columns"] = ["text"]
        if setting.model is not None:
            if setting.model not in self.models:
                raise SettingsError(f"setting {job.setting} needs a model; give --models {setting.model}=DIR")
            rows["model"] = str(self.models[setting.model])
        config = SharedSettings(seed=job.seed, train_rows=setting.rows, **rows)
        adapter = {f"settings.{name}": value for name, value in setting.adapter.items()}
        # The nearer ones last: a job's own settings are those of its cell.
        values = {**self.protocol.run, **setting.run, **adapter, **dict(job.run)}
        return with_values(config, values, method=job.method, label=job.name)

    def sets(self, setting: str) -> tuple[TaskRows, Prepared]:
        """Return the rows of a setting, the test rows drawn, and what its runs share."""
        if setting not in self._read:
            config = self.config(Job(setting, "lora", 0))
            rows = load_run_rows(config)
            (test,) = rows.validation.values()
            drawn = test if len(test) <= self.protocol.test_rows else take_rows(test, self.protocol.test_rows, seed=0)
            rows = dataclasses.replace(rows, validation={TEST: drawn})
            self._read[setting] = rows, prepare([plan_run(config, rows)])
        return self._read[setting]

    def labels(self, setting: str) -> dict[str, Any] | None:
        """Return the line with the labels of the test rows, by which answers are scored anew for the intervals."""
        rows, _ = self.sets(setting)
        return {"labels_of": setting, "labels": pack(rows.validation[TEST].labels), "names": names_of(rows.task)}


def _encoded(rows: Rows, plan: RunPlan, prepared: Prepared) -> EncodedRows:
    return plan.task.encode(rows, prepared.tokenizer.own, max_length=plan.config.max_length)


def _watched(plan: RunPlan, prepared: Prepared, inference: Inference, train: EncodedRows) -> dict[str, Any]:
    """Return what a fit looks at while it runs: the loss on D2, as ``bilora train`` has it, or nothing."""
    if not plan.config.validate_every:
        return {}
    sets = {name: _encoded(rows, plan, prepared) for name, rows in plan.rows.validation.items()}
    evaluation = Evaluation(inference, task=plan.task, train=train, validation=sets)
    return {"validate": evaluation.validation, "monitor": Monitor("loss", greater_is_better=False)}


def names_of(task: Any) -> list[str] | None:
    """Return the names of the classes, None of a regression."""
    return None if task.label_names is None else list(task.label_names)


def per_class(rows: Rows, count: int, *, seed: int) -> Rows:
    """Return ``count`` rows of each class."""
    strata = make_strata(rows.labels, bins=1)
    return rows.select(draw_rows(strata, dict.fromkeys(strata, count), key=f"per class {seed}"))


def scored(data: EncodedRows, inference: Inference, plan: RunPlan, setting: Setting) -> dict[str, Any]:
    """Return metrics, loss, calibration error and packed answers of some rows; the setting's own metric is first."""
    return scores_of(logits_of(data, inference, plan.task), data.rows, plan.task, setting)


def logits_of(data: EncodedRows, inference: Inference, task: Any) -> Tensor:
    """Return what a model says of some rows, in their order."""
    logits, _ = predict(inference, ordered_loader(data.encoded, task.collator(inference.tokenizer)))
    return torch.stack(in_row_order(list(logits), data.encoded)).double()


def scores_of(logits: Tensor, rows: Rows, task: Any, setting: Setting) -> dict[str, Any]:
    """Return metrics, loss, calibration error and packed answers of logits ``(rows, outputs)``."""
    labels = torch.tensor(rows.labels)
    regression = names_of(task) is None
    answers = logits.squeeze(-1) if regression else logits.argmax(dim=-1)
    classes = counted(setting, names_of(task))
    return {
        "metrics": {key: measure(answers.numpy(), labels.numpy(), key, classes) for key in setting.metrics},
        "loss": float(task.loss(logits, labels)),
        "calibration": None if regression else calibration_error(logits.softmax(dim=-1), labels),
        "answers": pack(answers.tolist()),
    }


def counted(setting: Setting, names: Sequence[str] | None) -> list[int] | None:
    """Return the indices of the classes of which macro-F1 is the mean, None for all."""
    return None if setting.classes is None else [(names or []).index(name) for name in setting.classes]


def resampled(answers: Any, labels: Any, key: str, classes: list[int] | None = None) -> Any:
    """Return a metric, in points, on resamples of the rows, the same for all answers to as many rows."""
    picks = numpy.random.default_rng(0).integers(len(labels), size=(ROW_DRAWS, len(labels)))
    if key == "accuracy":
        return POINTS * (answers == labels)[picks].mean(axis=1)
    return POINTS * numpy.array([measure(answers[p], labels[p], key, classes) for p in picks])


def measure(answers: Any, labels: Any, key: str, classes: list[int] | None = None) -> float:
    """Return a metric; macro-F1 is of ``classes`` alone where they are named, and an undefined correlation is 0."""
    if key == "macro_f1":
        f1 = sklearn_metrics.f1_score(labels, answers, labels=classes, average="macro", zero_division=0.0)
        return float(f1)
    try:
        return MEASURES[key].compute(answers, labels)
    except Undefined:
        return 0.0


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error: the mean over rows of their bin's |accuracy - confidence|."""
    confidence, answers = probabilities.max(dim=-1)
    # A confidence of 1 belongs to the last bin.
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, (answers == labels).double() - confidence)
    return float(gaps.abs().sum() / len(labels))


def pack(numbers: Sequence[Any]) -> str:
    """Return class indices as a short text; numbers with fractions are rounded to hundredths."""
    floats = any(isinstance(number, float) for number in numbers)
    whole = numpy.rint(numpy.asarray(numbers, dtype=float) * (HUNDREDTHS if floats else 1)).astype("<i2")
    return ("h" if floats else "i") + base64.b64encode(zlib.compress(whole.tobytes(), 9)).decode("ascii")


def unpack(text: str) -> Any:
    """Return the numbers of :func:`pack` as an array."""
    whole = numpy.frombuffer(zlib.decompress(base64.b64decode(text[1:])), dtype="<i2")
    return whole / HUNDREDTHS if text[0] == "h" else whole.astype(int)
