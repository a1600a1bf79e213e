"""The self-tuned method: against plain torch, at its fixed point, with its controls, and what it takes by default."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from betty.configs import Config
from peft import PeftModel
from tiny_models import tiny_bert
from torch import Tensor, nn
from transformers import get_scheduler

from bilora import level_parameters
from bilora.adapter.layer import BiloraLinear
from bilora.data.loaders import make_loader
from bilora.data.split import split_rows
from bilora.engines.bilevel import BilevelEngine
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import fit
from bilora.errors import SettingsError
from bilora.problems import VARIANTS
from bilora.problems.variants.learned_decay import DecayedLower, DecayUpper
from bilora.problems.variants.self_tuned import SelfTunedSettings, SelfTuning
from bilora.problems.variants.weight_decays import WeightDecays

STEPS = 12
Rows = list[dict[str, Any]]


def rows(count: int = 48) -> Rows:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(3, 64, (count, 7), generator=generator)
    return [{"input_ids": ids, "attention_mask": torch.ones(7).long(), "labels": int(ids[0]) % 2} for ids in tokens]


def stack(batch: Rows) -> dict[str, Tensor]:
    return {key: torch.stack([torch.as_tensor(row[key]) for row in batch]) for key in batch[0]}


def adapted(settings: SelfTunedSettings) -> PeftModel:
    torch.manual_seed(3)
    model = VARIANTS["self_tuned"].adapt(tiny_bert(0.0), settings, task_type="SEQ_CLS", steps=STEPS)
    return model.double().train()  # type: ignore[no-any-return]


def trained(model: PeftModel, settings: SelfTunedSettings, **more: Any) -> dict[str, Any]:
    given = {"steps": STEPS, "split_ratio": 0.5, "device": "cpu", "lower": LevelSettings(batch_size=8), **more}
    data = given.pop("rows", rows())
    fit_settings = FitSettings(**given)
    return fit(
        model, data, collate=stack, variant="self_tuned", variant_settings=settings, settings=fit_settings
    ).learned


def endless(data: Rows, *, batch_size: int, seed: int) -> Iterator[dict[str, Tensor]]:
    loader = make_loader(data, batch_size=batch_size, seed=seed, collate=stack)
    while True:
        yield from loader


class ByHand:
    """The recipe in plain torch: a loop that learns decays, values and maybe a factor of the rate, and a retraining."""

    def __init__(self, model: PeftModel, *, learns_rate: bool) -> None:
        self.model, self.learns_rate = model, learns_rate
        trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.values = [weight for name, weight in trainable.items() if "bilora_E" in name]
        below = {name: weight for name, weight in trainable.items() if "bilora_E" not in name}
        self.below = list(below.values())
        self.heads = torch.tensor([float("bilora" not in name) for name in below])

    def optimizer(self, decays: list[float]) -> tuple[torch.optim.AdamW, Any]:
        groups = [
            {"params": [weight], "weight_decay": decays[int(head)]}
            for weight, head in zip(self.below, self.heads, strict=True)
        ]
        optimizer = torch.optim.AdamW(groups, lr=3e-3)
        return optimizer, get_scheduler("linear", optimizer, math.ceil(0.06 * STEPS), STEPS)

    def step(self, optimizer: torch.optim.AdamW, scheduler: Any, batch: dict[str, Tensor], *, factor: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] *= factor  # the scheduler sets it anew
        for weight, gradient in zip(self.below, torch.autograd.grad(self.model(**batch).loss, self.below), strict=True):
            weight.grad = gradient
        torch.nn.utils.clip_grad_norm_(self.below, 1.0)
        optimizer.step()
        scheduler.step()

    def learn(self, lower: Rows, upper: Rows) -> Tensor:
        """Return the mean of the logarithms of the two decays and of the factor over the last half."""
        optimizer, scheduler = self.optimizer([3.0, 3.0])
        rho = torch.tensor([math.log(3.0), math.log(3.0), 0.0], dtype=torch.float64)
        above, of_values = torch.optim.Adam([rho], lr=0.1), torch.optim.Adam(self.values, lr=0.01)
        below, over = endless(lower, batch_size=8, seed=0), endless(upper, batch_size=len(upper), seed=1)
        path = []
        for step in range(1, STEPS + 1):
            before = [weight.detach().clone() for weight in self.below]
            factor = rho[2].exp().item()
            rate = factor * optimizer.param_groups[0]["lr"]
            self.step(optimizer, scheduler, next(below), factor=factor)
            if step % 2:
                continue
            gradients = torch.autograd.grad(self.model(**next(over)).loss, [*self.below, *self.values])
            dots = torch.stack([(a * b).sum() for a, b in zip(before, gradients, strict=False)])
            both = torch.stack([(dots * (1 - self.heads)).sum(), (dots * self.heads).sum()])
            moved = sum((v * (w.detach() - b)).sum() for v, w, b in zip(gradients, self.below, before, strict=False))
            rho.grad = torch.cat([-rate * 2 * rho[:2].exp() * both, torch.stack([2 * moved * self.learns_rate])])
            for value, gradient in zip(self.values, gradients[len(self.below) :], strict=True):
                value.grad = gradient
            above.step()
            of_values.step()
            path.append(rho.detach().clone())
            for group, head in zip(optimizer.param_groups, self.heads, strict=True):
                group["weight_decay"] = rho[int(head)].exp().item()
        return torch.stack(path)[len(path) // 2 :].mean(0)


@pytest.mark.parametrize("rate", ["fixed", "learned"])
def test_both_stages_are_those_of_a_loop_in_plain_torch(rate: Any) -> None:
    settings = SelfTunedSettings(rank=4, rate=rate)
    model, other = adapted(settings), adapted(settings)
    learned = trained(model, settings)
    hand, data = ByHand(other, learns_rate=rate == "learned"), rows()
    start = {name: weight.detach().clone() for name, weight in other.named_parameters()}
    split = split_rows([row["labels"] for row in data], ratio=0.5, seed=0)
    answer = hand.learn([data[i] for i in split.lower], [data[i] for i in split.upper])
    assert learned["fallen_back"] == []
    assert list(learned["decays"]) == ["adapters", "head"]
    *decays, factor = answer.exp().tolist()
    assert list(learned["decays"].values()) == pytest.approx(decays, rel=1e-6)
    assert learned.get("rate_factor", 1.0) == pytest.approx(factor, rel=1e-6)
    assert (rate == "fixed") is (factor == 1.0)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if "bilora_E" not in name:
                weight.copy_(start[name])
    optimizer, scheduler = hand.optimizer(decays)
    batches = endless(data, batch_size=8, seed=0)
    for _ in range(STEPS):
        hand.step(optimizer, scheduler, next(batches), factor=factor)
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=name)
    assert max((weight - start[name]).abs().max() for name, weight in model.named_parameters()) > 1e-2


def test_it_starts_as_lora_does() -> None:
    """P = 0 and Q uniform within 1 / sqrt(in), as PEFT draws lora_A; every value one."""
    model = adapted(SelfTunedSettings(rank=4))
    for layer in [module for module in model.modules() if isinstance(module, BiloraLinear)]:
        P, Q = layer.singular_vectors("default")
        assert not P.any()
        assert 0.8 / math.sqrt(32) < Q.abs().max() <= 1 / math.sqrt(32)
        assert layer.singular_values("default").tolist() == [1.0] * 4


class Quadratic(nn.Module):
    """Two groups of parameters whose two losses have their minima at different places."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(5, generator=generator, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        curvatures, minimum = batch
        theta = torch.cat([self.weight, self.bias])
        return (curvatures * (theta - minimum).square()).sum() / 2


