"""Exports of every kind and formulation, loaded by stock PEFT in a process that never imports bilora."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from bilora.adapter.config import BiloraConfig
from bilora.adapter.export import export_lora

KINDS = ["bert", "roberta", "gpt2", "gpt2-classifier", "llama"]
FORMS: dict[str, dict[str, Any]] = {
    "real": {"formulation": "real"},
    "softmax": {"formulation": "softmax"},
    "softmax_sum_one": {"formulation": "softmax_sum_one"},
    "binary": {"formulation": "binary"},
    "normalized": {"formulation": "real", "normalized": True},
}
LOADER = """
import json, sys, torch, transformers, warnings
from pathlib import Path
from peft import PeftModel
from safetensors.torch import load_file, save_file
root = Path(sys.argv[1])
found = {}
for job in json.loads((root / "jobs.json").read_text()):
    model_class = getattr(transformers, job["class"])
    base = model_class.from_pretrained(root / job["kind"], attn_implementation="eager")
    with warnings.catch_warnings():
        # PEFT sets a wrong fan_in_fan_out right, and tells.
        warnings.filterwarnings("error", message="fan_in_fan_out is set")
        model = PeftModel.from_pretrained(base, root / job["name"]).eval()
    assert type(model).__name__ == job["wrapper"], type(model)
    tokens = load_file(root / "tokens.safetensors")["tokens"]
    with torch.no_grad():
        found[job["name"]] = model(input_ids=tokens).logits
        merged = model.merge_and_unload()
        found[job["name"] + "/merged"] = merged(input_ids=tokens).logits
assert not any(name.split(".")[0] == "bilora" for name in sys.modules)
save_file({key: each.contiguous() for key, each in found.items()}, root / "found.safetensors")
"""


@pytest.fixture(scope="module")
def differences(
    make_model: Callable[[str], PreTrainedModel],
    targets: dict[str, list[str]],
    tasks: dict[str, str],
    train: Callable[[nn.Module], None],
    logits: Callable[[nn.Module, Tensor], Tensor],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, float]:
    """Largest difference in logits, by ``kind-form`` and by ``kind-form/merged``."""
    root = tmp_path_factory.mktemp("exports")
    tokens = torch.randint(3, 60, (4, 7), generator=torch.Generator().manual_seed(5))
    save_file({"tokens": tokens}, root / "tokens.safetensors")
    expected, jobs = {}, []
    for kind in KINDS:
        make_model(kind).save_pretrained(root / kind)
        for form, settings in FORMS.items():
            config = BiloraConfig(
                **{
                    "r": 4,
                    "target_modules": targets[kind],
                    "task_type": tasks[kind],
                    "formulation": "softmax",
                    "normalized": False,
                    **settings,
                }
            )
            model = get_peft_model(make_model(kind), config).eval()
            train(model)
            name = f"{kind}-{form}"
            export_lora(model, root / name)
            expected[name] = logits(model, tokens)
            jobs.append(_job(name, kind, model))
    (root / "jobs.json").write_text(json.dumps(jobs))
    subprocess.run([sys.executable, "-c", LOADER, str(root)], check=True, cwd=root)
    found = load_file(root / "found.safetensors")
    return {key: (each - expected[key.removesuffix("/merged")]).abs().max().item() for key, each in found.items()}


def _job(name: str, kind: str, model: PeftModel) -> dict[str, str]:
    return {"name": name, "kind": kind, "class": type(model.get_base_model()).__name__, "wrapper": type(model).__name__}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_same_without_this_library(kind: str, form: str, differences: dict[str, float]) -> None:
    assert differences[f"{kind}-{form}"] <= 1e-5
    assert differences[f"{kind}-{form}/merged"] <= 2e-5
