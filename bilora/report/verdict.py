"""The rules by which a report says which method to take, and how sure that is: numbers go in, a sentence comes out.

* A difference is told where its 95% interval leaves out 0. With a p-value of 0.05 or more beside it, it is probable
  only.
* Where no difference can be told, the method that trains in less time is to be taken.
* A run alone is held against always answering the most frequent class, and gains nothing that can be told where that
  score is inside its interval, or better.
"""

from collections.abc import Sequence

from bilora.artifacts.scored_on import UPPER
from bilora.report.measured import Difference, Measured
from bilora.runs.statistics import SIGNIFICANT, Interval


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
