"""Measure every hypergradient approximation, with every way to take its products, beside stock Betty's.

Three tables and a plot: the error of the implicit term on a ridge regression, against its closed form; the agreement
on a tiny BERT with adapters and dropout, against the exact one-step mixed derivative under the same masks; and what
one hypergradient costs there. All numbers but the times are the same in every run with a seed. Examples::

    python benchmarks/run_hypergradients.py
    python benchmarks/run_hypergradients.py --output benchmarks/results
    python benchmarks/run_hypergradients.py --only darts unrolled --draws 2
"""

import argparse
import io
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hypergradient_tables import plot_errors, print_tables
from known_problems import KnownProblem, make_bert, make_ridge
from measured_methods import PRODUCTS, Method, agreement, over_draws, passes_of, seconds_of

from bilora.artifacts.fingerprint import versions
from bilora.engines.hypergradients.catalog import HYPERGRADIENTS
from bilora.files.formats import finite_or_null
from bilora.models.pretrained import quiet_transformers

PROGRAM = "run_hypergradients.py"
CONDITIONS = (1.0, 1e2, 1e4)
DROPOUTS = (0.0, 0.1)
COSTED = 0.1
"""The dropout at which passes and seconds are measured."""

FIRST_ORDER: tuple[dict[str, Any], ...] = ({"name": "first_order"},)
"""Approximations that take no products."""

SETTINGS: tuple[dict[str, Any], ...] = (
    {"name": "darts", "scale": "one"},  # as stock Betty has it
    {"name": "neumann", "terms": 5, "step_size": "power_iteration"},
    {"name": "neumann", "terms": 20, "step_size": "power_iteration"},
    {"name": "conjugate_gradient", "iterations": 5},
    {"name": "conjugate_gradient", "iterations": 20},
    {"name": "conjugate_gradient", "iterations": 20, "damping": 1.0},
    {"name": "nystrom", "rank": 5},
    {"name": "nystrom", "rank": 20},
    {"name": "nystrom", "rank": 20, "damping": 1e-6},
    {"name": "nystrom", "rank": 20, "damping": 1.0},
    {"name": "adaptive"},
    {"name": "unrolled", "steps": 1},
    {"name": "unrolled", "steps": 4},
)
"""Our approximations; each is run with every way to take products."""

STOCK: tuple[dict[str, Any], ...] = (
    {"name": "darts"},
    {"name": "neumann"},
    {"name": "neumann", "neumann_iterations": 5, "neumann_alpha": "1/L"},
    {"name": "neumann", "neumann_iterations": 20, "neumann_alpha": "1/L"},
    {"name": "cg", "cg_iterations": 5},
    {"name": "cg", "cg_iterations": 20},
    {"name": "sama"},
)
"""Stock Betty's; 1/L is one over the largest eigenvalue of the lower Hessian, its defaults are 1 and 1."""

ADAM = ("adaptive", "sama")
"""Approximations that are about Adam; they are run on a lower level that steps with AdamW, all others with SGD."""


def methods(only: Sequence[str] = ()) -> list[Method]:
    """Return everything that is measured, in the order of the tables."""
    ours: list[tuple[dict[str, Any], str | None]] = [(settings, None) for settings in FIRST_ORDER]
    ours += [(settings, products) for settings in SETTINGS for products in PRODUCTS if products is not None]
    measured = [_method("bilora", settings, products) for settings, products in ours]
    measured += [_method("betty", settings, None) for settings in STOCK]
    return [method for method in measured if not only or method.name in only]


def _method(by: str, settings: dict[str, Any], products: str | None) -> Method:
    chosen = {key: value for key, value in settings.items() if key != "name"}
    name = settings["name"]
    return Method(by, name, chosen, products, optimizer="adamw" if name in ADAM else "sgd")