class QuadraticLower(DecayedLower):
    def training_step(self, batch: Any) -> Tensor:
        return self.module.loss(batch)  # type: ignore[no-any-return]


class QuadraticUpper(DecayUpper):
    def training_step(self, batch: Any) -> Tensor:
        return self.module.loss(batch)  # type: ignore[no-any-return]


def test_at_the_fixed_point_d2_is_stationary_along_the_scale() -> None:
    """<theta, grad L2> = 0 for each group, and so d L2(c theta) / dc = 0 at c = 1, where grad L2 itself is not."""
    model = Quadratic()
    minimum = torch.tensor([2.0, -1.5, 1.0, 0.5, -2.0, 1.0, 2.0, -1.0], dtype=torch.float64)
    noise = torch.tensor([-0.7, 0.6, -0.4, -0.1, 0.6, -0.5, -0.6, 0.4], dtype=torch.float64)
    curvatures = torch.linspace(0.5, 2.0, 8, dtype=torch.float64)
    above = (torch.ones_like(curvatures), minimum + noise)
    decays = WeightDecays(["weight", "bias"], start=0.1, cap=50.0).double()
    lower = QuadraticLower("lower", Config(unroll_steps=2), model)
    upper = QuadraticUpper("upper", Config(), model, extra_config=SelfTunedSettings())
    lower.companion = upper.companion = decays
    lower.optimizer = torch.optim.SGD(lower.optimizer_groups(), lr=0.1)
    upper.optimizer = torch.optim.SGD(upper.trainable_parameters(), lr=1.0)
    lower.train_data_loader, upper.train_data_loader = [(curvatures, minimum)], [above]
    BilevelEngine(lower, upper, steps=4000, hypergradient="first_order", device="cpu").run()
    for theta, decay in zip(model.parameters(), decays.values(), strict=True):
        (gradient,) = torch.autograd.grad(model.loss(above), theta)
        assert 0.01 < decay < 10
        assert gradient.norm() > 0.05
        assert abs(theta.detach() @ gradient) < 1e-6 * theta.norm() * gradient.norm()

    def scaled(c: float) -> float:
        with torch.no_grad():
            model.weight.mul_(c)
            loss = model.loss(above).item()
            model.weight.div_(c)
        return loss

    assert scaled(1 + 1e-3) - scaled(1) == pytest.approx(scaled(1 - 1e-3) - scaled(1), rel=1e-3)
    assert scaled(1 + 1e-3) > scaled(1)  # a minimum along the scale


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("kept", [[1.0, 2.0], [5.0, 8.0]]),
        ("layer_mean", [[1.5, 1.5], [6.5, 6.5]]),
        ("mean", [[4.0, 4.0], [4.0, 4.0]]),
        ("off", [[1.0, 2.0], [5.0, 8.0]]),
    ],
)
def test_what_becomes_of_the_values(values: Any, expected: list[list[float]]) -> None:
    settled = settle(SelfTunedSettings(rank=2, values=values, target_modules=["query"]))
    assert settled == expected


