"""Whatever a level trains and the answer depends on is in the adapter, or the run does not begin."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_runs import ROWS, collate, tiny_base
from torch import Tensor, nn

from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training import staged_run
from bilora.engines.training.fit import fit
from bilora.errors import SettingsError
from bilora.problems import AdapterSettings, Companion, LowerProblem, UpperProblem, Variant
from bilora.problems.variants import lora

Fit = Callable[..., Any]


class Scales(Companion):
    """Two numbers; what they do is for the levels to say."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def learned(self) -> dict[str, Any]:
        return {"scale": self.scale.tolist()}


def plain(model: nn.Module, settings: Any, rows: Any) -> Scales:
    return Scales()


def hooked(model: nn.Module, settings: Any, rows: Any) -> Scales:
    """Return scales that the model's own logits are multiplied by."""
    scales = Scales()
    heads = [module for name, module in model.named_modules() if name.endswith("modules_to_save.default")]
    assert heads
    for head in heads:
        head.register_forward_hook(lambda *call: call[-1] * scales.scale)
    return scales


class Upper(UpperProblem):
    """The scales on D2; they do nothing there."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        assert isinstance(self.companion, Scales)
        return {"scale": self.companion.scale}


def scaled_loss(level: Any, batch: Any) -> Tensor:
    logits = level.forward(**batch).logits * level.companion.scale
    return nn.functional.cross_entropy(logits, batch["labels"])


class ScalingLower(LowerProblem):
    def training_step(self, batch: Any) -> Any:
        return scaled_loss(self, batch)


class ScalingUpper(Upper):
    def training_step(self, batch: Any) -> Any:
        return scaled_loss(self, batch)


class LoggingUpper(ScalingUpper):
    """One that returns its loss for the log as well, without a graph."""

    def training_step(self, batch: Any) -> Any:
        loss = scaled_loss(self, batch)
        return {"loss": loss, "task_loss": loss.detach()}


class WeighingLower(LowerProblem):
    """Weighs the rows of each class in its loss alone: a setting of the training, which the answer knows nothing of."""

    def training_step(self, batch: Any) -> Any:
        losses = nn.functional.cross_entropy(self.forward(**batch).logits, batch["labels"], reduction="none")
        assert isinstance(self.companion, Scales)
        return (losses * self.companion.scale[batch["labels"]]).mean()


class PenalisedUpper(Upper):
    def penalty(self) -> Tensor | None:
        assert isinstance(self.companion, Scales)
        return self.companion.scale.square().sum()


def with_norms(model: Any, settings: Any, **more: Any) -> Any:
    """Return the model with LoRA, and with its norms trained as well."""
    adapted = lora.adapt(model, settings, **more)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or "LayerNorm" in name)
    return adapted


LOST: dict[str, tuple[Variant, str]] = {
    "a hook": (Variant("v", LowerProblem, Upper, AdapterSettings, lora.adapt, companion=hooked), "trains 'scale',"),
    "the loss of both levels": (
        Variant("v", ScalingLower, ScalingUpper, AdapterSettings, lora.adapt, companion=plain),
        "trains 'scale',",
    ),
    "a task loss without a graph": (
        Variant("v", ScalingLower, LoggingUpper, AdapterSettings, lora.adapt, companion=plain),
        "trains 'scale',",
    ),
    "the model itself": (
        Variant("v", LowerProblem, None, AdapterSettings, with_norms),
        "LayerNorm.* and [0-9]+ more parameters,",
    ),
}
SETTINGS: dict[str, Variant] = {
    "weights of classes below": Variant("v", WeighingLower, Upper, AdapterSettings, lora.adapt, companion=plain),
    "a penalty above": Variant("v", WeighingLower, PenalisedUpper, AdapterSettings, lora.adapt, companion=plain),
}


def trained(variant: Variant, *, steps: int = 2) -> Any:
    adapter = AdapterSettings(rank=2)
    model = variant.adapt(tiny_base(), adapter, task_type="SEQ_CLS", steps=steps)
    level = LevelSettings(batch_size=8, learning_rate=0.01)
    settings = FitSettings(steps=steps, unroll_steps=1, lower=level, upper=level, device="cpu")
    return fit(model, ROWS, collate=collate, variant=variant, variant_settings=adapter, settings=settings)


@pytest.mark.parametrize("where", LOST)
def test_what_the_adapter_would_not_hold_is_refused_before_the_first_step(where: str, monkeypatch: Any) -> None:
    variant, told = LOST[where]
    monkeypatch.setattr(staged_run.BilevelEngine, "run", lambda engine: pytest.fail("it was trained"))
    with pytest.raises(SettingsError, match=f"^method 'v' trains .*{told.removeprefix('trains ')}.* does not hold it"):
        trained(variant)


@pytest.mark.parametrize("where", SETTINGS)
def test_what_the_answer_knows_nothing_of_may_be_learned(where: str) -> None:
    assert trained(SETTINGS[where]).learned["scale"] != [1.0, 1.0]


@pytest.mark.parametrize("method", ["learned_decay", "learned_decay_bilora"])
def test_the_look_changes_nothing(method: str, fit_adapter: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = fit_adapter(method).parameters()
    monkeypatch.setattr(staged_run, "check_kept", lambda *engine, **method: None)
    for name, value in fit_adapter(method).parameters().items():
        assert torch.equal(value, looked[name])
