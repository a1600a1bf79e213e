"""What every hypergradient approximation must do, row by row of the table."""

import json
import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fingerprint import assert_same, fingerprint
from small_runs import At
from torch import nn

from bilora.commands.train_config import TrainConfig
from bilora.compare.config import ComparisonConfig
from bilora.engines import BilevelTrainingArguments, FitSettings
from bilora.engines.hypergradients.adaptive import Adaptive
from bilora.engines.hypergradients.catalog import HYPERGRADIENTS, build_hypergradient, named
from bilora.engines.hypergradients.conjugate_gradient import ConjugateGradient
from bilora.engines.hypergradients.darts import Darts
from bilora.engines.hypergradients.first_order import FirstOrder
from bilora.engines.hypergradients.neumann import Neumann
from bilora.engines.hypergradients.nystrom import Nystrom
from bilora.engines.hypergradients.unrolled import Unrolled
from bilora.errors import DivergedError, InterruptedRun, SettingsError
from bilora.files.formats import load_json
from bilora.problems.replay.lower_step import Needs
from bilora.runs.config import RunConfig
from bilora.settings.sections import resolved
from bilora.tensors import zeros_like

CHOICES: list[Any] = [
    *sorted(HYPERGRADIENTS),
    {"name": "darts", "finite_difference": "forward"},
    {"name": "darts", "around": "after_step"},
    {"name": "darts", "scale": "learning_rate", "finite_difference": "central"},
    *({"name": name, "products": "exact"} for name in sorted(HYPERGRADIENTS) if name != "first_order"),
    {"name": "neumann", "finite_difference": "forward"},
    {"name": "conjugate_gradient", "finite_difference": "forward", "damping": 0.1},
    {"name": "unrolled", "steps": 2},
    {"name": "unrolled", "steps": 3, "products": "exact"},
]


