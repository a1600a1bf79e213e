"""Scores, intervals and differences of methods, read from folders of runs."""

from pathlib import Path

import numpy
import pytest
from scipy import stats
from toy_runs import CLASS_TASK, class_answers, scored, toy_run

from bilora.report.findings import class_rows, error_rows, findings
from bilora.report.measured import ROWS, SEEDS, TOO_FEW, measured
from bilora.report.read_run import read_runs
from bilora.runs.statistics import interval_over_rows, resampled_scores, row_bootstrap_interval


def write(folder: Path, method: str, seed: int, *, right: float, **more: object) -> None:
    answers = class_answers(seed=seed + (100 if method == "lora" else 0), right=right)
    toy_run(
        folder / f"{method}{seed}",
        method=method,
        seed=seed,
        predictions=answers,
        task=CLASS_TASK,
        score=scored(answers),
        **more,  # type: ignore[arg-type]
    )


def test_of_one_seed_the_rows_alone_are_resampled(tmp_path: Path) -> None:
    write(tmp_path, "bilora", 0, right=0.9)
    write(tmp_path, "lora", 0, right=0.7)
    bilora, lora = measured(runs := read_runs([tmp_path]))
    assert (lora.is_baseline, lora.difference) == (True, None)
    assert lora.score is not None and lora.interval is not None
    deviation = (lora.score * (1 - lora.score) / 200) ** 0.5
    assert lora.interval == pytest.approx((lora.score - 1.96 * deviation, lora.score + 1.96 * deviation), abs=0.015)
    right = [numpy.array([row["label"] == row["prediction"] for row in run.answers]) for run in runs]
    assert bilora.difference is not None and bilora.difference.interval is not None
    assert bilora.difference.mean == pytest.approx(right[0].mean() - right[1].mean())
    # Of single answers right or wrong, exchanging both row by row is McNemar's exact test.
    only = [(ours & ~theirs).sum() for ours, theirs in (right, right[::-1])]
    exact = stats.binomtest(int(only[0]), int(sum(only))).pvalue
    assert bilora.difference.p_value == pytest.approx(exact, abs=0.002)
    assert (bilora.difference.over, bilora.difference.tested, bilora.difference.seeds) == (ROWS, ROWS, 1)
    most = max(set(labels := [row["label"] for row in runs[0].answers]), key=labels.count)
    assert (bilora.chance, bilora.chance_class) == (labels.count(most) / 200, most)


def test_of_several_seeds_the_intervals_are_those_of_compare(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / "runs", "bilora", seed, right=0.9)
        write(tmp_path / "runs", "lora", seed, right=0.8)
    (tmp_path / "config.yaml").write_text("baseline: bilora\n")
    runs = read_runs([tmp_path])
    bilora, lora = measured(runs)
    assert bilora.is_baseline, "as the settings of the comparison have it"
    drawn = [resampled_scores(run.task, run.answers) for run in runs]  # type: ignore[arg-type]
    assert lora.difference is not None
    assert lora.difference.interval == row_bootstrap_interval(drawn[3:], drawn[:3])  # type: ignore[arg-type]
    assert lora.interval == interval_over_rows(drawn[3:])  # type: ignore[arg-type]
    assert lora.difference.tested == ROWS, "three seeds are too few for a test over them"


def test_runs_on_other_rows_are_not_compared(tmp_path: Path) -> None:
    write(tmp_path, "lora", 0, right=0.8)
    other = class_answers(seed=1, right=0.9, rows_seed=1)
    toy_run(tmp_path / "b", predictions=other, task=CLASS_TASK, score=scored(other))
    assert measured(read_runs([tmp_path]))[0].difference is None


def test_runs_without_answers_are_compared_over_seeds(tmp_path: Path) -> None:
    for seed, gain in enumerate((0.01, 0.02, 0.03, 0.04, 0.05, 0.06)):
        toy_run(tmp_path / f"a{seed}", seed=seed, score=0.5 + gain)
        toy_run(tmp_path / f"b{seed}", method="lora", seed=seed, score=0.5)
    bilora, _ = measured(read_runs([tmp_path]))
    assert bilora.difference is not None
    assert (bilora.difference.over, bilora.difference.tested) == (SEEDS, SEEDS)
    assert bilora.difference.p_value == pytest.approx(2 / 2**6)
    few, _ = measured(read_runs([tmp_path / name for name in ("a0", "a1", "b0", "b1")]))
    assert few.difference is not None
    assert few.difference.tested == TOO_FEW
    assert few.greater_is_better is None, "nothing says so"


def test_findings_are_of_the_answers(tmp_path: Path) -> None:
    write(tmp_path, "bilora", 0, right=0.8, train_loss=0.2)
    (run,) = read_runs([tmp_path])
    found, rows = findings([run]), run.answers
    wrong = [row for row in rows if row["label"] != row["prediction"]]
    assert found.right == pytest.approx(1 - len(wrong) / 200)
    assert found.sure_errors == sum(row["confidence"] >= 0.9 for row in wrong)
    assert (found.answers, found.train_loss, found.validation_loss) == (200, 0.2, 0.5)
    assert found.validations == [0.54, 0.58]
    bill = class_rows([run])[0]
    of_bill = [row for row in rows if row["label"] == "bill"]
    assert (bill["class"], bill["rows"], bill["mostly taken for"]) == ("bill", len(of_bill), "complaint")
    assert bill["recall"] == sum(row["prediction"] == "bill" for row in of_bill) / len(of_bill)
    low, high = bill["recall, 95%"]
    assert low < bill["recall"] < high
    errors = error_rows([run])
    surest = max(wrong, key=lambda row: row["confidence"])
    assert len(errors) == 20
    assert (errors[0]["row"], errors[0]["text"], errors[0]["label"]) == (
        surest["line"],
        surest["text"],
        surest["label"],
    )
