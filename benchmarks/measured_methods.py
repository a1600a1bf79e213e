"""What is measured of a hypergradient approximation: its error, its passes and its time."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from known_problems import KnownProblem
from stock_betty import StockBetty

from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.errors import BiloraError
from bilora.problems.replay.lower_step import Around
from bilora.settings.sections import resolved
from bilora.tensors import Tensors, add, dot, norm, restored


@dataclass(frozen=True)
class Method:
    """An approximation with its settings, ours or stock Betty's."""

    by: str  # bilora or betty
    name: str
    chosen: dict[str, Any] = field(default_factory=dict)  # the settings that are not the defaults
    products: str | None = None  # how ours takes them
    optimizer: str = "sgd"  # the lower one that it is made for

    def implicit_term(self, problem: KnownProblem) -> Tensors:
        """Return its implicit term for the problem's v."""
        if self.by == "betty":
            return self._stock(problem).implicit_term(problem.vector)
        term: Tensors = self._ours().implicit_term(problem.vector, problem.lower)
        return term

    def hypergradient(self, problem: KnownProblem) -> Callable[[], None]:
        """Return what takes everything that an upper step takes before its optimizer steps, from its loss on."""
        if self.by == "betty":
            return self._stock(problem).hypergradient
        upper = problem.upper
        upper.hypergradient = self._ours()

        def take() -> None:
            upper.backward(upper.training_step_exec(upper.cur_batch), upper.trainable_parameters(), None)
            upper.zero_grad()

        return take

    @property
    def around(self) -> Around:
        """Where it takes its derivatives: Betty does after the lower step, and ours before it by default."""
        return "after_step" if self.by == "betty" else "before_step"

    def settings(self) -> dict[str, Any]:
        """Return all its settings, defaults among them; of stock Betty the chosen ones."""
        return self.chosen if self.by == "betty" else dict(resolved(self._ours()))

    def _ours(self) -> Any:
        return build_hypergradient({"name": self.name, **self.chosen, **PRODUCTS[self.products]})

    def _stock(self, problem: KnownProblem) -> StockBetty:
        known = {"1/L": 1.0 / problem.curvature}
        return StockBetty(problem, self.name, {key: known.get(value, value) for key, value in self.chosen.items()})


PRODUCTS: dict[str | None, dict[str, Any]] = {
    None: {},
    "exact": {"products": "exact"},
    "central": {"products": "finite_difference", "finite_difference": "central"},
    "forward": {"products": "finite_difference", "finite_difference": "forward"},
}
"""The ways to take products, as settings."""


@dataclass
class Passes:
    """Forward and backward passes; the graph of a gradient counts as a pass like any other, though it is larger."""

    forward: int = 0
    backward: int = 0


@contextmanager
def counted(problem: KnownProblem) -> Iterator[Passes]:
    """Count the evaluations of both levels' losses and the calls of autograd in the block."""
    passes = Passes()
    lower, upper, grad = problem.lower.training_step, problem.upper.training_step, torch.autograd.grad

    def forward(loss: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(batch: Any) -> Any:
            passes.forward += 1
            return loss(batch)

        return call

    def backward(*args: Any, **kwargs: Any) -> Any:
        passes.backward += 1
        return grad(*args, **kwargs)

    with (
        patch.object(problem.lower, "training_step", forward(lower)),
        patch.object(problem.upper, "training_step", forward(upper)),
        patch.object(torch.autograd, "grad", backward),
    ):
        yield passes


def agreement(method: Method, problem: KnownProblem, *, seed: int) -> dict[str, Any]:
    """Return cosine, norm ratio and relative error of the implicit term, or the error that came instead."""
    expected = problem.reference(method.around)
    torch.manual_seed(seed)
    # Stock Betty alone would not leave the parameters as they were.
    with restored(problem.lower.trainable_parameters()):
        try:
            term = method.implicit_term(problem)
        except FAILURES as error:
            return {"error": _told(error)}
    length, known = norm(term), norm(expected)
    return {
        "cosine": dot(term, expected) / (length * known) if length > 0 else None,
        "norm_ratio": length / known,
        "relative_error": norm(add(term, expected, scale=-1.0)) / known,
    }


def over_draws(drawn: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means, and the error of the draws that failed; with one of those there are no means.

    Example:
        >>> over_draws([{"error": "DivergedError: far off"}, {"cosine": 1.0, "norm_ratio": 1.0}])
        {'error': 'DivergedError in 1 of 2: far off'}
    """
    errors = [draw["error"] for draw in drawn if "error" in draw]
    if errors:
        kind, _, text = errors[0].partition(": ")
        return {"error": f"{kind} in {len(errors)} of {len(drawn)}: {text}"}
    cosines = [draw["cosine"] for draw in drawn if draw["cosine"] is not None]
    return {
        "cosine": statistics.mean(cosines) if cosines else None,
        "lowest_cosine": min(cosines, default=None),
        "norm_ratio": statistics.mean(draw["norm_ratio"] for draw in drawn),
        "relative_error": statistics.mean(draw["relative_error"] for draw in drawn),
        "error": None,
    }


def passes_of(method: Method, problem: KnownProblem, *, seed: int) -> dict[str, int]:
    """Return the passes of one hypergradient; nothing where it fails."""
    take = method.hypergradient(problem)
    torch.manual_seed(seed)
    with restored(problem.lower.trainable_parameters()), counted(problem) as passes:
        try:
            take()
        except FAILURES:
            return {}
    return {"forward": passes.forward, "backward": passes.backward}


def seconds_of(pairs: Sequence[tuple[Method, KnownProblem]], *, seed: int, repeats: int) -> list[float]:
    """Return the median CPU seconds of one hypergradient of each method on its problem."""
    taken: list[list[float]] = [[] for _ in pairs]
    # The methods take turns, so that a machine that slows down slows all of them down.
    for _ in range(repeats):
        for (method, problem), seconds in zip(pairs, taken, strict=True):
            take = method.hypergradient(problem)
            # The same masks each time: with others an approximation may stop earlier, or fail.
            torch.manual_seed(seed)
            with restored(problem.lower.trainable_parameters()):
                # Of this process alone: on a shared machine the wall clock measures the others too.
                start = time.process_time()
                take()
                seconds.append(time.process_time() - start)
    return [statistics.median(seconds) for seconds in taken]


FAILURES = (BiloraError, RuntimeError)
"""That an approximation fails is a result; RuntimeError is what autograd raises through stock Betty."""


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"
