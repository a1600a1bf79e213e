"""What each line of the study of trusted rows trains, by its name: the rivals, ours, and the ceiling."""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import trusted_losses as losses
import trusted_setfit
from study_runs import logits_of
from torch import Tensor
from trusted_rows import SOURCE, DrawnRows, joined

from bilora.commands.train_config import TrainConfig
from bilora.data.rows import Rows
from bilora.data.sets import TaskRows
from bilora.engines.training.stages import run_stages
from bilora.models.embedded import embedded_model_folder
from bilora.problems.levels.betty_problem import PRECISIONS
from bilora.problems.variant import Variant
from bilora.runs.config import DEFAULT_ROAD, ROADS, RunConfig
from bilora.runs.label_issues import class_names, find_issues
from bilora.runs.out_of_sample import by_embeddings, folds_of
from bilora.runs.plan import RunPlan, plan_run
from bilora.runs.road_choice import choose_road
from bilora.runs.run import adapted, fit_adapted, prepare
from bilora.tasks.task import AnyTask, Inference

# Trusted rows count in a mixture as a quarter of the doubtful ones, however few they are.
MIXED_SHARE = 0.25
# What the papers of the losses recommend.
SMOOTHING, EXPONENT = 0.1, 0.7
# As `bilora check-labels` has it.
FOLDS = 5


@dataclass(frozen=True)
class Trained:
    """What came of a training: what it says of rows, and what it has learned."""

    answer: Callable[[Rows], Tensor]  # the logits, (rows, classes)
    learned: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    upper_steps: int = 0


@dataclass(frozen=True)
class Place:
    """The rows of a job, and how its models are trained."""

    rows: DrawnRows
    task: AnyTask
    config: Callable[..., RunConfig]  # of a method, with settings by dotted name

    @property
    def all_rows(self) -> Rows:
        """Doubtful rows first, trusted ones behind."""
        return joined(self.rows.doubtful, self.rows.trusted)

    def plan(self, method: str, train: Rows, upper: Rows | None = None, **values: Any) -> RunPlan:
        """Return the plan of a method on rows, and on D2 where it is given."""
        # A plan has a set that is scored; nothing looks at this one.
        sets = {"unused": self.rows.trusted}
        return plan_run(self.config(method, values), TaskRows(self.task, train, sets, upper=upper))

    def fit(self, plan: RunPlan, variant: Variant | None = None) -> Trained:
        """Train a plan, with a variant of the study's own in place of its method."""
        if variant is not None:
            stages = run_stages(variant, plan.variant_settings, plan.settings)
            plan = dataclasses.replace(plan, variant=variant, stages=stages)
        prepared = prepare([plan])
        own, length = prepared.tokenizer.own, plan.config.max_length
        model, _ = adapted(plan, prepared)
        result = fit_adapted(model, self.task.encode(plan.train, own, max_length=length), plan, prepared)
        inference = Inference(model, own, PRECISIONS[plan.config.precision])

        def answer(rows: Rows) -> Tensor:
            return logits_of(self.task.encode(rows, own, max_length=length), inference, self.task)

        return Trained(answer, result.learned, result.steps, result.upper_steps)


Road = Callable[[Place], Trained]


def trusted_only(place: Place) -> Trained:
    """LoRA on the trusted rows alone, for as many steps as all others."""
    size = min(place.config("lora", {}).lower.batch_size, len(place.rows.trusted))
    values: dict[str, Any] = {"lower.batch_size": size}
    return place.fit(place.plan("lora", place.rows.trusted, **values))


def setfit(place: Place) -> Trained:
    """SetFit on the trusted rows."""
    config, trusted = place.config("lora", {}), place.rows.trusted
    answer = trusted_setfit.train(
        _texts(place.task, trusted),
        _labels(trusted).tolist(),
        model=config.model or str(embedded_model_folder()),
        classes=_classes(place.task),
        max_length=config.max_length,
        seed=config.seed,
        device=config.device,
    )
    return Trained(lambda rows: answer(_texts(place.task, rows)))


def noisy_stopped(place: Place) -> Trained:
    """LoRA on the doubtful rows, which stops when its loss on the trusted ones no longer falls."""
    size = min(place.config("lora", {}).upper.batch_size, len(place.rows.trusted))
    values: dict[str, Any] = {"upper.batch_size": size}
    return place.fit(place.plan("lora_early_stopping", place.rows.doubtful, place.rows.trusted, **values))


def mixed(place: Place) -> Trained:
    """LoRA on all rows, with copies of the trusted ones: a weight of that number, in which no row fills a batch."""
    doubtful, trusted = place.rows.doubtful, place.rows.trusted
    copies = max(1, round(MIXED_SHARE * len(doubtful) / len(trusted)))
    return place.fit(place.plan("lora", joined(doubtful, trusted, copies=copies)))


def noisy_then_trusted(place: Place) -> Trained:
    """LoRA on the doubtful rows that goes on with the trusted ones."""
    return place.fit(place.plan("lora", place.rows.doubtful, place.rows.trusted), losses.NOISY_THEN_TRUSTED)


def label_smoothing(place: Place) -> Trained:
    """LoRA on all rows with smoothed labels."""
    return _with_loss(place, "label_smoothing", losses.label_smoothing(SMOOTHING))


