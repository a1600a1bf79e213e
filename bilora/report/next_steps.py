"""The rules by which a report says what to do next: numbers go in, one sentence for each piece of advice comes out."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bilora.artifacts.scored_on import UPPER
from bilora.report.measured import Difference, Measured
from bilora.report.verdict import comparable, gain, is_told, to_take, words
from bilora.runs.statistics import Interval

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
