"""What the answers of a method show beyond its score: for the rules of the verdict, and for the tables of the page."""

from collections.abc import Sequence
from typing import Any

import pandas

from bilora.report.figures import points
from bilora.report.judged import confident_errors, kind_of_answers, largest_errors, table_by_class
from bilora.report.measured import recall_interval
from bilora.report.next_steps import SURE, ClassFinding, Findings
from bilora.report.outcomes import calibration_of
from bilora.report.read_run import ReadRun

# Rows of the list of errors.
SHOWN_ERRORS = 20


def findings(runs: Sequence[ReadRun]) -> Findings:
    """Return what the rules look at, of the runs of one method."""
    decisions = pandas.concat([run.judged for run in runs])
    wrong = decisions["label"] != decisions["prediction"]
    classes = [_class(row) for row in class_rows(runs)]
    calibrated, losses = calibration_of(runs), pandas.DataFrame([run.numbers for run in runs])
    return Findings(
        train_loss=_mean(losses["train_loss"]),
        validation_loss=_mean(losses["validation_loss"]),
        validations=_validations(runs[0]),
        right=_right(classes),
        classes=classes,
        calibration_error=calibrated.expected_error if calibrated else None,
        excess=calibrated.excess if calibrated else None,
        answers=int(decisions["confidence"].notna().sum()),
        sure_errors=int((wrong & (decisions["confidence"] >= SURE)).sum()),
        label_issues=len(runs[0].label_issues),
    )


def _right(classes: Sequence[ClassFinding]) -> float | None:
    """Return the share of all rows, or entities, that are found."""
    rows = sum(found.rows for found in classes)
    return sum((found.recall or 0.0) * found.rows for found in classes) / rows if rows else None


def _mean(column: "pandas.Series[float]") -> float | None:
    numbers = column.astype(float)
    return None if numbers.hasnans or numbers.empty else float(numbers.mean())


def _validations(run: ReadRun) -> list[float]:
    """Return the scores of the validations of a run, the larger the better."""
    if run.greater_is_better is None:
        return []
    values = points(run, f"{run.scored_on}.{run.metric}").drop_duplicates("step", keep="last")["value"]
    return [float(value) if run.greater_is_better else -float(value) for value in values]


def class_rows(runs: Sequence[ReadRun]) -> list[dict[str, Any]]:
    """Return a row per class, the mean over the runs, with the interval of its recall and what it was taken for."""
    tables = [pandas.DataFrame(table) for run in runs if (table := table_by_class(run.answers))]
    if not tables:
        return []
    whole = pandas.concat(tables)
    # None is the share of nothing; a mean over seeds leaves it out.
    columns = {name: pandas.to_numeric(whole[name]) for name in ("precision", "recall", "f1", "support")}
    means = whole.assign(**columns).groupby("label", sort=True)[list(columns)].mean()
    taken = _taken_for(runs)
    rows = []
    for name, values in means.iterrows():
        support, recall = round(values["support"]), _known(values["recall"])
        interval = None if recall is None or not support else recall_interval(recall, support)
        row = {"class": name, "rows": support, "precision": _known(values["precision"]), "recall": recall}
        row |= {"recall, 95%": interval, "F1": _known(values["f1"]), "mostly taken for": taken.get(str(name))}
        rows.append(row)
    return rows


def _known(value: Any) -> float | None:
    return None if pandas.isna(value) else float(value)


def _taken_for(runs: Sequence[ReadRun]) -> dict[str, str]:
    """Return the class that the rows of each class are most often taken for, where they are."""
    if any(kind_of_answers(run.answers) != "classes" for run in runs):
        return {}
    decisions = pandas.concat([run.judged for run in runs])
    wrong = decisions[decisions["label"] != decisions["prediction"]]
    return {str(label): str(rows.mode().iloc[0]) for label, rows in wrong.groupby("label")["prediction"]}


def _class(row: dict[str, Any]) -> ClassFinding:
    return ClassFinding(row["class"], row["rows"], row["recall"], row["recall, 95%"], row["mostly taken for"])


def error_rows(runs: Sequence[ReadRun]) -> list[dict[str, Any]]:
    """Return the answers that contradict their label most, over all runs on the rows of the first one."""
    kinds = {kind_of_answers(run.answers) for run in runs if run.answers}
    shown = [run for run in runs if run.answers and run.rows_key == _first_key(runs)]
    if not shown or len(kinds) > 1:
        return []
    frames = [run.judged for run in shown]
    errors = largest_errors if kinds == {"numbers"} else confident_errors
    return errors(frames, most=SHOWN_ERRORS)


def _first_key(runs: Sequence[ReadRun]) -> str:
    return next(run.rows_key for run in runs if run.answers)