def generalized_cross_entropy(place: Place) -> Trained:
    """LoRA on all rows with the generalized cross entropy."""
    return _with_loss(place, "generalized_cross_entropy", losses.generalized_cross_entropy(EXPONENT))


def gold_correction(place: Place) -> Trained:
    """LoRA on all rows with a transition matrix that was estimated on the trusted ones, by a first LoRA."""
    doubtful, trusted = place.rows.doubtful, place.rows.trusted
    first = place.fit(place.plan("lora", doubtful))
    matrix = losses.gold_matrix(first.answer(trusted).softmax(dim=-1), _labels(trusted))
    loss = losses.gold_correction(matrix, first_trusted=len(doubtful))
    trained = _with_loss(place, "gold_correction", loss)
    return dataclasses.replace(trained, learned={"matrix": matrix.tolist()}, steps=first.steps + trained.steps)


def cleanlab_filter(place: Place) -> Trained:
    """LoRA on the rows whose label cleanlab does not doubt, by a cross-fit of embeddings, and on the trusted ones."""
    doubtful = place.rows.doubtful
    # Classes of fewer rows than folds cannot be judged, and stay.
    counts = Counter(doubtful.labels)
    judged = doubtful.select(index for index, label in enumerate(doubtful.labels) if counts[label] >= FOLDS)
    config = place.config("lora", {})
    folds = folds_of(judged, FOLDS, names=class_names(place.task), seed=config.seed)
    with tempfile.TemporaryDirectory() as parts:
        chances = by_embeddings(config, TaskRows(place.task, judged, {}), folds, parts=Path(parts))
    bad = {issue.row for issue in find_issues(judged, place.task, chances)}
    kept = doubtful.select(index for index, line in enumerate(doubtful.lines) if line not in bad)
    trained = place.fit(place.plan("lora", joined(kept, place.rows.trusted)))
    return dataclasses.replace(trained, learned={"left_out": len(bad)})


def inverse_frequency(place: Place) -> Trained:
    """LoRA on all rows with classes weighted by one over their frequency."""
    return place.fit(place.plan("lora", place.all_rows, class_weights="auto"))


def logit_adjustment(place: Place) -> Trained:
    """LoRA on all rows with logits shifted by the logarithm of the classes' frequency."""
    counts = torch.bincount(_labels(place.all_rows), minlength=_classes(place.task)).double()
    return _with_loss(place, "logit_adjustment", losses.logit_adjustment(counts))


def true_labels(place: Place) -> Trained:
    """LoRA on all rows with the labels that are right: the ceiling."""
    return place.fit(place.plan("lora", joined(place.rows.true, place.rows.trusted)))


def _with_loss(place: Place, name: str, loss: losses.RowLosses) -> Trained:
    return place.fit(place.plan("lora", place.all_rows), losses.with_loss(name, loss))


def _labels(rows: Rows) -> Tensor:
    return torch.tensor([label for label in rows.labels if isinstance(label, int)])


def _classes(task: AnyTask) -> int:
    return len(task.model_settings["label2id"])


def _texts(task: Any, rows: Rows) -> list[str]:
    return [" ".join(str(row[name]) for name in task.text_fields) for row in rows]


def default(place: Place) -> Trained:
    """Do what ``bilora train --trusted-file`` does: trials choose a road, and that is taken."""
    doubtful, trusted = place.rows.doubtful, place.rows.trusted
    plan = place.plan(ROADS[DEFAULT_ROAD], doubtful, trusted)
    # Of the trusted rows alone, the command makes as many steps as it thinks right for them.
    files = {"train_file": "doubtful.csv", "trusted_file": "trusted.csv"}
    few = TrainConfig(**files, road="trusted_only", lower=plan.config.lower).steps_for(len(trusted))  # type: ignore[arg-type]
    choice = choose_road(plan, prepare([plan]), trusted_steps=few)
    if choice.road == "trusted_only":
        plan = place.plan(ROADS[choice.road], trusted, steps=few)
    else:
        plan = place.plan(ROADS[choice.road], doubtful, trusted)
    trained = place.fit(plan)
    return dataclasses.replace(trained, learned={**trained.learned, "road": choice.to_json()})


def _learned(method: str, **values: Any) -> Road:
    def road(place: Place) -> Trained:
        return place.fit(place.plan(method, place.rows.doubtful, place.rows.trusted, **values))

    return road


TRUSTED_ROADS: dict[str, Road] = {
    "trusted_only": trusted_only,
    "setfit": setfit,
    "noisy_stopped": noisy_stopped,
    "mixed": mixed,
    "noisy_then_trusted": noisy_then_trusted,
    "label_smoothing": label_smoothing,
    "generalized_cross_entropy": generalized_cross_entropy,
    "gold_correction": gold_correction,
    "cleanlab_filter": cleanlab_filter,
    "inverse_frequency": inverse_frequency,
    "logit_adjustment": logit_adjustment,
    "true_labels": true_labels,
    "default": default,
    "learned_noise": _learned("learned_noise"),
    "learned_sources": _learned("learned_sources", source_column=SOURCE),
    "learned_classes": _learned("learned_classes"),
    "learned_rows": _learned("learned_rows"),
    "learned_loss": _learned("learned_loss"),
}
"""Every line by the name that a protocol gives it."""


def lack_of(method: str) -> str | None:
    """Return what a line needs that is not there, or None."""
    return trusted_setfit.lack() if method == "setfit" else None
