"""Cutting ranks in place, and in the export: what stays, what is lost, and that it is bounded by what was dropped."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from bilora import BiloraConfig, Budget, Cut, Energy, Mean, Threshold, cut_ranks, export_lora
from bilora.adapter.spectrum import adapted_layers, selection_weights
from bilora.errors import SettingsError

KINDS = [("bert", {}), ("gpt2", {}), ("bert", {"formulation": "real", "normalized": True})]
FORMULATIONS = ["real", "softmax", "softmax_sum_one", "binary"]
RULES = [Energy(0.7), Energy(0.3), Threshold(0.9), Budget(5), Budget(1)]


def updates(model: PeftModel) -> dict[str, Tensor]:
    layers = adapted_layers(model, "default")
    return {name: layer.get_delta_weight("default").detach() for name, layer in layers.items()}


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_update_loses_exactly_the_terms_that_go(tiny: Any, formulation: str, rule: Any) -> None:
    model = tiny.trained(formulation=formulation)
    layers = adapted_layers(model, "default")
    kept, spectrum = Cut(rule).choose(model)
    expected = {}
    for name, layer in layers.items():
        P, Q, c = layer.bilora_P["default"], layer.bilora_Q["default"], layer.coefficients("default")
        terms = [c[j] * torch.outer(P[:, j], Q[j]) for j in kept[name]]
        expected[name] = torch.stack(terms).sum(0) if terms else torch.zeros(len(P), Q.shape[1])
        # The largest ones, so that what is lost is what the spectrum shows behind the bar.
        norms = torch.stack([torch.linalg.matrix_norm(c[j] * torch.outer(P[:, j], Q[j])) for j in range(len(c))])
        assert sorted(norms.tolist(), reverse=True) == pytest.approx(spectrum.values[name], rel=1e-5)
        assert spectrum.kept[name] == len(kept[name])
    cut_ranks(model, kept)
    assert sum(spectrum.kept.values()) < sum(len(values) for values in spectrum.values.values())
    torch.testing.assert_close(updates(model), expected)


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_a_cut_adapter_is_saved_and_loaded(tiny: Any, tmp_path: Path, kind: str, settings: Any) -> None:
    model = tiny.trained(kind, **settings)
    before = tiny.logits(model)
    kept, _ = Cut(Energy(0.7)).choose(model)
    cut_ranks(model, kept)
    cut = tiny.logits(model)
    assert (cut - before).abs().max() > 1e-4
    model.save_pretrained(str(tmp_path / "adapter"))
    reloaded = tiny.loaded(tmp_path / "adapter", kind)
    torch.testing.assert_close(tiny.logits(reloaded), cut, rtol=0, atol=1e-6)
    ranks = {name: layer.bilora_E["default"].numel() for name, layer in adapted_layers(reloaded, "default").items()}
    assert ranks == {name: max(1, len(terms)) for name, terms in kept.items()}
    export_lora(model, tmp_path / "lora")
    torch.testing.assert_close(tiny.logits(tiny.loaded(tmp_path / "lora", kind)), cut, rtol=0, atol=1e-5)


def test_what_is_kept_stays_trainable_and_what_was_frozen_frozen(tiny: Any) -> None:
    model = tiny.trained()
    for layer in adapted_layers(model, "default").values():
        layer.bilora_E["default"].requires_grad_(False)
    kept, _ = Cut(Budget(6)).choose(model)
    cut_ranks(model, kept)
    for layer in adapted_layers(model, "default").values():
        assert layer.bilora_P["default"].requires_grad and layer.bilora_Q["default"].requires_grad
        assert not layer.bilora_E["default"].requires_grad


def test_values_of_one_leave_plain_lora(tiny: Any) -> None:
    model = tiny.trained(formulation="softmax_sum_one")
    layers = adapted_layers(model, "default")
    values = {name: layer.singular_values("default").tolist() for name, layer in layers.items()}
    kept, _ = Cut(Mean(), measure=selection_weights).choose(model)
    assert kept == {name: tuple(j for j in range(4) if weights[j] >= 0.25) for name, weights in values.items()}
    cut_ranks(model, kept, keep_values=False)
    for layer in layers.values():
        assert layer.singular_values("default").tolist() == [1.0] * layer.bilora_E["default"].numel()
        assert layer.bilora_settings["default"].scale == pytest.approx(16.0 / 4)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_export_loses_no_more_than_the_dropped_terms(tiny: Any, tmp_path: Path, rule: Any) -> None:
    """Layer by layer: ||lost||_F is the norm of the dropped singular values, and below that of the dropped terms."""
    model = tiny.trained(formulation="real")
    whole, spectrum = updates(model), Cut(rule).choose(model)[1]
    export = export_lora(model, tmp_path, ranks=rule)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    for name, update in whole.items():
        A, B = (tensors.get(f"base_model.model.{name}.lora_{factor}.weight") for factor in "AB")
        left = torch.zeros_like(update) if A is None or B is None else B @ A
        lost = torch.linalg.matrix_norm(update - left).item()
        sigma = torch.linalg.svdvals(update.double())
        assert lost == pytest.approx(sigma[spectrum.kept[name] :].norm().item(), rel=1e-4, abs=1e-5)
        assert lost <= sum(spectrum.values[name][spectrum.kept[name] :]) + 1e-5
        assert export.ranks[name] == spectrum.kept[name]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 1.0])
def test_logits_move_no_further_than_the_dropped_energy_allows(tiny: Any, tmp_path: Path, share: float) -> None:
    """One adapted layer whose output are the logits: |change| <= ||lost||_2 |x| <= sqrt(sum of dropped sigma^2) |x|."""

    base: Any = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 6))
    model = get_peft_model(copy.deepcopy(base), BiloraConfig(r=6, normalized=False, target_modules=["2"]))
    tiny.train(model)
    with torch.no_grad():
        model.get_base_model()[2].bilora_E["default"].mul_(torch.tensor([1.0, 0.5, 0.2, 0.1, 0.05, 0.01]))
    sigma = torch.linalg.svdvals(updates(model)["2"].double())
    inputs = torch.randn(64, 12)
    before = model(inputs).detach()
    rank = export_lora(model, tmp_path, ranks=Energy(share)).ranks["2"]
    lengths = base[:2](inputs).norm(dim=1)
    after = PeftModel.from_pretrained(base, tmp_path)(inputs).detach()
    change = (after - before).norm(dim=1)
    dropped = sigma[rank:].norm().item()
    assert bool((change <= dropped * lengths + 1e-5).all())
    assert rank == 6 or change.max() > 0.05 * dropped * lengths.max()


def test_a_larger_share_keeps_the_logits_nearer(tiny: Any, tmp_path: Path) -> None:
    """On a whole BERT; at a share of one nothing is lost but rounding."""
    model = tiny.trained(formulation="real")
    before = tiny.logits(model)
    moved = []
    for share in (0.3, 0.8, 0.99, 1.0):
        folder = tmp_path / str(share)
        export_lora(model, folder, ranks=Energy(share))
        moved.append((tiny.logits(tiny.loaded(folder)) - before).abs().max().item())
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 1e-2
    assert moved[-1] < 1e-5


@pytest.mark.parametrize(
    ("ranks", "match"),
    [
        (lambda sizes: dict.fromkeys(sizes, 5), "a rank of 5; it has 4 terms"),
        (lambda sizes: dict.fromkeys(sizes, -1), "a rank of -1; it has 4 terms"),
        (lambda sizes: {**dict.fromkeys(sizes, 1), "more": 1}, "each adapted layer a rank and no other; see more"),
        (lambda sizes: {}, "each adapted layer a rank and no other; see bert"),
    ],
)
def test_rules_that_give_other_ranks(tiny: Any, tmp_path: Path, ranks: Any, match: str) -> None:
    model = tiny.adapted(init_weights=False)
    with pytest.raises(SettingsError, match=match):
        Cut(ranks).choose(model)
    with pytest.raises(SettingsError, match=match):
        export_lora(model, tmp_path, ranks=ranks)