def main(argv: Sequence[str]) -> int:
    """Run the measurements, print them, and write them where ``--output`` says."""
    options = _options(argv)
    torch.set_num_threads(1)
    quiet_transformers()
    command = shlex.join(["python", f"benchmarks/{PROGRAM}", *argv])
    about = {"seed": options.seed, "command": command, "versions": versions()}
    lines = [{**line, **about} for line in measure(options)]
    text = io.StringIO()
    print_tables(lines, about, file=text)
    print(text.getvalue(), end="")
    if options.output is not None:
        write(lines, text.getvalue(), options.output)
    return 0


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a line of results a method and problem; every method sees the same problems."""
    chosen = methods(options.only)
    seeds = range(options.seed, options.seed + options.draws)
    for condition in CONDITIONS:
        where = {"problem": "ridge", "condition": condition, "draws": options.draws}
        make = partial(make_ridge, condition=condition)
        for method, line in _on(chosen, make, seeds=seeds, repeats=0):
            yield {**_about(method), **where, **line}
    for dropout in DROPOUTS:
        where = {"problem": "bert", "dropout": dropout, "draws": options.draws}
        make = partial(make_bert, dropout=dropout)
        repeats = options.repeats if dropout == COSTED else 0
        for method, line in _on(chosen, make, seeds=seeds, repeats=repeats):
            yield {**_about(method), **where, **line}


def _about(method: Method) -> dict[str, Any]:
    return {
        "by": method.by,
        "name": method.name,
        "chosen": method.chosen,
        "products": method.products,
        "settings": method.settings(),
        "lower_optimizer": method.optimizer,
    }


def _on(
    chosen: Sequence[Method], make: Callable[..., KnownProblem], *, seeds: Sequence[int], repeats: int
) -> Iterator[tuple[Method, dict[str, Any]]]:
    optimizers = sorted({method.optimizer for method in chosen})
    problems = {optimizer: [make(optimizer=optimizer, seed=seed) for seed in seeds] for optimizer in optimizers}
    lines = []
    for method in chosen:
        drawn_problems = problems[method.optimizer]
        drawn = [agreement(method, problem, seed=seed) for problem, seed in zip(drawn_problems, seeds, strict=True)]
        lines.append({**over_draws(drawn), **passes_of(method, drawn_problems[0], seed=seeds[0])})
    if repeats:
        able = [index for index, line in enumerate(lines) if "forward" in line]
        pairs = [(chosen[index], problems[chosen[index].optimizer][0]) for index in able]
        for index, seconds in zip(able, seconds_of(pairs, seed=seeds[0], repeats=repeats), strict=True):
            lines[index]["seconds"] = seconds
    return zip(chosen, lines, strict=True)


def write(lines: Sequence[dict[str, Any]], text: str, folder: Path) -> None:
    """Write ``hypergradients.jsonl``, ``.txt`` and ``.png``; those of an earlier run are replaced."""
    rows = [json.dumps(finite_or_null(line), allow_nan=False) + "\n" for line in lines]
    (folder / "hypergradients.jsonl").write_text("".join(rows), encoding="utf-8")
    (folder / "hypergradients.txt").write_text(text, encoding="utf-8")
    plot_errors(lines, path=folder / "hypergradients.png")


def _options(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options, and make the output folder, so that nothing is measured in vain."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Measure every hypergradient approximation.")
    known = sorted({*HYPERGRADIENTS, *(settings["name"] for settings in STOCK)})
    parser.add_argument("--output", type=Path, help="folder for the results; those of an earlier run are replaced")
    parser.add_argument("--seed", type=int, default=0, help="of data, models and dropout masks")
    parser.add_argument("--draws", type=int, default=5, help="problems of each kind, over which means are taken")
    parser.add_argument("--repeats", type=int, default=5, help="timed hypergradients, of which the median is printed")
    parser.add_argument("--only", nargs="+", choices=known, default=[], help="approximations, by name; all if left out")
    options = parser.parse_args(argv)
    if min(options.draws, options.repeats) < 1:
        parser.error(f"--draws is {options.draws} and --repeats is {options.repeats}; each must be at least 1")
    if options.output is not None:
        try:
            options.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--output cannot be made: {error}")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
