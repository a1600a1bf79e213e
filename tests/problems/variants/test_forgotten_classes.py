"""Classes that the first stage has forgotten: which they are, and what the second does about it."""

from typing import Any

import pytest
import torch
from scipy import stats
from tiny_models import tiny_bert
from torch import Tensor
from torch.nn import functional
from tracked_files import ROOT

from bilora.data.row_marks import TrainingRows
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import fit
from bilora.files.formats import read_lines
from bilora.problems import VARIANTS
from bilora.problems.variants.forgotten_classes import ForgottenClasses
from bilora.problems.variants.self_tuned import SelfTunedSettings

COUNTS = {"many": 80, "few": 20}


def noted(rows: list[float], answers: list[float], *, upper_rows: int, steps: int = 4, **more: Any) -> ForgottenClasses:
    classes = ForgottenClasses(COUNTS, share=0.5, **more)
    # What was answered in the first half does not count.
    for step in range(steps):
        late = torch.tensor([rows, answers if step >= steps // 2 else [0.0, sum(answers)]])
        classes.note(late, upper_rows=upper_rows)
    return classes


@pytest.mark.parametrize(
    ("rows", "answers", "forgotten"),
    [
        # Chance leaves none of five with e^-5 < 0.01, and none of four with e^-4.
        (5.0, 0.0, [1]),
        (4.0, 0.0, []),
        (16.0, 3.9, [1]),
        # A quarter is not seldom, whatever chance says.
        (16.0, 4.0, []),
        # Of eight, chance leaves one with 9 e^-8 = 0.003.
        (8.0, 1.0, [1]),
        # A class with many rows would be still rarer with weights.
        (30.0, 60.0, []),
    ],
)
def test_a_class_is_forgotten_where_its_answers_are_few_and_chance_hardly_does_it(
    rows: float, answers: float, forgotten: list[int]
) -> None:
    classes = noted([60.0 - rows, rows], [60.0 - answers, answers], upper_rows=60)
    assert classes.forgotten() == forgotten
    assert not forgotten or stats.poisson.cdf(answers, rows) < 0.01


def test_batches_stand_for_the_whole_of_d2() -> None:
    """Two of eight rows in a batch are ten of forty."""
    assert noted([6.0, 2.0], [8.0, 0.0], upper_rows=40).forgotten() == [1]
    assert noted([6.0, 2.0], [8.0, 0.0], upper_rows=8).forgotten() == []


def test_weights_are_inverse_to_the_rows_of_training() -> None:
    classes = noted([12.0, 4.0], [16.0, 0.0], upper_rows=40)
    assert classes.weights is None
    classes.settle()
    assert classes.weights is not None
    assert classes.weights.tolist() == [100 / (2 * 80), 100 / (2 * 20)]
    assert classes.learned() == {
        "rows": {"many": 30.0, "few": 10.0},
        "answers": {"many": 40.0, "few": 0.0},
        "forgotten": ["few"],
        "weights": {"many": 0.625, "few": 2.5},
    }
    assert classes.words() == "; classes weighed by their rows, since D2 was hardly answered with few (0 of 10)"


@pytest.mark.parametrize(("always", "counts"), [(False, COUNTS), (True, {"many": 80, "few": 0})])
def test_nothing_is_weighed_without_a_forgotten_class_or_with_one_that_has_no_row(
    always: bool, counts: dict[str, int]
) -> None:
    classes = ForgottenClasses(counts, share=0.5, always=always)
    classes.note(torch.tensor([[12.0, 4.0], [12.0, 4.0]]), upper_rows=40)
    classes.settle()
    assert classes.weights is None


def test_state_comes_back() -> None:
    first, second = noted([12.0, 4.0], [16.0, 0.0], upper_rows=40), ForgottenClasses(COUNTS, share=0.5)
    first.settle()
    second.load_state_dict(first.state_dict())
    assert second.learned() == first.learned()


def test_the_weighed_loss_keeps_what_a_method_has_added() -> None:
    torch.manual_seed(0)
    classes = noted([12.0, 4.0], [16.0, 0.0], upper_rows=40, always=True)
    classes.settle()
    logits, labels = torch.randn(6, 2).double(), torch.tensor([0, 1, 0, 0, 1, 0])
    rows = functional.cross_entropy(logits, labels, reduction="none")
    weights = torch.tensor([0.625, 2.5]).double()[labels]
    expected = (weights * rows).sum() / weights.sum() + 7
    torch.testing.assert_close(classes.weighted(rows.mean() + 7, logits, labels), expected)


def test_the_rule_weighs_where_weights_have_helped() -> None:
    """Of the committed trial, in which all were weighed: emotion gained ten points, the stances lost seven to ten."""
    lines = [line for line in read_lines(ROOT / "benchmarks" / "results" / "study_classes.jsonl") if "job" in line]
    assert {line["setting"] for line in lines} == {"emotion", "irony", "stance_abortion", "stance_atheism"}
    for line in lines:
        found = line["learned"]["classes"]
        counts = {str(c): round(5 * rows) for c, rows in enumerate(found["rows"])}
        classes = ForgottenClasses(counts, share=0.5)
        classes.note(torch.tensor([found["rows"], found["answers"]]), upper_rows=round(sum(found["rows"])))
        # Optimism is the third of the emotions.
        assert classes.forgotten() == ([2] if line["setting"] == "emotion" else []), line["job"]


def rows(count: int = 40) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(3, 64, (count, 7), generator=generator)
    return [{"input_ids": ids, "labels": int(n % 4 == 0)} for n, ids in enumerate(tokens)]


def stack(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {key: torch.stack([torch.as_tensor(row[key]) for row in batch]) for key in batch[0]}


def trained(classes: str, *, count: int = 40, accumulation: int = 1, **more: Any) -> tuple[dict[str, Any], Tensor]:
    settings = SelfTunedSettings(rank=2, classes=classes, **more)  # type: ignore[arg-type]
    torch.manual_seed(3)
    model = VARIANTS["self_tuned"].adapt(tiny_bert(0.0), settings, task_type="SEQ_CLS", steps=8).double().train()
    lower = LevelSettings(batch_size=16 // accumulation, accumulation=accumulation)
    upper = LevelSettings(batch_size=16 // accumulation, accumulation=accumulation)
    run = FitSettings(steps=8, split_ratio=0.5, device="cpu", lower=lower, upper=upper)
    result = fit(model, rows(count), collate=stack, variant="self_tuned", variant_settings=settings, settings=run)
    return result.learned, torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def test_the_first_stage_is_the_same_and_the_second_weighs() -> None:
    (plain, before), (learned, after) = trained("as_given"), trained("always")
    assert "classes" not in plain
    found = learned.pop("classes")
    assert {**learned, "words": plain["words"]} == plain
    assert list(found["weights"].values()) == pytest.approx([40 / 60, 40 / 20])
    # Twenty rows of D2, which is drawn by class.
    assert list(found["rows"].values()) == pytest.approx([15.0, 5.0], abs=1.5)
    assert sum(found["answers"].values()) == pytest.approx(20.0)
    assert not torch.equal(before, after)


def test_whole_numbers_that_are_targets_of_a_regression_are_no_classes() -> None:
    settings = SelfTunedSettings(rank=2, classes="always")
    model = VARIANTS["self_tuned"].adapt(tiny_bert(0.0), settings, task_type="SEQ_CLS", steps=8)
    build: Any = VARIANTS["self_tuned"].companion
    assert build(model, settings, TrainingRows(9, class_counts=(6, 3))).classes is not None
    assert build(model, settings, TrainingRows(9, class_counts=(5, 3, 1))).classes is None
    assert build(model, settings, TrainingRows(9)).classes is None


def test_micro_batches_of_weighed_rows_are_one_batch() -> None:
    (one, whole), (two, parts) = (trained("always", count=32, accumulation=parts) for parts in (1, 2))
    assert one["classes"] == two["classes"]
    torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-12)
