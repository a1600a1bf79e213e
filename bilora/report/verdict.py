"""The rules by which a report says which method to take, how sure that is, and what to do next.

Every rule is here, and nothing else is: numbers go in, sentences come out.

* A difference is told where its 95% interval leaves out 0. With a p-value of 0.05 or more beside it, it is probable
  only.
* Where no difference can be told, the method that trains in less time is to be taken.
* A run alone is held against always answering the most frequent class, and gains nothing that can be told where that
  score is inside its interval, or better.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bilora.artifacts.scored_on import UPPER
from bilora.report.measured import Difference, Measured
from bilora.runs.statistics import SIGNIFICANT, Interval

# Times as many seeds or rows as there are: beyond, a difference is not worth to be told.
WORTH_TELLING = 100
# Half the width of a score's interval from which the rows are called few.
WIDE = 0.05
# The training loss as a share of the validation loss: below the first one, the run fits its rows far better than new
# ones; above the second, as well as new ones.
OVERFIT, ALIKE = 0.5, 0.9
# Rows of a class below which nothing is said of it.
FEW_OF_CLASS = 10
# Classes named in one sentence.
NAMED = 3
# Mean distance of confidence and truth: up to the first, probabilities can be taken as they are.
CALIBRATED = 0.05
# Answers below which nothing is said of probabilities.
FEW_ANSWERS = 100
# From this confidence on, an answer against the label speaks against the label too.
SURE = 0.9


@dataclass(frozen=True)
class ClassFinding:
    """How a class was found."""

    name: str
    rows: int
    recall: float | None
    interval: Interval | None  # of the recall
    taken_for: str | None = None  # the class that its rows were most often taken for


@dataclass(frozen=True)
class Findings:
    """What the rules look at beside the scores, of the method that is to be taken; what is not known is None."""

    train_loss: float | None = None
    validation_loss: float | None = None
    # Scores of the validations of a run in their order, and the share of right decisions at its end.
    validations: Sequence[float] = ()
    right: float | None = None
    classes: Sequence[ClassFinding] = field(default_factory=tuple)
    calibration_error: float | None = None
    excess: float | None = None  # mean confidence less the share of right answers
    answers: int = 0  # with a confidence
    sure_errors: int = 0  # of them, those against the label with a confidence of 0.9 or more
    label_issues: int = 0  # rows of label_issues.csv


def is_told(difference: Difference) -> bool | None:
    """Return whether a difference to zero can be told; None where nothing says how sure it is."""
    return None if difference.interval is None else not holds(difference.interval, 0.0)


def holds(interval: Interval, value: float) -> bool:
    """Return whether a value is inside an interval, its ends included."""
    return interval[0] <= value <= interval[1]


def gain(method: Measured) -> float:
    """Return the difference to the baseline, above zero where the method is better."""
    assert method.difference is not None
    return method.difference.mean if method.greater_is_better else -method.difference.mean


# ---- the first sentence ----


def verdict(methods: Sequence[Measured]) -> str:
    """Return the sentence to repeat: which method, by how much, how sure, at what cost."""
    scored = [method for method in methods if method.score is not None]
    if not methods:
        return "No run has ended yet, so nothing can be said of its score."
    if not scored:
        return f"No {words(methods[0].metric)} is defined for these runs, so none can be called good."
    if len(methods) == 1:
        return _of_one(methods[0])
    baseline = next(method for method in methods if method.is_baseline)
    compared = comparable(methods)
    if not compared:
        return (
            f"No method can be compared with {baseline.label}: that takes a score of both on the same rows, with the "
            "same metric and the same seed."
        )
    best = max(compared, key=gain)
    return _of_two(best, baseline, others=len(compared))


def comparable(methods: Sequence[Measured]) -> list[Measured]:
    """Return the methods with a difference to the baseline whose sign says which is better."""
    return [method for method in methods if method.difference is not None and method.greater_is_better is not None]


def to_take(methods: Sequence[Measured]) -> Measured | None:
    """Return the method that the verdict is for: the best, or of those that cannot be told apart the quicker one."""
    if not methods:
        return None
    baseline = next((method for method in methods if method.is_baseline), methods[0])
    compared = comparable(methods)
    if not compared:
        return baseline
    best = max(compared, key=gain)
    assert best.difference is not None
    if is_told(best.difference) is False:
        return _quicker(best, baseline)
    return best if gain(best) > 0 else baseline


def _quicker(one: Measured, baseline: Measured) -> Measured:
    if one.seconds is None or baseline.seconds is None:
        return baseline
    return one if one.seconds < baseline.seconds else baseline


def _of_one(method: Measured) -> str:
    assert method.score is not None
    rows = "" if method.rows is None else f" on {method.rows:,} {_rows(method)}"
    interval = "" if method.interval is None else f" (95% interval {_span(method.interval)})"
    seeds = "" if method.seeds == 1 else f" in the mean of {method.seeds} seeds"
    reached = f"{method.label} reaches {words(method.metric)} {method.score:.3f}{interval}{rows}{seeds}"
    cost = _cost(method)
    if method.chance is None:
        return f"{reached}{cost}."
    always = f"always answering “{method.chance_class}” gives {method.chance:.3f}"
    if beats_chance(method):
        return f"{reached}, where {always}{cost}."
    return f"No gain over the most frequent class can be told: {reached}, and {always}{cost}."


def beats_chance(method: Measured) -> bool:
    """Return whether a score is better than always answering the most frequent class, beyond its interval."""
    assert method.score is not None and method.chance is not None
    low, high = method.interval or (method.score, method.score)
    return low > method.chance if method.greater_is_better is not False else high < method.chance


def _of_two(best: Measured, baseline: Measured, *, others: int) -> str:
    assert best.difference is not None
    told, scores = is_told(best.difference), _scores(best, baseline)
    sure = _sure(best.difference)
    if told is None:
        return (
            f"Nothing says how sure the difference between {best.label} and {baseline.label} is: {scores}, of one seed "
            f"without answers that can be resampled{_ratio(best, baseline)}."
        )
    if not told:
        cheaper = _quicker(best, baseline)
        return (
            f"No difference between {best.label} and {baseline.label} can be told: {scores}{sure}; take "
            f"{cheaper.label}{_because(cheaper, best if cheaper is baseline else baseline)}."
        )
    p_value = best.difference.p_value
    probably = "" if p_value is None or p_value < SIGNIFICANT else "probably "
    if gain(best) > 0:
        return f"{best.label} is {probably}better than {baseline.label}: {scores}{sure}{_ratio(best, baseline)}."
    whom = best.label if others == 1 else f"{best.label}, the best of the {others} others"
    return f"Stay with {baseline.label}, which is {probably}better than {whom}: {scores}{sure}."


def _scores(best: Measured, baseline: Measured) -> str:
    assert best.difference is not None
    scores = (
        ""
        if best.score is None or baseline.score is None
        else f"{best.score:.3f} against {baseline.score:.3f}, a difference of "
    )
    return f"{words(best.metric)} {scores}{best.difference.mean:+.3f}"


def _sure(difference: Difference) -> str:
    parts = []
    if difference.interval is not None:
        low, high = difference.interval
        parts.append(f"95% interval {low:+.3f} to {high:+.3f} over {difference.over}")
    if difference.p_value is not None:
        parts.append(f"p = {difference.p_value:.2g} over {difference.tested}")
    return f" ({'; '.join(parts)})" if parts else ""


def _cost(method: Measured) -> str:
    parts = []
    if method.seconds is not None:
        parts.append(f"{duration(method.seconds)} of training")
    if method.peak_memory_mb is not None:
        parts.append(f"{method.peak_memory_mb:,.0f} MiB of memory")
    return f", at the cost of {' and '.join(parts)}" if parts else ""


def _ratio(best: Measured, baseline: Measured) -> str:
    parts = []
    if best.seconds and baseline.seconds:
        parts.append(f"{best.seconds / baseline.seconds:.1f} times the training time")
    if best.peak_memory_mb and baseline.peak_memory_mb:
        parts.append(f"{best.peak_memory_mb / baseline.peak_memory_mb:.1f} times the memory")
    return f", at {' and '.join(parts)}" if parts else ""


def _because(cheaper: Measured, other: Measured) -> str:
    if cheaper.seconds is None or other.seconds is None or cheaper.seconds >= other.seconds:
        return ""
    return f", which trains in {duration(cheaper.seconds)} and not {duration(other.seconds)}"


# ---- what to do next ----


def next_steps(methods: Sequence[Measured], findings: Findings) -> list[str]:
    """Return what to do next, one sentence each, of the method that is to be taken."""
    return [*_about_the_score(methods), *_about_rows(findings), *_about_classes(findings), *_about_labels(findings)]


def _about_the_score(methods: Sequence[Measured]) -> Iterator[str]:
    method = to_take(methods)
    if method is None:
        return
    if method.scored_on == UPPER:
        yield (
            "Hold rows out for a score to rely on (--validation-share 0.1): this one is of D2, rows that the training "
            "has used."
        )
    compared = comparable(methods)
    if compared:
        yield from _about_the_difference(max(compared, key=gain), methods)
    if method.interval is not None and (half := (method.interval[1] - method.interval[0]) / 2) > WIDE and method.rows:
        yield (
            f"Score on more rows: with {method.rows:,} the {words(method.metric)} is known to ±{half:.3f} only, and "
            "four times as many halve that."
        )


def _about_the_difference(best: Measured, methods: Sequence[Measured]) -> Iterator[str]:
    assert best.difference is not None
    told, over = is_told(best.difference), best.difference.over
    if best.difference.seeds == 1:
        yield "Run more seeds, six or more (bilora compare --seeds 6): another seed alone may turn a small difference."
    elif told is False:
        times = times_as_many(best.difference)
        if times > WORTH_TELLING:
            yield f"Leave it there: no reasonable number of {over} would tell so small a difference from none."
        else:
            yield f"To tell a difference of this size takes about {times:,} times as many {over}."
    if told and gain(best) > 0 and len(comparable(methods)) > 1:
        yield (
            f"Run {best.label} and the baseline again with new seeds before you rely on the difference: the best of "
            f"{len(comparable(methods))} methods was picked, which flatters it."
        )


def times_as_many(difference: Difference) -> int:
    """Return how many times as many seeds or rows an interval needs that leaves out 0: its width goes with the root."""
    assert difference.interval is not None
    half = (difference.interval[1] - difference.interval[0]) / 2
    if abs(difference.mean) * WORTH_TELLING < half:
        return WORTH_TELLING**2
    return max(2, math.ceil((half / difference.mean) ** 2))


def _about_rows(findings: Findings) -> Iterator[str]:
    train, validation = findings.train_loss, findings.validation_loss
    if train is not None and validation is not None and validation > 0:
        losses = f"training loss {train:.3f}, validation loss {validation:.3f}"
        if train < OVERFIT * validation:
            yield (
                "Label more training rows, which will help most: it fits those it has far better than new ones "
                f"({losses})."
            )
        elif train > ALIKE * validation:
            yield (
                "More training rows of the same kind would change little: it fits new ones as well as those it has "
                f"({losses}). A larger model, a higher rank or more epochs may."
            )
        else:
            yield f"More training rows will help some: it fits those it has better than new ones ({losses})."
    scores = findings.validations
    if len(scores) > 1 and scores[-1] > max(scores[:-1]):
        yield "Train longer (--epochs): the score was still rising at the end."


def _about_classes(findings: Findings) -> Iterator[str]:
    weak = weak_classes(findings)
    if weak:
        named = ", ".join(_class(finding) for finding in weak[:NAMED])
        more = f" and {len(weak) - NAMED} more" if len(weak) > NAMED else ""
        yield f"Label rows of the classes that are found least: {named}{more}."
    few = [finding for finding in findings.classes if 0 < finding.rows < FEW_OF_CLASS]
    if few:
        named = ", ".join(f"{finding.name} ({finding.rows})" for finding in few[:NAMED])
        more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
        yield f"Hold out more rows of {named}{more}: fewer than {FEW_OF_CLASS} say little of a class."


def weak_classes(findings: Findings) -> list[ClassFinding]:
    """Return the classes whose recall is below the share of right answers beyond its interval, the weakest first."""
    if findings.right is None:
        return []
    weak = [
        finding
        for finding in findings.classes
        if finding.rows >= FEW_OF_CLASS and finding.interval is not None and finding.interval[1] < findings.right
    ]
    return sorted(weak, key=lambda finding: finding.recall or 0.0)


def _class(finding: ClassFinding) -> str:
    taken = "" if finding.taken_for is None else f", mostly taken for {finding.taken_for}"
    return f"{finding.name} ({finding.recall or 0.0:.0%} of {finding.rows} rows{taken})"


def _about_labels(findings: Findings) -> Iterator[str]:
    if findings.label_issues:
        yield (
            f"Do not trust all labels: label_issues.csv names {findings.label_issues:,} that are likely wrong; read "
            "those first."
        )
    error, excess = findings.calibration_error, findings.excess
    known = findings.answers >= FEW_ANSWERS and error is not None and excess is not None
    if findings.sure_errors:
        weaker = known and excess is not None and excess > CALIBRATED
        doubt = ", though the model is too sure in general" if weaker else ""
        yield (
            f"Read the rows listed below before trusting the labels: {findings.sure_errors:,} of {findings.answers:,} "
            f"answers contradict theirs with a confidence of {SURE:.0%} or more{doubt}."
        )
    elif findings.answers:
        yield f"Nothing speaks against the labels: no answer contradicts one with a confidence of {SURE:.0%} or more."
    if not known or error is None or excess is None:
        return
    if error <= CALIBRATED:
        yield f"The probabilities can be taken at their word: they are off by {error:.3f} in the mean."
    else:
        direction = "too high" if excess > 0 else "too low"
        yield f"Do not use the probabilities as they are: they are off by {error:.3f} in the mean, mostly {direction}."


# ---- words ----


def words(metric: str) -> str:
    """Return the name of a metric as it is said."""
    return metric.replace("_", " ")


def duration(seconds: float) -> str:
    """Return a time as it is said."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _span(interval: Interval) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def _rows(method: Measured) -> str:
    return "rows of D2, which it was trained on too," if method.scored_on == UPPER else "validation rows"
