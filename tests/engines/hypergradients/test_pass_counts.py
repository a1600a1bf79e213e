"""Forward and backward passes of an upper step, against the cost model of the design."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

COST = {
    # Passes of one upper step: one on D2, and one a product on D1.
    "first_order": 1,
    "forward": 1 + 1,
    "central": 1 + 2,
}


@pytest.mark.parametrize("unroll", [1, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("scheme", COST)
def test_an_upper_step_costs_what_the_model_says(
    make_transformer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, scheme: str, accumulation: int, unroll: int
) -> None:
    chosen = scheme if scheme == "first_order" else {"name": "darts", "finite_difference": scheme}
    problem = make_transformer("bert", dropout=0.1, hypergradient=chosen, steps=unroll, accumulation=accumulation)
    counts = {"forward": 0, "backward": 0}

    def count(name: str) -> None:
        real = getattr(torch.autograd, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            counts["backward"] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(torch.autograd, name, counted)

    count("grad")
    count("backward")
    problem.model.register_forward_pre_hook(lambda *_: counts.update(forward=counts["forward"] + 1))
    problem.engine.run()
    products = COST[scheme] - 1
    expected = unroll * accumulation + 1 + products * accumulation
    assert counts == {"forward": expected, "backward": expected}
    assert problem.engine.upper_step == 1
