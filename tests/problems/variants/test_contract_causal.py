"""What every row of the table of variants must do on causal models: Conv1D layers, rotary positions, masked prompts."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_models import tiny_gpt2, tiny_llama
from torch import Tensor, nn

from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import fit
from bilora.models.pretrained import quiet_peft
from bilora.problems import VARIANTS
from bilora.tasks.generation.batches import PairCollator

MODELS: dict[str, Callable[..., nn.Module]] = {"gpt2": tiny_gpt2, "llama": tiny_llama}

every_model = pytest.mark.parametrize("kind", MODELS)
every_variant = pytest.mark.parametrize("name", VARIANTS)


def base(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return MODELS[kind](0.1, initializer_range=0.2).eval()


def rows() -> list[dict[str, Any]]:
    """Pairs of two groups of inputs, of different lengths, each with an end."""
    generator = torch.Generator().manual_seed(5)
    made = []
    for group in range(12):
        ids = [*torch.randint(1, 64, (5 + group % 4,), generator=generator).tolist(), 0]
        made.append({"input_ids": ids, "labels": [-100, -100, *ids[2:]], "group": group})
    return made


def trained(name: str, kind: str) -> PeftModel:
    """Return a model after a few steps of a variant, with the dropout of GPT-2 on."""
    variant = VARIANTS[name]
    settings = variant.settings(rank=4)
    with torch.random.fork_rng(), quiet_peft(), contextlib.redirect_stderr(io.StringIO()):
        torch.manual_seed(4)
        model = variant.adapt(base(kind), settings, task_type="CAUSAL_LM", steps=6)
    level = LevelSettings(learning_rate=1e-2, batch_size=2)
    own = FitSettings(steps=6, unroll_steps=2, split_ratio=0.5, lower=level, upper=level, device="cpu")
    fit(model, rows(), collate=PairCollator(0), variant=name, variant_settings=settings, settings=own)
    return model


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    batch = PairCollator(0)(rows()[:4])
    # Without labels: PEFT's AdaLoRA, loaded for inference, cannot add its regularizer to a loss.
    found: Tensor = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return found


# PEFT takes AdaLoRA's pruned ranks, which name lora_E, for a pattern of layer names, and warns that they match none.
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")  # PEFT tells a layer of GPT-2
@every_model
@every_variant
def test_trained_twice_alike_saved_and_loaded_over_a_base_that_stayed(name: str, kind: str, tmp_path: Path) -> None:
    model = trained(name, kind)
    pairs = zip(model.parameters(), trained(name, kind).parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)  # one seed gives the same parameters
    found = logits(model)
    model.save_pretrained(str(tmp_path))
    untouched = logits(base(kind))
    assert (found - untouched).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(logits(model), untouched)
    loaded = PeftModel.from_pretrained(base(kind), tmp_path)
    torch.testing.assert_close(logits(loaded), found)