Make = Callable[..., Any]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
class TestContract:
    @pytest.fixture
    def problem(self, make_transformer: Make, name: str, choice: Any) -> Any:
        return make_transformer(name, dropout=0.1, hypergradient=choice)

    def test_changes_nothing(self, problem: Any) -> None:
        vector = problem.run_to_upper_step()
        before = fingerprint(problem.model)
        term = problem.upper.hypergradient.implicit_term(vector, problem.lower)
        assert_same(fingerprint(problem.model), before)
        assert [part.shape for part in term] == [E.shape for E in problem.upper.trainable_parameters()]
        assert all(torch.isfinite(part).all() and not part.requires_grad for part in term)
        zeros = problem.upper.hypergradient.implicit_term(zeros_like(vector), problem.lower)
        assert all(torch.equal(part, torch.zeros_like(part)) for part in zeros)

    def test_changes_nothing_when_a_pass_raises(self, problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        vector = problem.run_to_upper_step()
        before, passes = fingerprint(problem.model), []

        def out_of_memory(*_: Any) -> None:
            torch.rand(3)  # a pass draws its masks before it dies
            passes.append(fingerprint(problem.model)["parameters"])
            raise MemoryError

        monkeypatch.setattr(problem.lower, "training_step", out_of_memory)
        with pytest.raises(MemoryError) if problem.lower.needs.steps else nullcontext():
            problem.upper.hypergradient.implicit_term(vector, problem.lower)
        # It did raise in the middle: the parameters were displaced when it happened.
        moved = [not torch.equal(V, before["parameters"][name]) for seen in passes[:1] for name, V in seen.items()]
        assert any(moved) == bool(problem.lower.needs.steps)
        assert_same(fingerprint(problem.model), before)

    def test_gradient_checkpointing_gives_the_same(self, make_transformer: Make, name: str, choice: Any) -> None:
        terms = []
        for checkpointing in (False, True):
            problem = make_transformer(name, dropout=0.1, hypergradient=choice)
            if checkpointing:
                problem.model.activation_checkpointing_enable({"use_reentrant": False})
            vector = problem.run_to_upper_step()
            terms.append(problem.upper.hypergradient.implicit_term(vector, problem.lower))
        torch.testing.assert_close(*terms, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_batch_norm_statistics_stay(make_ridge: Make, choice: Any) -> None:
    ridge = make_ridge(choice)
    norm = nn.BatchNorm1d(20, dtype=torch.float64).requires_grad_(False)
    ridge.lower.module.add_module("norm", norm)
    loss = ridge.lower.training_step
    ridge.lower.training_step = lambda batch: loss((norm(batch[0]), batch[1]))
    ridge.engine.run()
    ridge.engine.train()
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    assert before["num_batches_tracked"] == 4  # one a lower step: no replay has been counted
    ridge.upper.hypergradient.implicit_term((ridge.v(),), ridge.lower)
    assert_same(dict(norm.named_buffers()), before)


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "first_order"], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_vector_is_refused_before_anything_moves(make_ridge: Make, choice: Any, bad: float) -> None:
    ridge = make_ridge(choice)
    ridge.engine.run()
    before = fingerprint(ridge.lower.module)
    with pytest.raises(DivergedError, match="gradient of norm (nan|inf).* no parameter was moved"):
        ridge.upper.hypergradient.implicit_term((torch.full((20,), bad, dtype=torch.float64),), ridge.lower)
    assert_same(fingerprint(ridge.lower.module), before)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "dart"}, "hypergradient 'dart' is unknown; known: adaptive, .*Did you mean 'darts'"),
        ({"name": "first_order", "radius": 1.0}, "hypergradient 'first_order' has no setting 'radius'; known: none"),
        ({"name": "darts", "radiuss": 1.0}, "Did you mean 'radius'"),
        ({"radiuss": 1.0}, "hypergradient 'darts' has no setting 'radiuss'"),
        ({"name": "darts", "radius": 0.0}, "radius is 0.0; it must be positive"),
        ({"name": "darts", "radius": float("nan")}, "radius is nan"),
        ({"name": "darts", "scale": "two"}, "scale: Expected"),
        ({"name": "darts", "finite_difference": "forward", "around": "after_step"}, "use around: before_step"),
        ("no.such.module:NAME", "cannot import module 'no.such.module'"),
        (3, "hypergradient is 3; give a name .*, a mapping .* or an object with needs and implicit_term"),
        (Darts, "hypergradient is <class .*Darts'>; give a name"),
        ("bilora.engines:LevelSettings", "hypergradient 'bilora.engines:LevelSettings' is LevelS.*; give a name"),
    ],
)
def test_bad_settings_are_refused(settings: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        build_hypergradient(settings)


def test_object_and_own_class_are_taken() -> None:
    built = build_hypergradient("bilora.engines.hypergradients.first_order:FirstOrder")
    assert build_hypergradient(built) is built


OBJECTS: dict[str, Any] = {
    "first_order": FirstOrder(),
    "darts": Darts(radius=0.02),
    "neumann": Neumann(terms=2, step_size=0.1),
    "conjugate_gradient": ConjugateGradient(iterations=2, damping=0.1),
    "nystrom": Nystrom(rank=2),
    "adaptive": Adaptive(products="exact"),
    "unrolled": Unrolled(steps=2),
}


def test_there_is_an_object_of_every_row() -> None:
    assert OBJECTS.keys() == HYPERGRADIENTS.keys()


@pytest.mark.parametrize("name", sorted(HYPERGRADIENTS))
class TestObjects:
    """An object is the same as its name and settings, wherever a hypergradient is taken."""

    def test_settings_hold_it_as_its_name(self, name: str, tmp_path: Path) -> None:
        instance = OBJECTS[name]
        arguments = BilevelTrainingArguments(str(tmp_path), use_cpu=True, hypergradient=instance)
        choices = [
            FitSettings(hypergradient=instance).hypergradient,
            arguments.fit_settings(rows=8, splits=True).hypergradient,
            # A config takes no object by its annotation; Python's callers give one all the same.
            RunConfig(hypergradient=instance).hypergradient,
            TrainConfig(hypergradient=instance).run_config().hypergradient,
        ]
        for choice in choices:
            assert build_hypergradient(choice) == instance
            assert (choice if isinstance(choice, str) else choice["name"]) == name
            assert yaml.safe_load(yaml.safe_dump(choice)) == choice
        assert json.loads(arguments.to_json_string())["hypergradient"] in (choices[0], named(instance))

    def test_fit_trains_saves_and_resumes_it(self, name: str, tmp_path: Path, fit_adapter: Make) -> None:
        instance, settings = OBJECTS[name], {"steps": 6, "save_every": 3}
        by_name = fit_adapter("bilora", settings={**settings, "hypergradient": named(instance)})
        settings["hypergradient"] = instance
        stop = At(3, lambda engine: signal.raise_signal(signal.SIGINT))
        with pytest.raises(InterruptedRun):
            fit_adapter("bilora", settings=settings, folder=tmp_path, callbacks=(stop,))
        manifest = load_json(tmp_path / "checkpoint-3" / "manifest.json")
        assert build_hypergradient(manifest["run"]["hypergradient"]) == instance
        resumed = fit_adapter("bilora", settings=settings, folder=tmp_path, resume=True)
        assert_same(resumed.parameters(), by_name.parameters())


@dataclass(frozen=True)
class Own:
    """A user's own, with a setting."""

    factor: float = 1.0
    needs = Needs()

    def implicit_term(self, vector: Any, lower: Any) -> Any:
        return zeros_like(lower.upper_parameters())


class Plain(Own):
    """One whose settings are not to be seen."""

    def __init__(self) -> None:
        super().__init__(2.0)


def test_an_object_of_a_users_own_class_is_named_by_its_module() -> None:
    assert named(Own(2.0)) == {"name": f"{__name__}:Own", "factor": 2.0}
    assert FitSettings(hypergradient=Own(2.0)).approximation == Own(2.0)


def test_an_object_that_no_file_could_name_is_refused_by_all_that_write(make_engine: Make) -> None:
    @dataclass(frozen=True)
    class Local(Own):
        """It has no name outside of this function."""

    for instance in (Local(), Plain()):
        with pytest.raises(SettingsError, match="^hypergradient is an object of .*(Local|Plain), which a config"):
            FitSettings(hypergradient=instance)
        # Nothing is written here.
        assert make_engine(hypergradient=instance).upper_level.hypergradient is instance


def test_darts_is_the_derivative_through_a_step_by_every_road(make_engine: Make, tmp_path: Path) -> None:
    arguments = BilevelTrainingArguments(str(tmp_path), use_cpu=True).fit_settings(rows=8, splits=True)
    of_bilora = (RunConfig(method="bilora"), TrainConfig(method="bilora").run_config())
    runs = (FitSettings(), *of_bilora, ComparisonConfig().run, arguments)
    engine = make_engine(hypergradient="darts")
    chosen = [build_hypergradient(run.hypergradient) for run in runs] + [engine.upper_level.hypergradient, Darts()]
    assert [choice.scale for choice in chosen] == ["learning_rate"] * len(chosen)
    # Written down, so that a later default changes no run of today.
    assert all(resolved(run)["hypergradient"]["scale"] == "learning_rate" for run in runs)


def test_scale_one_is_warned_of_once(fit_adapter: Make) -> None:
    with pytest.warns(RuntimeWarning, match="scale 'one'.*; choose 'learning_rate'") as warned:
        fit_adapter("bilora", settings={"hypergradient": {"name": "darts", "scale": "one"}})
    assert len([warning for warning in warned if "scale" in str(warning.message)]) == 1
