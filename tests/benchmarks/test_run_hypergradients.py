"""The measurements of hypergradients: their references against independent numbers, and what the command writes."""

import contextlib
import io
import itertools
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from betty.hypergradient import jvp_fn_mapping
from fingerprint import assert_same, fingerprint
from programs import imported
from tracked_files import ROOT

from bilora.engines.hypergradients.catalog import HYPERGRADIENTS, build_hypergradient
from bilora.tensors import norm, restored

COMMITTED = ROOT / "benchmarks" / "results"
known_problems, measured_methods, run_hypergradients = map(
    imported, ("known_problems", "measured_methods", "run_hypergradients")
)


def read(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "hypergradients.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=pytest.fail) for line in lines]


def key(line: dict[str, Any]) -> str:
    return json.dumps([line[name] for name in ("by", "name", "chosen", "products")])


def test_every_approximation_is_run_with_every_product() -> None:
    methods = run_hypergradients.methods()
    ours = {(method.name, method.products) for method in methods if method.by == "bilora"}
    products = ("exact", "central", "forward")
    expected = {(name, how) for name in HYPERGRADIENTS for how in products if name != "first_order"}
    assert ours == expected | {("first_order", None)}
    # Betty's fifth one has no code in it.
    assert {method.name for method in methods if method.by == "betty"} == set(jvp_fn_mapping) - {"reinforce"}


@pytest.mark.parametrize("condition", [1.0, 100.0])
def test_ridge_reference_is_the_derivative_of_the_upper_loss_at_the_lower_optimum(condition: float) -> None:
    problem = known_problems.make_ridge(condition=condition, optimizer="sgd", seed=3)
    (inputs, targets), (upper_inputs, upper_targets) = problem.lower.cur_batch, problem.upper.cur_batch

    def upper_loss(log_penalty: torch.Tensor) -> torch.Tensor:
        hessian = inputs.T @ inputs / len(targets) + log_penalty.exp().diag()
        optimum = torch.linalg.solve(hessian, inputs.T @ targets / len(targets))
        return ((upper_inputs @ optimum - upper_targets) ** 2).mean()

    start = problem.upper.module.value.detach()
    moves = 1e-5 * torch.eye(len(start)).double()
    measured = torch.stack([(upper_loss(start + move) - upper_loss(start - move)) / 2e-5 for move in moves])
    (reference,) = problem.reference("before_step")
    torch.testing.assert_close(reference, measured, rtol=1e-5, atol=1e-7 * measured.norm().item())


def test_ridge_is_at_its_optimum_where_the_last_step_took_its_gradient() -> None:
    for optimizer in ("sgd", "adamw"):
        problem = known_problems.make_ridge(condition=100.0, optimizer=optimizer, seed=0)
        step = problem.lower.recorded_step()
        assert step.lower_gradient[0].norm() < 1e-12
        (state,) = step.optimizer
        assert ("exp_avg_sq" in state.state) == (optimizer == "adamw")


@pytest.mark.parametrize("condition", [1.0, 100.0, 1e4])
def test_ridge_has_the_curvature_and_condition_it_says(condition: float) -> None:
    data = known_problems.RidgeData.draw(condition, seed=0)
    eigenvalues = torch.linalg.eigvalsh(data.hessian)
    problem = known_problems.make_ridge(condition=condition, optimizer="sgd", seed=0)
    assert problem.curvature == pytest.approx(eigenvalues[-1].item())
    assert condition / 2 <= (eigenvalues[-1] / eigenvalues[0]).item() <= 2 * condition


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("around", ["before_step", "after_step"])
def test_transformer_reference_is_the_difference_of_gradients_under_the_same_masks(around: str, dropout: float) -> None:
    problem = known_problems.make_bert(dropout=dropout, optimizer="sgd", seed=0)
    lower, step = problem.lower, problem.lower.recorded_step()
    below = lower.trainable_parameters()
    flat, size = torch.nn.utils.parameters_to_vector, 0.02 / norm(problem.vector)
    gradients = []
    with restored(below) as now:
        base = now if around == "after_step" else step.parameters_before
        for sign in (1.0, -1.0):
            for parameter, value, along in zip(below, base, problem.vector, strict=True):
                parameter.data.copy_(value + sign * size * along)
            gradients.append(flat(lower.replayed_gradient(lower.upper_parameters())))
    measured = -(gradients[0] - gradients[1]) / (2 * size)
    reference = flat(problem.reference(around))
    assert torch.nn.functional.cosine_similarity(reference, measured, dim=0) > 0.999
    assert reference.norm().item() == pytest.approx(measured.norm().item(), rel=0.02)


PASSES = [
    ("bilora", "first_order", None, (1, 1)),
    ("bilora", "darts", "forward", (2, 2)),
    ("bilora", "darts", "central", (3, 3)),
    ("bilora", "darts", "exact", (2, 3)),
    ("betty", "darts", None, (3, 4)),
    ("betty", "neumann", None, (2, 5)),
]


@pytest.mark.parametrize(("by", "name", "products", "expected"), PASSES)
def test_passes_are_those_of_the_cost_model(
    by: str, name: str, products: str | None, expected: tuple[int, int]
) -> None:
    problem = known_problems.make_bert(dropout=0.1, optimizer="sgd", seed=0)
    method = measured_methods.Method(by, name, {}, products)
    passes = measured_methods.passes_of(method, problem, seed=0)
    assert (passes["forward"], passes["backward"]) == expected


def test_measuring_leaves_the_problem_as_it_was() -> None:
    problem = known_problems.make_bert(dropout=0.1, optimizer="adamw", seed=0)
    before = fingerprint(problem.lower.module)["parameters"]
    for method in run_hypergradients.methods(["sama", "darts"]):
        measured_methods.agreement(method, problem, seed=0)
        measured_methods.seconds_of([(method, problem)], seed=0, repeats=1)
    assert_same(fingerprint(problem.lower.module)["parameters"], before)


WORDS = ["--only", "darts", "unrolled", "cg", "--draws", "1", "--repeats", "1", "--seed", "7"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The results of two runs of the same command, and beside them what it printed."""
    targets = [tmp_path_factory.mktemp("runs") / "results" for _ in range(2)]
    for folder in targets:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert run_hypergradients.main([*WORDS, "--output", str(folder)]) == 0
        (folder.parent / "printed").write_text(out.getvalue(), encoding="utf-8")
    return targets


def test_two_runs_differ_in_their_times_alone(folders: list[Path]) -> None:
    first, second = ([{**line, "seconds": None, "command": None} for line in read(folder)] for folder in folders)
    assert first == second
    assert min(line["seconds"] for line in read(folders[0]) if "seconds" in line) > 0


def test_every_line_says_how_it_came_about(folders: list[Path]) -> None:
    for line in read(folders[0]):
        assert line["seed"] == 7
        assert line["command"].startswith("python benchmarks/run_hypergradients.py --only darts")
        assert line["versions"]["betty-ml"] == "0.2.1"
        if line["by"] == "bilora":
            assert build_hypergradient({"name": line["name"], **line["settings"]}).needs.steps >= 1


def test_a_failure_is_a_result_with_its_reason(folders: list[Path]) -> None:
    failed = [line for line in read(folders[0]) if line["by"] == "betty" and line["name"] == "cg"]
    on_bert = [line for line in failed if line["problem"] == "bert"]
    assert on_bert
    for line in on_bert:
        assert line["error"].startswith("RuntimeError in 1 of 1: One of the differentiated Tensors")
        assert "cosine" not in line
    # There it runs, and is wrong: no error, and a number.
    assert all(line["error"] is None and line["cosine"] < 1.0 for line in failed if line["problem"] == "ridge")


def test_what_is_printed_is_whole_and_kept(folders: list[Path]) -> None:
    text = (folders[0] / "hypergradients.txt").read_text(encoding="utf-8")
    assert text == (folders[0].parent / "printed").read_text(encoding="utf-8")
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for words in ("command: python", "versions: python 3", "unrolled, steps 4", "Betty cg, iterations 20", "CPU ms"):
        assert words in text
    assert (folders[0] / "hypergradients.png").read_bytes().startswith(b"\x89PNG")
    for line in read(folders[0]):
        if line.get("cosine") is not None:
            assert f"{line['cosine']:.4f}" in text


def test_committed_results_are_of_these_settings() -> None:
    lines = read(COMMITTED)
    wanted = {key(vars(method)) for method in run_hypergradients.methods()}
    assert {key(line) for line in lines} == wanted
    places = len(run_hypergradients.CONDITIONS) + len(run_hypergradients.DROPOUTS)
    assert len(lines) == places * len(wanted)


def test_committed_results_can_be_had_again() -> None:
    options = Namespace(only=["darts"], seed=0, draws=5, repeats=1)
    committed = {(key(line), line.get("condition")): line for line in read(COMMITTED) if line["problem"] == "ridge"}
    lines = run_hypergradients.measure(options)
    again = list(itertools.takewhile(lambda line: line["problem"] == "ridge", lines))
    assert len(again) == 4 * 3
    for line in again:
        old = committed[key(line), line["condition"]]
        for name in ("cosine", "relative_error", "norm_ratio"):
            # Betty's parameters drift by rounding, and differences of gradients magnify it.
            assert line[name] == pytest.approx(old[name], rel=1e-6)
