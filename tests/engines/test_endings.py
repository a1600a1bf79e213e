"""How a run ends: which stages each ending adds to which variant, and what it leaves on the model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bilora import magnitudes
from bilora.engines.callbacks.callback import Callback
from bilora.engines.endings import ENDINGS, Keep, Prune, Retrain, ThenTrusted, build_ending
from bilora.engines.settings import FitSettings
from bilora.engines.training.stages import run_stages
from bilora.errors import SettingsError
from bilora.metrics.monitor import Monitor
from bilora.problems import VARIANTS, LowerProblem, Variant

Fit = Callable[..., Any]

# The stages of each variant that ends as it is.
SHAPED = tuple(f"learned_{what}" for what in ("noise", "sources", "classes", "rows", "loss"))
DECAYS = ("self_tuned", "learned_decay", "learned_decay_bilora")
BILEVEL = ("bilora", *DECAYS, "autolora", "bidora", "alternating", *SHAPED)
ROADS = ("noisy_then_trusted", "correction_then_trusted")
KEEP = {name: ["bilevel"] for name in (*BILEVEL, *ROADS)}
KEEP |= {name: ["single"] for name in ("lora", "dora", "adalora", "pseudo_svd")}
KEEP |= {"two_stage": ["vectors", "values"], "lora_d1": ["d1"], "lora_early_stopping": ["d1"]}
RETRAINED = (*DECAYS, "autolora", "bidora", *SHAPED)
WITH_VALUES = (
    *ROADS,
    "bilora",
    "self_tuned",
    "learned_decay_bilora",
    "autolora",
    "pseudo_svd",
    "alternating",
    "two_stage",
)


def names(variant: str, ending: Any) -> list[str]:
    chosen = VARIANTS[variant]
    return [stage.name for stage in run_stages(chosen, chosen.settings(), FitSettings(ending=ending))]


@pytest.mark.parametrize("name", VARIANTS)
def test_stages_of_every_variant_under_every_ending(name: str) -> None:
    splits = VARIANTS[name].splits_rows(VARIANTS[name].settings())
    assert names(name, "keep") == KEEP[name]
    assert names(name, "retrain") == KEEP[name] + ["retrain"] * splits
    assert names(name, "prune") == KEEP[name] + ["prune"] * (name in WITH_VALUES)
    then_trusted = ["doubtful", "trusted"]
    assert names(name, "then_trusted") == KEEP[name] + then_trusted * splits
    assert names(name, None) == KEEP[name] + ["retrain"] * (name in RETRAINED) + then_trusted * (name in ROADS)


def test_pruning_cuts_and_trains_no_further(fit_adapter: Fit) -> None:
    """The terms that stay are those of the run that keeps all, bit for bit; the last validation is of the cut model."""
    model: list[Any] = []

    class Find(Callback):
        def on_run_start(self, engine: Any) -> None:
            model.append(engine.lower_level.module)

    def validate() -> dict[str, float | None]:
        return {"rank": float(sum(map(len, magnitudes(model[0]).values())))}

    prune = {"ending": {"name": "prune", "ranks": {"name": "budget", "total": 5}}}
    kept = fit_adapter("bilora", formulation="softmax", settings={"ending": "keep"})
    cut = fit_adapter("bilora", formulation="softmax", settings=prune, validate=validate, callbacks=[Find()])
    spectrum = cut.result.spectrum
    assert sum(spectrum.kept.values()) == 5
    before, after = magnitudes(kept.model), magnitudes(cut.model)
    for name, values in before.items():
        largest = values.sort(descending=True).values[: spectrum.kept[name]]
        left = after[name].sort(descending=True).values
        # To the last digit but one: the share of each of fewer values is worked out anew.
        torch.testing.assert_close(left[: len(largest)], largest, rtol=1e-14, atol=0.0)
        assert left[len(largest) :].sum() == 0
    assert cut.result.metrics == {"rank": float(sum(map(len, after.values())))}
    assert [(stage.name, stage.steps) for stage in cut.result.stages] == [("bilevel", 4), ("prune", 0)]


def test_retraining_at_chosen_ranks(fit_adapter: Fit) -> None:
    """The ranks come from what was learned, the vectors from the start; the values stay those of the kept terms."""
    ending = {"name": "retrain", "steps": 3, "ranks": {"name": "budget", "total": 5}}
    searched, retrained = fit_adapter("bilora"), fit_adapter("bilora", settings={"ending": ending})
    spectrum = retrained.result.spectrum
    for name, layer in ((name, retrained.model.get_base_model().get_submodule(name)) for name in spectrum.values):
        values = searched.model.get_base_model().get_submodule(name).singular_values("default").tolist()
        left = layer.singular_values("default").tolist()
        assert len(left) == max(1, spectrum.kept[name])
        assert set(left) <= set(values) or left == [0.0]
    assert retrained.result.stages[-1].steps == 3


def test_autolora_is_retrained_at_the_ranks_that_it_chose(fit_adapter: Fit) -> None:
    fitted = fit_adapter("autolora", settings={"steps": 12})
    spectrum = fitted.result.spectrum
    for layer, weights in spectrum.values.items():
        assert sum(weights) == pytest.approx(1.0, abs=1e-5)
        assert spectrum.kept[layer] == sum(weight >= 0.5 * (1 - 1e-6) for weight in weights) >= 1
        adapter = fitted.model.get_base_model().get_submodule(layer)
        assert adapter.singular_values("default").tolist() == [1.0] * spectrum.kept[layer]


def test_learned_decays_are_those_of_the_search_and_stay(fit_adapter: Fit) -> None:
    searched = fit_adapter("learned_decay", settings={"ending": "keep", "steps": 8})
    retrained = fit_adapter("learned_decay", settings={"steps": 8})
    decays = retrained.result.learned["weight_decays"]
    assert decays == searched.result.learned["weight_decays"]
    assert len(set(decays.values())) > 1
    assert all(decay != pytest.approx(0.1) for decay in decays.values())


@pytest.mark.parametrize("ending", ["retrain", "keep"])
def test_a_search_whose_model_is_thrown_away_is_not_watched(fit_adapter: Fit, ending: str) -> None:
    """The best validation is that of the second stage, or of the first where there is no other."""
    settings = {"steps": 4, "ending": ending, "validate_every": 1, "keep_best": True, "early_stopping": 1}
    monitor = Monitor("loss", greater_is_better=False)
    losses = iter([float(step) for step in range(20)])
    fitted = fit_adapter("self_tuned", settings=settings, validate=lambda: {"loss": next(losses)}, monitor=monitor)
    best = [(stage.name, stage.best_step, stage.steps) for stage in fitted.result.stages]
    assert best == ([("bilevel", 1, 2)] if ending == "keep" else [("bilevel", None, 4), ("retrain", 5, 2)])


@pytest.mark.parametrize(
    ("chosen", "match"),
    [
        ("retain", "ending 'retain' is unknown; known: keep, prune, retrain, then_trusted.* Did you mean 'retrain'"),
        ({"steps": 5}, r"ending has settings \(steps\) but no name"),
        ({"name": "retrain", "steps": 0}, "ending 'retrain': steps is 0; it must be at least 1"),
        ({"name": "retrain", "ranks": {"name": "enrgy"}}, "rank rule 'enrgy' is unknown"),
        ({"name": "prune", "ranks": {"share": 0.5}}, "ranks has no name"),
        ({"name": "prune", "share": 0.5}, "ending 'prune' has no setting 'share'; known: ranks"),
        ({"name": "keep", "steps": 5}, "ending 'keep' has no setting 'steps'"),
    ],
)
def test_refused(chosen: Any, match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        build_ending(chosen)
    with pytest.raises(SettingsError, match=match):
        FitSettings(ending=chosen)


def test_ranks_for_a_method_without_values() -> None:
    ending = {"name": "retrain", "ranks": {"name": "mean"}}
    with pytest.raises(SettingsError, match="'retrain' shall cut ranks .* method 'lora_d1' has none; leave ranks out"):
        names("lora_d1", ending)


def test_table_and_an_ending_of_one_s_own() -> None:
    assert {"keep": Keep, "retrain": Retrain, "prune": Prune, "then_trusted": ThenTrusted} == ENDINGS
    assert names("bilora", "bilora.engines.endings:Retrain") == ["bilevel", "retrain"]
    own = Variant("own", LowerProblem, None, dict, lambda model, *_, **__: model, ending="prune")
    assert [stage.name for stage in run_stages(own, {}, FitSettings())] == ["single"]
