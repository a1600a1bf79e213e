"""AutoLoRA: terms weighted by a softmax, no penalty on either level, ranks from the weights."""

from collections.abc import Callable

import pytest
import torch
from peft import PeftModel

from bilora.adapter.spectrum import adapted_layers
from bilora.errors import SettingsError
from bilora.problems import VARIANTS
from bilora.problems.variants.autolora import AutoloraSettings

Adapted = Callable[..., PeftModel]


def test_the_update_is_a_weighted_sum_of_rank_one_terms(adapted: Adapted) -> None:
    model = adapted("autolora", settings=AutoloraSettings(rank=4, alpha=6.0))
    for layer in adapted_layers(model, "default").values():
        with torch.no_grad():
            for each in (layer.bilora_P["default"], layer.bilora_E["default"]):
                each.normal_()
        P, Q = layer.bilora_P["default"], layer.bilora_Q["default"]
        weights = torch.softmax(layer.bilora_E["default"], dim=0)
        terms = [weights[j] * torch.outer(P[:, j], Q[j]) for j in range(4)]
        expected = 6.0 / 4 * torch.stack(terms).sum(0)
        torch.testing.assert_close(layer.get_delta_weight("default"), expected)


def test_no_level_has_a_penalty(adapted: Adapted) -> None:
    model, settings = adapted("autolora"), AutoloraSettings(rank=4)
    for kind in (VARIANTS["autolora"].lower, VARIANTS["autolora"].upper):
        assert kind is not None
        assert kind("level", None, model, extra_config=settings).penalty() is None


def test_untrained_weights_are_all_kept(adapted: Adapted) -> None:
    cut = VARIANTS["autolora"].cut
    assert cut is not None
    kept, _ = cut.choose(adapted("autolora"))
    assert set(kept.values()) == {(0, 1, 2, 3)}


def test_one_term_is_no_selection() -> None:
    with pytest.raises(SettingsError, match="adapter: rank is 1, it must be at least 2"):
        AutoloraSettings(rank=1)
