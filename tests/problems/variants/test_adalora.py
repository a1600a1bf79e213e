"""PEFT's AdaLoRA through our road: its reallocation, its regularizer, its pruned ranks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from betty.configs import Config
from peft import PeftModel
from torch import Tensor

from bilora.errors import SettingsError
from bilora.problems.variants.adalora import IMPORTANCE, Adalora, AdaloraSettings

Adapted = Callable[..., PeftModel]
Batches = list[dict[str, Tensor]]
Train = Callable[[Any, int], None]
STEPS = 20
# A weight that is not PEFT's default.
SETTINGS = AdaloraSettings(rank=2, initial_rank=4, orthogonality=0.3, target_modules=["query", "value"])
LAYERS = 4  # query and value of two blocks


def make(adapted: Adapted, batches: Batches, *, steps: int = STEPS, **config: Any) -> Adalora:
    model = adapted("adalora", settings=SETTINGS, steps=steps)
    level = Adalora("lower", Config(**config), model, train_data_loader=batches)
    level.optimizer = torch.optim.AdamW(level.trainable_parameters(), lr=1e-2)
    return level


def living(model: PeftModel) -> int:
    """The number of pseudo singular values that are not pruned to zero."""
    return sum(int((values != 0).sum()) for name, values in model.named_parameters() if "lora_E" in name)


@pytest.mark.parametrize("gas", [1, 3])
def test_reallocates_once_an_optimizer_step_while_gradients_are_there(
    adapted: Adapted, bert_batches: Batches, train: Train, monkeypatch: pytest.MonkeyPatch, gas: int
) -> None:
    level = make(adapted, bert_batches, gradient_accumulation=gas)
    calls: list[int] = []
    original = level.module.base_model.update_and_allocate

    def noted(step: int) -> None:
        assert all(parameter.grad is not None for parameter in level.trainable_parameters())
        calls.append(step)
        original(step)

    monkeypatch.setattr(level.module.base_model, "update_and_allocate", noted)
    train(level, 7 * gas)
    assert calls == [1, 2, 3, 4, 5, 6, 7]


def test_ranks_are_pruned_to_the_target(adapted: Adapted, bert_batches: Batches, train: Train) -> None:
    """All of the starting ranks live through the warm-up; at the end the average rank is the target."""
    level = make(adapted, bert_batches)
    train(level, 2)
    assert living(level.module) == LAYERS * 4
    train(level, STEPS - 2)
    assert living(level.module) == LAYERS * 2
    pattern = level.module.peft_config["default"].rank_pattern
    assert sum(sum(kept) for kept in pattern.values()) == LAYERS * 2


def test_schedule_is_laid_over_the_steps(adapted: Adapted) -> None:
    config: Any = adapted("adalora", settings=SETTINGS, steps=200).peft_config["default"]
    schedule = (config.total_step, config.tinit, config.tfinal, config.deltaT)
    assert (*schedule, config.init_r, config.target_r) == (200, 20, 60, 2, 4, 2)


def test_regularizer_is_in_the_training_loss(adapted: Adapted, bert_batches: Batches, train: Train) -> None:
    """Mean over P and Q of ||P^T P - I||_F, times its weight: the norm not squared, as PEFT computes it."""
    level = make(adapted, bert_batches)
    level.module.eval()
    batch = bert_batches[0]
    task = torch.nn.functional.cross_entropy(level.module(**batch).logits, batch["labels"]).item()
    named = dict(level.module.named_parameters())
    grams = [Q @ Q.mT for name, Q in named.items() if "lora_A" in name]
    grams += [P.mT @ P for name, P in named.items() if "lora_B" in name]
    distances = [torch.linalg.norm(gram - torch.eye(len(gram))).item() for gram in grams]
    expected = SETTINGS.orthogonality * sum(distances) / len(distances)
    assert len(grams) == 2 * LAYERS
    assert expected > 0.5
    assert level.training_step_exec(batch).item() == pytest.approx(task + expected, rel=1e-6)


@pytest.mark.parametrize("steps", [2, STEPS])
def test_extra_state_round_trip(adapted: Adapted, bert_batches: Batches, train: Train, steps: int) -> None:
    trained, fresh = make(adapted, bert_batches), make(adapted, bert_batches)
    assert trained.extra_state() == {"rank_pattern": None, **{name: {} for name in IMPORTANCE}}
    train(trained, steps)
    state = trained.extra_state()
    # PEFT weighs until it has decided, and then forgets what it weighed by.
    assert [bool(state[name]) for name in IMPORTANCE] == [steps < STEPS] * len(IMPORTANCE)
    assert len(state["rank_pattern"] or {}) == (LAYERS if steps == STEPS else 0)
    fresh.load_extra_state(state)
    for name in IMPORTANCE:
        torch.testing.assert_close(fresh.extra_state()[name], state[name], rtol=0, atol=0)
    assert fresh.module.peft_config["default"].rank_pattern == state["rank_pattern"]


@pytest.mark.parametrize(("rank", "given", "start"), [(8, None, 12), (3, None, 5), (1, None, 2), (4, 4, 4)])
def test_start_rank(rank: int, given: int | None, start: int) -> None:
    assert AdaloraSettings(rank=rank, initial_rank=given).start_rank == start


@pytest.mark.parametrize(("steps", "final"), [(1, 0.0), (2, 0.5), (3, 0.7)])
def test_runs_too_short_to_prune_are_refused(adapted: Adapted, steps: int, final: float) -> None:
    """PEFT would end in a KeyError in the middle of the run."""
    settings = AdaloraSettings(rank=2, final=final)
    with pytest.raises(SettingsError, match=f"steps is {steps}, of which final {final} leaves 1 .* needs 2"):
        adapted("adalora", settings=settings, steps=steps)


@pytest.mark.parametrize("steps", [2, 3, 10])
def test_short_runs_prune_too(adapted: Adapted, bert_batches: Batches, train: Train, steps: int) -> None:
    level = make(adapted, bert_batches, steps=steps)
    train(level, steps)
    assert living(level.module) == LAYERS * 2
