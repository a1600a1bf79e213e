"""What is learned in the lower loss: hypergradients on a logistic regression against a plain unrolled loop."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from betty.configs import Config
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from bilora.data.row_marks import TrainingRows
from bilora.engines.bilevel import BilevelEngine
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import fit
from bilora.engines.training.result import FitResult
from bilora.errors import SettingsError
from bilora.problems import VARIANTS
from bilora.problems.variants.learned_rows import LearnedRowsSettings, RowWeights
from bilora.problems.variants.shaped_loss import LossShape, ShapedLower, ShapedUpper, ShapeSettings

CLASSES, FEATURES, ROWS, SOURCES, RATE = 3, 4, 18, 3, 0.3
SHAPED = ("learned_noise", "learned_sources", "learned_classes", "learned_rows", "learned_loss")
TRAINING_ROWS = TrainingRows(ROWS, (6,) * CLASSES, ("a", "b", "c"))
Batch = dict[str, Tensor]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(seed: int, rows: Tensor) -> Batch:
    labels = torch.randint(CLASSES, (len(rows),), generator=torch.Generator().manual_seed(seed))
    return {
        "features": draw(len(rows), FEATURES, seed=seed),
        "labels": labels,
        "row_ids": rows,
        "sources": rows % SOURCES,
    }


LOWER = [batch(seed, torch.arange(6) + 6 * seed) for seed in range(3)]
UPPER = [batch(9, torch.tensor([1, 4, 6, 7, 12]))]


class Regression(nn.Module):
    """A logistic regression with the loss of transformers' models."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(draw(CLASSES, FEATURES, seed=11))

    def forward(self, features: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
        logits = features @ self.weight.T
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


# By hand and row by row, from the papers: nothing of the library.
def noise(p: Tensor, row: int, one: Batch, raw: Tensor) -> Tensor:
    T = raw.exp() / raw.exp().sum(1, keepdim=True)
    return -torch.log((p @ T)[one["labels"][row]])


def sources(p: Tensor, row: int, one: Batch, raw: Tensor) -> Tensor:
    weights = raw.exp() * SOURCES / raw.exp().sum()
    return -weights[one["sources"][row]] * torch.log(p[one["labels"][row]])


def classes(p: Tensor, row: int, one: Batch, raw: Tensor) -> Tensor:
    shifted = p * raw.exp()
    return -torch.log(shifted[one["labels"][row]] / shifted.sum())


def rows(p: Tensor, row: int, one: Batch, raw: Tensor) -> Tensor:
    return -2 / (1 + torch.exp(-raw[one["row_ids"][row]])) * torch.log(p[one["labels"][row]])


def loss(p: Tensor, row: int, one: Batch, raw: Tensor) -> Tensor:
    smoothing, q = 1 / (1 + torch.exp(-raw))
    target = torch.full((CLASSES,), 1 / CLASSES, dtype=torch.float64) * smoothing
    target = target + (1 - smoothing) * torch.eye(CLASSES, dtype=torch.float64)[one["labels"][row]]
    return (target * (1 - p**q) / q).sum()


BY_HAND: dict[str, Callable[..., Tensor]] = dict(zip(SHAPED, (noise, sources, classes, rows, loss), strict=True))


def chances(weight: Tensor, one: Batch) -> Tensor:
    scores = (one["features"] @ weight.T).exp()
    return scores / scores.sum(1, keepdim=True)


def lower_loss(name: str, weight: Tensor, one: Batch, raw: Tensor) -> Tensor:
    p = chances(weight, one)
    return torch.stack([BY_HAND[name](p[row], row, one, raw) for row in range(len(p))]).mean()


def upper_loss(name: str, weight: Tensor, raw: Tensor) -> Tensor:
    """The cross entropy; with the classes alike for the shifts of classes, and with the shrinkage for rows."""
    [one] = UPPER
    labels = one["labels"]
    losses = -torch.log(chances(weight, one)[torch.arange(len(labels)), labels])
    if name == "learned_classes":
        return torch.stack([losses[labels == c].mean() for c in labels.unique()]).mean()
    return losses.mean() + (0.01 * raw.square().mean() if name == "learned_rows" else 0.0)


def steps_by_hand(name: str, raw: Tensor, optimizer: str, weight: Tensor) -> Iterator[Tensor]:
    """Yield the weights after each differentiable step of SGD, or AdamW with a decay of 0.1."""
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, one in enumerate(LOWER, start=1):
        (gradient,) = torch.autograd.grad(lower_loss(name, weight, one, raw), weight, create_graph=True)
        if optimizer == "SGD":
            weight = weight - RATE * gradient
        else:
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
            corrected = first / (1 - 0.9**step), second / (1 - 0.999**step)
            weight = (1 - RATE * 0.1) * weight - RATE * corrected[0] / (corrected[1].sqrt() + 1e-8)
        yield weight


def raw_numbers(name: str) -> Tensor:
    shape = {"learned_noise": (CLASSES, CLASSES), "learned_loss": (2,), "learned_rows": (ROWS,)}.get(name, (CLASSES,))
    return 0.7 * draw(*shape, seed=21)


def shape(name: str) -> LossShape:
    build = VARIANTS[name].companion
    assert build is not None
    made = build(Regression(), VARIANTS[name].settings(), TRAINING_ROWS)
    assert isinstance(made, LossShape)
    return made.double()


def hypergradient(name: str, chosen: Any, optimizer: str, *, unroll: int) -> tuple[Tensor, Tensor]:
    """Return the gradient that the upper level takes after so many lower steps, and the weights by then."""
    variant, model, seen = VARIANTS[name], Regression(), list[Tensor]()
    assert variant.upper is not None

    class Keeping(variant.upper):  # type: ignore[name-defined, misc]
        def take_step(self) -> None:
            seen.append(self.companion.raw.grad.clone())
            super().take_step()

    settings = variant.settings()
    lower = variant.lower("lower", Config(unroll_steps=unroll), model, extra_config=settings)
    upper = Keeping("upper", Config(), model, extra_config=settings)
    lower.companion = upper.companion = numbers = shape(name)
    with torch.no_grad():
        numbers.raw.copy_(raw_numbers(name))
    more = {} if optimizer == "SGD" else {"weight_decay": 0.1}
    lower.optimizer = getattr(torch.optim, optimizer)(lower.optimizer_groups(), lr=RATE, **more)
    upper.optimizer = torch.optim.SGD(upper.trainable_parameters(), lr=0.0)
    lower.train_data_loader, upper.train_data_loader = LOWER, UPPER
    BilevelEngine(lower, upper, steps=unroll, hypergradient=chosen, device="cpu").run()
    [gradient] = seen
    return gradient, model.weight.detach()


@pytest.mark.parametrize(("optimizer", "unroll"), [("SGD", 1), ("SGD", 3), ("AdamW", 3)])
@pytest.mark.parametrize("name", SHAPED)
def test_unrolled_is_the_derivative_through_a_plain_loop(name: str, optimizer: str, unroll: int) -> None:
    chosen = {"name": "unrolled", "steps": unroll, "products": "exact"}
    ours, weight = hypergradient(name, chosen, optimizer, unroll=unroll)
    raw = raw_numbers(name).requires_grad_()
    start = Regression().weight.detach().requires_grad_()
    *_, last = list(steps_by_hand(name, raw, optimizer, start))[:unroll]
    torch.testing.assert_close(weight, last.detach(), rtol=1e-10, atol=1e-12)
    (expected,) = torch.autograd.grad(upper_loss(name, last, raw), raw)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(
    ("chosen", "tolerance"),
    [({"products": "exact"}, 1e-9), ({"finite_difference": "central"}, 1e-4), ({"finite_difference": "forward"}, 2e-2)],
)
@pytest.mark.parametrize("name", SHAPED)
def test_darts_is_the_derivative_through_one_step(name: str, chosen: dict[str, Any], tolerance: float) -> None:
    ours, _ = hypergradient(name, {"name": "darts", **chosen}, "SGD", unroll=1)
    raw = raw_numbers(name).requires_grad_()
    one_step = next(steps_by_hand(name, raw, "SGD", Regression().weight))
    (expected,) = torch.autograd.grad(upper_loss(name, one_step, raw), raw)
    assert (ours - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("name", SHAPED)
def test_first_order_sees_the_shrinkage_alone(name: str) -> None:
    ours, _ = hypergradient(name, "first_order", "SGD", unroll=1)
    raw = raw_numbers(name)
    shrinkage = 2 * 0.01 * raw / ROWS if name == "learned_rows" else torch.zeros_like(raw)
    torch.testing.assert_close(ours, shrinkage, rtol=1e-12, atol=0)


def test_the_gradient_of_noise_in_closed_form() -> None:
    """For one row of class y: d loss / dR[c, y] = p_c T_cy (T_cy - 1) / q_y, and p_c T_cy T_cg / q_y elsewhere."""
    [one] = UPPER
    row = {name: value[:1] for name, value in one.items()}
    numbers = shape("learned_noise")
    with torch.no_grad():
        numbers.raw.copy_(raw_numbers("learned_noise"))
    logits = draw(1, CLASSES, seed=5)
    numbers.row_losses(logits, row).sum().backward()
    p, T, y = logits.softmax(-1)[0], numbers.raw.detach().softmax(-1), int(row["labels"])
    expected = (p * T[:, y])[:, None] * T / (p @ T)[y]
    expected[:, y] -= p * T[:, y] / (p @ T)[y]
    torch.testing.assert_close(numbers.raw.grad, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["learned_sources", "learned_classes", "learned_rows"])
def test_at_the_start_the_loss_is_the_plain_one(name: str) -> None:
    one, logits = LOWER[0], draw(6, CLASSES, seed=3)
    plain = nn.functional.cross_entropy(logits, one["labels"], reduction="none")
    torch.testing.assert_close(shape(name).row_losses(logits, one).detach(), plain, rtol=1e-12, atol=0)


def test_at_the_start_nine_tenths_of_the_labels_are_right() -> None:
    T = shape("learned_noise").start.softmax(-1)
    expected = torch.full((CLASSES, CLASSES), 0.05).double().fill_diagonal_(0.9)
    torch.testing.assert_close(T, expected, rtol=1e-6, atol=0)


def test_a_sure_and_wrong_answer_keeps_its_digits() -> None:
    """Where p_y is too small for float32, the loss is bounded by -log T, and its gradient is finite."""
    numbers = shape("learned_noise").float()
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    (value,) = numbers.row_losses(logits, {"labels": torch.tensor([1])})
    assert value.item() == pytest.approx(-math.log(0.05), rel=1e-5)
    value.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_the_answer_is_the_mean_of_the_second_half_within_reach() -> None:
    numbers = shape("learned_classes")
    assert torch.equal(numbers.answer(), torch.zeros(CLASSES).double())
    for step in range(1, 5):
        with torch.no_grad():
            numbers.raw.fill_(float(step))
            numbers.raw[0] = 99.0
        numbers.note(upper_rows=16)
    assert numbers.answer().tolist() == [4.0, 3.5, 3.5]
    again = shape("learned_classes")
    again.load_state_dict(numbers.state_dict())
    assert again.learned() == numbers.learned()
    numbers.settle(Regression())
    assert numbers.raw.tolist() == [4.0, 3.5, 3.5]


def test_nothing_is_learned_of_a_few_rows() -> None:
    numbers = shape("learned_noise")
    with torch.no_grad():
        numbers.raw.fill_(0.0)
    numbers.note(upper_rows=15)
    assert torch.equal(numbers.answer(), numbers.start)
    assert str(numbers.learned()["words"]).endswith("; as at the start, since D2 has fewer than 16 rows")


def learned(name: str, answer: list[Any]) -> dict[str, Any]:
    numbers = shape(name)
    with torch.no_grad():
        numbers.raw.copy_(torch.tensor(answer))
    numbers.note(upper_rows=16)
    return numbers.learned()


def test_what_is_told() -> None:
    """By the names of classes and sources; rows in their order."""
    T = [[0.8, 0.1, 0.1], [0.25, 0.5, 0.25], [0.0625, 0.0625, 0.875]]
    found = learned("learned_noise", torch.tensor(T).log().tolist())
    assert found["noise"]["1"] == pytest.approx({"0": 0.25, "1": 0.5, "2": 0.25})
    assert found["words"].startswith("share of right labels by class: 1 50% (25% are labelled 0), 0 80% (10% are ")
    found = learned("learned_sources", [0.0, math.log(2), 0.0])
    assert found["sources"] == pytest.approx({"a": 0.75, "b": 1.5, "c": 0.75})
    assert found["words"].startswith("weight by source: b 1.50, ")
    found = learned("learned_classes", [1.0, 2.0, 0.0])
    assert found["shifts"] == pytest.approx({"0": 0.0, "1": 1.0, "2": -1.0})
    assert found["words"] == "logit shift by class, the most favoured first: 2 -1.00, 0 +0.00, 1 +1.00"
    found = learned("learned_rows", [math.log(3)] + [0.0] * 17)
    assert found["row_weights"] == pytest.approx([1.5] + [1.0] * 17)
    found = learned("learned_loss", [math.log(0.25), 0.0])
    assert (found["smoothing"], found["exponent"]) == pytest.approx((0.2, 0.5))
    assert found["words"] == "label smoothing 0.2, exponent of the generalized cross entropy 0.5"


def found(name: str, data: list[dict[str, Any]], trusted: list[dict[str, Any]], **settings: Any) -> FitResult:
    """Learn on the trusted rows, by the road that every run takes."""
    usual = {"steps": 160, "lower": LevelSettings(learning_rate=0.1, batch_size=20), "unroll_steps": 2}
    return fit(
        Regression(),  # type: ignore[arg-type]  # any module will do
        data,
        upper_rows=trusted,
        collate=lambda some: {
            key: torch.stack([torch.as_tensor(row[key]) for row in some]) for key in ("features", "labels")
        },
        variant=name,
        settings=FitSettings(**{**usual, "ending": "keep", "device": "cpu", **settings}),
    )


def drawn_rows(count: int, *, seed: int, wrong: Callable[[int, int], bool], apart: float = 3.0) -> list[dict[str, Any]]:
    """Three classes so far apart; where ``wrong(row, class)`` the label is that of the next class."""
    directions = apart * torch.eye(CLASSES, FEATURES, dtype=torch.float64)
    features = draw(count, FEATURES, seed=seed)
    of_class = [row % CLASSES for row in range(count)]
    labels = [(c + wrong(row, c)) % CLASSES for row, c in enumerate(of_class)]
    sites = ["ab"[row // CLASSES % 2] for row in range(count)]
    return [
        {"features": features[row] + directions[of_class[row]], "labels": labels[row], "source": sites[row]}
        for row in range(count)
    ]


TRUSTED = drawn_rows(60, seed=1, wrong=lambda row, c: False)


def test_the_noise_of_a_class_is_found() -> None:
    """Four in ten rows of the first class have the label of the second; the lower level has fitted that before."""
    data = drawn_rows(600, seed=2, wrong=lambda row, c: c == 0 and row // CLASSES % 10 < 4, apart=1.5)
    checked = drawn_rows(90, seed=1, wrong=lambda row, c: False, apart=1.5)
    below = LevelSettings(learning_rate=0.2, batch_size=200, schedule="constant")
    above = LevelSettings(batch_size=90)
    result = found("learned_noise", data, checked, steps=200, warmup_steps=80, lower=below, upper=above)
    [[_, T01, T02], [T10, _, T12], [T20, T21, _]] = [list(row.values()) for row in result.learned["noise"].values()]
    assert 0.15 < T01 < 0.45
    assert max(T02, T10, T12, T20, T21) < 0.08


def test_a_source_of_wrong_labels_loses_its_weight() -> None:
    data = drawn_rows(600, seed=2, wrong=lambda row, c: row // CLASSES % 2 == 1 and row % 7 < 4)
    weights = found("learned_sources", data, TRUSTED).learned["sources"]
    assert weights["b"] < 0.5 < 1.5 < weights["a"]


def test_rows_with_wrong_labels_weigh_less() -> None:
    """Those that are flipped, on the mean; the rows of D2 come last and are never in D1."""
    data = drawn_rows(300, seed=2, wrong=lambda row, c: row // CLASSES % 5 == 0)
    weights = torch.tensor(found("learned_rows", data, TRUSTED).learned["row_weights"])
    assert weights.shape == (360,)
    flipped = torch.tensor([row // CLASSES % 5 == 0 for row in range(300)])
    assert weights[:300][flipped].mean() < weights[:300][~flipped].mean() - 0.1
    assert weights[300:].tolist() == [1.0] * 60


def test_labels_of_a_d2_that_is_given_are_right() -> None:
    """In the last stage, which trains on them too: their loss is the plain one."""
    rows = TrainingRows(ROWS, (6,) * CLASSES, first_upper=3)
    build = VARIANTS["learned_noise"].companion
    assert build is not None
    numbers: Any = build(Regression(), VARIANTS["learned_noise"].settings(), rows)
    one, logits = LOWER[0], draw(6, CLASSES, seed=3)
    losses = numbers.row_losses(logits, one)
    plain = nn.functional.cross_entropy(logits, one["labels"], reduction="none")
    assert torch.equal(losses[3:], plain[3:])
    assert not torch.isclose(losses[:3], plain[:3]).any()


@pytest.mark.parametrize(
    ("sources", "match"),
    [([None] * 60, "training rows are without a 'source'; say of every row"), (["a"] * 60, "rows are all from 'a'")],
)
def test_fewer_than_two_sources(sources: list[str | None], match: str) -> None:
    rows = [{**row, "source": source} for row, source in zip(TRUSTED, sources, strict=True)]
    with pytest.raises(SettingsError, match=f"method 'learned_sources' learns a weight for each source.*{match}"):
        found("learned_sources", rows, rows)


def test_a_table_with_too_many_rows() -> None:
    with pytest.raises(SettingsError, match="20,001 training rows are more than 20,000; set train_rows"):
        RowWeights(20_001, LearnedRowsSettings())


@pytest.mark.parametrize(
    ("name", "bad", "match"),
    [
        ("learned_classes", {"raw_learning_rate": -1.0}, "raw_learning_rate is -1.0, it must not be negative"),
        ("learned_classes", {"reach": 0.0}, "reach is 0.0, it must be positive"),
        ("learned_sources", {"average": 1.5}, "average is 1.5, it is a share of the stage"),
        ("learned_noise", {"right_at_start": 0.4}, r"right_at_start is 0.4, it must be in \[0.5, 1\)"),
        ("learned_rows", {"shrinkage": -0.1}, "shrinkage is -0.1, it must not be negative"),
        ("learned_loss", {"smoothing_at_start": 0.0, "rank": 0}, "rank is 0, .*; smoothing_at_start is 0.0"),
        ("learned_loss", {"exponent_at_start": math.nan}, "exponent_at_start is nan, it must be above 0 and below 1"),
    ],
)
def test_settings_refuse(name: str, bad: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        VARIANTS[name].settings(**bad)


def test_a_level_without_its_companion() -> None:
    for level in (ShapedLower("lower", Config(), Regression()), ShapedUpper("upper", Config(), Regression())):
        with pytest.raises(SettingsError, match=f"level '{level.name}' learns the shape of a loss; set its companion"):
            level.training_step(LOWER[0]) if level.name == "lower" else level.level_parameters()
    assert ShapeSettings().rank == 8
