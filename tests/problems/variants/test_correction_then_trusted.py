"""The corrected loss and the transition matrix against closed forms, and the stages that they are used in."""

from typing import Any

import pytest
import torch
from tiny_models import tiny_bert
from torch.nn import functional

from bilora.data.row_marks import TrainingRows
from bilora.engines.callbacks.callback import Callback
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import FitResult, fit
from bilora.engines.training.stages import run_stages
from bilora.errors import SettingsError
from bilora.problems import VARIANTS
from bilora.problems.variants.correction_then_trusted import KEPT, SMALLEST, Correction, companion
from bilora.problems.variants.learned_noise import corrected_losses
from bilora.problems.variants.self_tuned import SelfTunedSettings

ROADS = ("noisy_then_trusted", "correction_then_trusted")
SETTINGS = SelfTunedSettings(rank=2)


def adapted(road: str = "correction_then_trusted") -> Any:
    torch.manual_seed(0)
    base: Any = tiny_bert(0.0)
    return VARIANTS[road].adapt(base, SETTINGS, task_type="SEQ_CLS", steps=8)


def test_the_corrected_loss_is_that_of_the_mixed_probabilities() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    matrix = torch.rand(3, 3).softmax(-1)
    expected = -(logits.softmax(-1) @ matrix)[torch.arange(6), labels].log()
    torch.testing.assert_close(corrected_losses(logits, labels, matrix.clamp_min(SMALLEST).log()), expected)
    plain = functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(
        corrected_losses(logits, labels, torch.eye(3).clamp_min(SMALLEST).log()), plain, rtol=1e-4, atol=1e-5
    )


def test_the_matrix_is_the_mean_of_what_is_said_of_each_class() -> None:
    correction = Correction(adapted(), SETTINGS, 3)
    early, late = torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[0.2, 0.7, 0.1], [0.1, 0.1, 0.8]])
    correction.see(*correction.summed(early, torch.tensor([0])))
    correction.see(*correction.summed(late, torch.tensor([0, 2])))
    first = (KEPT * early[0] + late[0]) / (KEPT + 1)
    # No row of class 1 was seen.
    torch.testing.assert_close(correction.estimate(), torch.stack([first, torch.tensor([0.0, 1.0, 0.0]), late[1]]))
    assert torch.equal(correction.matrix, torch.eye(3))
    model = adapted()
    correction.settle(model)
    torch.testing.assert_close(correction.matrix, correction.estimate())
    assert correction.learned()["transition_matrix"][1] == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(("size", "accumulation"), [(12, 1), (6, 2)])
def test_every_row_of_an_upper_step_is_seen(size: int, accumulation: int) -> None:
    upper = LevelSettings(batch_size=size, accumulation=accumulation)
    seen: list[float] = []

    class Watch(Callback):
        must_work = True

        def on_step(self, engine: Any, record: Any) -> None:
            if record.upper is not None:
                seen.append(float(engine.upper_level.companion.counts.sum()))

    fitted("correction_then_trusted", callbacks=[Watch()], batches=upper)
    assert seen == pytest.approx([12 * sum(KEPT**step for step in range(steps)) for steps in (1, 2, 3, 4)])


def fitted(
    road: str, upper: int = 12, *, batches: LevelSettings | None = None, callbacks: Any = ()
) -> tuple[Any, FitResult]:
    rows = [{"input_ids": [1 + index % 50, 2, 3], "labels": index % 2} for index in range(40)]
    lower = LevelSettings(batch_size=4, learning_rate=0.01)
    batches = batches or LevelSettings(batch_size=16)
    settings = FitSettings(steps=8, unroll_steps=2, lower=lower, upper=batches, device="cpu")
    model = adapted(road)
    collate = lambda rows: {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}  # noqa: E731
    given = {"variant": road, "variant_settings": SETTINGS, "settings": settings, "callbacks": callbacks}
    return model, fit(model, rows, upper_rows=rows[:upper], collate=collate, **given)


@pytest.mark.parametrize("road", ROADS)
def test_the_stages_and_what_they_train(road: str) -> None:
    """With fewer trusted rows than a batch of the upper level."""
    model, result = fitted(road)
    assert [(stage.name, stage.steps) for stage in result.stages] == [("bilevel", 8), ("doubtful", 8), ("trusted", 2)]
    assert result.upper_steps == 4
    again, _ = fitted(road)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_corrected_road_has_learned_a_matrix() -> None:
    matrix = torch.tensor(fitted("correction_then_trusted")[1].learned["transition_matrix"])
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2))
    assert 0 < matrix.min() < matrix.max() < 1


def test_the_last_stage_reads_trusted_rows_only_at_half_the_rate() -> None:
    last = run_stages(VARIANTS["noisy_then_trusted"], SETTINGS, FitSettings())[-1]
    assert (last.rows, last.rate, last.share, last.fresh) == ("upper", 0.5, 0.25, False)


def test_rows_without_one_class_each_are_refused() -> None:
    with pytest.raises(SettingsError, match="corrects labels of rows that have one class each, and these have not"):
        companion(adapted(), SETTINGS, TrainingRows(10))


def test_weights_of_classes_are_refused() -> None:
    settings = SelfTunedSettings(rank=2, classes="measured")
    model = VARIANTS["correction_then_trusted"].adapt(tiny_bert(0.0), settings, task_type="SEQ_CLS", steps=8)
    with pytest.raises(SettingsError, match="classes is 'measured', and the corrected loss .* weighs no classes"):
        companion(model, settings, TrainingRows(9, class_counts=(6, 3)))