def test_shuffled_values_are_the_same_ones_in_another_order() -> None:
    settings = SelfTunedSettings(rank=2, values="shuffled", target_modules=["query"])
    settled = settle(settings)
    assert sorted(sum(settled, [])) == [1.0, 2.0, 5.0, 8.0]
    assert settled == settle(settings) != [[1.0, 2.0], [5.0, 8.0]]


def test_values_of_a_d2_that_is_too_small_are_those_of_the_start() -> None:
    assert settle(SelfTunedSettings(rank=2, target_modules=["query"]), upper_rows=15) == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize(("upper_rows", "factor"), [(15, 1.0), (16, 0.5)])
def test_the_rate_of_a_d2_that_is_too_small_is_that_of_the_start(upper_rows: int, factor: float) -> None:
    settings = SelfTunedSettings(rank=2, rate="learned")
    tuning = SelfTuning(model := adapted(settings), settings)
    rate = tuning.learned_rate
    assert rate is not None
    with torch.no_grad():
        rate.log_factor.fill_(math.log(0.5))
    rate.note()
    tuning.note(torch.ones(2), upper_rows=upper_rows)
    tuning.settle(model)
    assert rate.factor() == tuning.learned()["rate_factor"] == pytest.approx(factor)


def settle(settings: SelfTunedSettings, *, upper_rows: int = 16) -> list[list[float]]:
    model = adapted(settings)
    tuning, values = SelfTuning(model, settings), list(level_parameters(model).upper.values())
    with torch.no_grad():
        for value, numbers in zip(values, [[1.0, 2.0], [5.0, 8.0]], strict=True):
            value.copy_(torch.tensor(numbers))
    tuning.note(torch.ones(2), upper_rows=upper_rows)
    tuning.settle(model)
    return [value.tolist() for value in values]


