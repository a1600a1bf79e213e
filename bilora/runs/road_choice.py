"""Which road to take from doubtful and trusted rows: measured on trusted rows that a trial was not trained on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy
import torch
from torch import nn

from bilora import trainable_parameters
from bilora.data.row_marks import TrainingRows
from bilora.engines.endings import ThenTrusted
from bilora.engines.training.stage_state import trained_values
from bilora.engines.training.stages import run_stages
from bilora.errors import DataError, SettingsError
from bilora.problems.catalog import find_variant
from bilora.problems.levels.betty_problem import PRECISIONS
from bilora.problems.stage import Stage
from bilora.problems.variant import Variant
from bilora.problems.variants.correction_then_trusted import Correction
from bilora.problems.variants.learned_rate import RatedLower
from bilora.processes.processes import Processes
from bilora.runs.config import DEFAULT_ROAD, ROADS
from bilora.runs.label_issues import class_names
from bilora.runs.out_of_sample import Folds, folds_of
from bilora.runs.plan import RunPlan
from bilora.runs.run import Prepared, adapted, fit_adapted
from bilora.tasks.scoring import in_row_order, ordered_loader, predict
from bilora.tasks.task import AnyTask, EncodedRows, Inference
from bilora.tensors import put

# What a whole choice may cost, the run that follows included, in runs of LoRA of the same steps.
MOST_RUNS = 8.0
SHARE = ThenTrusted().share
# Of the run that follows: a search whose upper steps cost as much again, a training on the doubtful rows, a going on.
RUN_AFTER = 3.0 + SHARE
# Standard errors that another road must lead by.
SURE = 1.5
FOLDS = (3, 2)
"""Folds of the trusted rows, the most that the trials can be afforded with."""


@dataclass(frozen=True)
class RoadChoice:
    """A road, and what speaks for it."""

    road: str
    words: str
    right: Mapping[str, float] = field(default_factory=dict)  # share of the trusted rows, by road
    folds: int = 0
    lora_runs: float = 0.0  # what the choice took, in runs of LoRA of the same steps

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def choose_road(plan: RunPlan, prepared: Prepared, *, trusted_steps: int) -> RoadChoice:
    """Return the road that gets the most trusted rows right, by folds: each is judged by what learned from the others.

    The default road is left for another one that is better by more than 1.5 standard errors.

    Args:
        plan: That of the default road.
        prepared: With the trusted rows as D2.
        trusted_steps: What a run on trusted rows alone would make.

    Raises:
        SettingsError: The rows do not have one class each, or several processes train.
    """
    trials = Trials(plan, prepared, trusted_steps=trusted_steps)
    if not trials.folds:
        words = f"{DEFAULT_ROAD}: a class has one trusted row, so that no road could be measured on the trusted rows"
        return RoadChoice(DEFAULT_ROAD, words)
    right = trials.run()
    best = best_road(right)
    shares = {road: float(found.mean()) for road, found in right.items()}
    listed = ", ".join(f"{road} {share:.0%}" for road, share in shares.items())
    cost = trials.cost
    why = "it is best" if shares[best] == max(shares.values()) else "no other is better by more than chance may give"
    words = (
        f"{best}, since {why} on the {len(trials.trusted.rows)} trusted rows, in {len(trials.folds)} folds: {listed}; "
        f"this took as long as {cost:.1f} runs of LoRA"
    )
    return RoadChoice(best, words, shares, len(trials.folds), round(cost, 2))


def best_road(right: Mapping[str, Sequence[bool]]) -> str:
    """Return the road with the most rows right, but the default one where it is not surely worse.

    Args:
        right: Whether each row was right, by road; the rows are the same.
    """
    default = numpy.asarray(right[DEFAULT_ROAD], dtype=float)
    best, lead = DEFAULT_ROAD, 0.0
    for road, found in right.items():
        difference = numpy.asarray(found, dtype=float) - default
        # Of the mean of paired differences.
        error = difference.std(ddof=1) / len(difference) ** 0.5
        if difference.mean() > max(SURE * error, lead):
            best, lead = road, float(difference.mean())  # type: ignore[assignment]
    return best


def check_can_choose(task: AnyTask, processes: Processes) -> None:
    """Refuse rows without one class each, and several processes, where the road is to be chosen."""
    try:
        class_names(task)
    except DataError as error:
        raise SettingsError(f"road is 'auto': {error}; name --road noisy_then_trusted or trusted_only") from error
    if processes.count > 1:
        raise SettingsError("road is 'auto', which one process alone can measure; name a road")


class Trials:
    """Short trainings of the roads, from one model that is loaded once."""

    def __init__(self, plan: RunPlan, prepared: Prepared, *, trusted_steps: int) -> None:
        check_can_choose(plan.task, plan.processes)
        names = class_names(plan.task)
        assert prepared.upper is not None  # the trusted rows
        self.prepared, self.trusted = prepared, prepared.upper
        # Nothing is watched in a trial: its rows are looked at once, at its end.
        settings = replace(plan.settings, early_stopping=0, keep_best=False, validate_every=0, save_every=0)
        self.plan = replace(plan, settings=settings)
        steps = plan.settings.lower_steps
        share = trusted_steps / steps
        # A trial of trusted rows alone and two goings on per fold, beside two trainings on the doubtful rows.
        affordable = [count for count in FOLDS if 2 + count * (2 * SHARE + share) + RUN_AFTER <= MOST_RUNS]
        count = affordable[0] if affordable else FOLDS[-1]
        most = (MOST_RUNS - RUN_AFTER - 2) / count - 2 * SHARE
        self.trusted_steps = max(1, min(trusted_steps, int(most * steps)))
        rows = self.trusted.rows
        smallest = min(plan.task.class_counts(rows).values())
        self.folds: Folds = [] if smallest < 2 else folds_of(rows, count, names=names, seed=plan.config.seed)
        self.cost = 2 + len(self.folds) * (2 * SHARE + self.trusted_steps / steps)

    def run(self) -> dict[str, Any]:
        """Return for each road whether every trusted row is right."""
        plan = self.plan
        self.model, _ = adapted(plan, self.prepared)
        self.doubtful = plan.task.encode(plan.train, self.prepared.tokenizer.own, max_length=plan.config.max_length)
        self.start = trained_values(self.model)
        noisy, correction = (find_variant(ROADS[road]) for road in ("noisy_then_trusted", "correction_then_trusted"))
        right = {"noisy_then_trusted": self._after_doubtful(noisy)}
        # Its loss has no place for weights of classes.
        if plan.config.class_weights == "none":
            # The model of the doubtful labels was the last to learn from them alone.
            matrix = self._matrix()
            right["correction_then_trusted"] = self._after_doubtful(replace(correction, companion=knowing(matrix)))
        right["trusted_only"] = self._by_fold(self._trusted_alone)
        self._put(self.start)
        return right

    def _after_doubtful(self, variant: Variant) -> Any:
        settings = replace(self.plan.settings, ending=None)
        *_, doubtful, going_on = run_stages(variant, self.plan.variant_settings, settings)
        self._put(self.start)
        self._fit(variant, doubtful, self.trusted)
        self.learned = trained_values(self.model)

        def go_on(learn: EncodedRows) -> None:
            self._put(self.learned)
            self._fit(variant, going_on, learn)

        return self._by_fold(go_on)

    def _trusted_alone(self, learn: EncodedRows) -> None:
        self._put(self.start)
        lower = self.plan.settings.lower
        size = min(lower.batch_size, len(learn.encoded))
        settings = replace(self.plan.settings, steps=self.trusted_steps, lower=replace(lower, batch_size=size))
        plan = replace(self.plan, stages=(Stage("trusted", RatedLower),), settings=settings, split=None)
        fit_adapted(self.model, learn, plan, replace(self.prepared, upper=None))

    def _by_fold(self, train: Callable[[EncodedRows], None]) -> Any:
        right = numpy.zeros(len(self.trusted.rows), dtype=bool)
        for learn, judge in self.folds:
            train(part_of(self.trusted, learn))
            of_fold = part_of(self.trusted, judge)
            right[judge] = self._chances(of_fold).argmax(-1).numpy() == numpy.asarray(of_fold.rows.labels)
        return right

    def _matrix(self) -> torch.Tensor:
        """Return what the model of the doubtful labels says of the trusted rows of each class, on average."""
        self._put(self.learned)
        chances, labels = self._chances(self.trusted), torch.tensor([int(x) for x in self.trusted.rows.labels])  # type: ignore[arg-type]
        return torch.stack([chances[labels == index].mean(0) for index in range(chances.shape[-1])]).float()

    def _chances(self, data: EncodedRows) -> torch.Tensor:
        own = self.prepared.tokenizer.own
        inference = Inference(self.model, own, PRECISIONS[self.plan.config.precision])
        logits, _ = predict(inference, ordered_loader(data.encoded, self.plan.task.collator(own)))
        return torch.stack(in_row_order(list(logits.double().softmax(-1)), data.encoded))

    def _fit(self, variant: Variant, stage: Stage, trusted: EncodedRows) -> None:
        plan = replace(self.plan, variant=variant, stages=(stage,))
        fit_adapted(self.model, self.doubtful, plan, replace(self.prepared, upper=trusted))

    def _put(self, values: Mapping[str, torch.Tensor]) -> None:
        parameters = trainable_parameters(self.model)
        put(list(parameters.values()), [values[name] for name in parameters])


def part_of(data: EncodedRows, indices: Sequence[int]) -> EncodedRows:
    """Return some of the rows."""
    return EncodedRows(data.rows.select(indices), [data.encoded[index] for index in indices])


def knowing(matrix: torch.Tensor) -> Callable[[nn.Module, Any, TrainingRows], Correction]:
    """Return what builds a correction that has seen the trusted rows already."""

    def companion(model: nn.Module, settings: Any, rows: TrainingRows) -> Correction:
        correction = Correction(model, settings, len(rows.class_counts))
        correction.sums.copy_(matrix)
        correction.counts.fill_(1.0)
        return correction

    return companion
