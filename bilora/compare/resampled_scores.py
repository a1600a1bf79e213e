"""A run's score on resampled validation rows, from the predictions that it kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from bilora.metrics.classes import MEASURES, Undefined
from bilora.tasks.catalog import Task

ROW_DRAWS = 200
"""Resamples of the validation rows."""


def resampled_scores(
    task: Task, predictions: Sequence[Mapping[str, Any]], *, draws: int = ROW_DRAWS, seed: int = 0
) -> list[float] | None:
    """Return the headline metric on ``draws`` resamples of the rows; equal row numbers and seeds give the same rows.

    Args:
        task: Says what the metric is, and the order of the classes.
        predictions: One mapping a row, with ``label`` and ``prediction``.
        draws: Number of resamples.
        seed: Of the resampling.

    Returns:
        The scores; None where one is undefined, such as a correlation of constant predictions.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> resampled_scores(TASKS["sst2"], [{"label": "positive", "prediction": "positive"}], draws=2)
        [1.0, 1.0]
    """
    places = None if task.label_names is None else {name: place for place, name in enumerate(task.label_names)}
    answers, labels = (
        numpy.asarray([each[key] if places is None else places[each[key]] for each in predictions])
        for key in ("prediction", "label")
    )
    measure = MEASURES[task.metric].compute
    picks = numpy.random.default_rng(seed).integers(len(labels), size=(draws, len(labels)))
    try:
        return [measure(answers[rows], labels[rows]) for rows in picks]
    except Undefined:
        return None