@pytest.mark.parametrize(("groups", "count"), [("one", 1), ("two", 2), ("layer", 5), ("tensor", 10)])
def test_groups_of_decays(groups: Any, count: int) -> None:
    """Query and value of two layers have P and Q each, the head weight and bias."""
    settings = SelfTunedSettings(rank=2, groups=groups)
    tuning = SelfTuning(adapted(settings), settings)
    assert tuning.log_decay.shape == (count,)
    assert sorted(sum(tuning.members.values(), [])) == list(range(10))


def test_values_that_are_off_stay_at_one() -> None:
    settings = SelfTunedSettings(rank=2, values="off")
    model = adapted(settings)
    learned = trained(model, settings)
    assert all(torch.equal(value, torch.ones_like(value)) for value in level_parameters(model).upper.values())
    assert "layers" not in learned


def test_defaults_of_its_own_where_the_user_gives_none() -> None:
    variant = VARIANTS["self_tuned"]
    open_settings = FitSettings().of_variant(variant)
    assert (open_settings.unroll_steps, open_settings.hypergradient) == (2, "first_order")
    above = open_settings.upper
    assert (above.schedule, above.warmup, above.batch_size, above.gradient_clipping) == ("constant", 0.0, 32, 0.0)
    assert open_settings.lower == FitSettings().lower
    given = FitSettings(unroll_steps=4, hypergradient="darts", upper=LevelSettings(schedule="linear", batch_size=4))
    kept = given.of_variant(variant)
    assert (kept.unroll_steps, kept.hypergradient, kept.upper.schedule) == (4, given.hypergradient, "linear")
    assert (kept.upper.batch_size, kept.upper.warmup) == (4, 0.0)


def test_a_d2_that_is_smaller_than_a_batch_is_the_batch() -> None:
    settings = SelfTunedSettings(rank=2)
    learned = trained(adapted(settings), settings, rows=rows(24), ending="keep")
    assert learned["words"].startswith("adapters: decay 3, head: decay 3; as at the start, since D2 has fewer than 16")


def test_an_adapter_that_it_cannot_train() -> None:
    torch.manual_seed(0)
    bilora = VARIANTS["bilora"]
    model = bilora.adapt(tiny_bert(0.0), bilora.settings(rank=2), task_type="SEQ_CLS", steps=1)
    with pytest.raises(SettingsError, match=r"BiloraConfig\(init_weights='lora'\), .*variant='bilora'"):
        trained(model, SelfTunedSettings())


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"decay_start": 0.0}, "decay_start is 0.0 and decay_cap 20.0; they must be positive"),
        ({"decay_start": 1e-4}, "decay_start is 0.0001, it must be at least 0.001"),
        ({"decay_learning_rate": -1.0}, "decay_learning_rate is -1.0, it must not be negative"),
        ({"values_learning_rate": math.nan}, "values_learning_rate is nan"),
        ({"average": 1.5}, "average is 1.5, it is a share of the stage"),
        ({"rate": "lerned"}, "rate is 'lerned', allowed: learned, fixed"),
        ({"values": "kpet"}, "values is 'kpet', allowed: kept, layer_mean, mean, shuffled, off"),
    ],
)
def test_settings_refuse(bad: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        SelfTunedSettings(**bad)
