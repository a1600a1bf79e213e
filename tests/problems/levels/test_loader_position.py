"""Coming back to a place in a loader."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from bilora.errors import CheckpointError
from bilora.problems.levels.loader_position import LoaderPosition

ROWS = list(range(10))


def shuffling(seed: int = 0) -> DataLoader[int]:
    return DataLoader(ROWS, batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def read(loader: Any, epochs: int, batches: int) -> tuple[dict[str, Any], list[Any]]:
    """Return the state after whole epochs and some batches, and all that would have followed in two more epochs."""
    for _ in range(epochs):
        list(loader)
    position = LoaderPosition(loader, level="lower")
    iterator = iter(loader)
    for _ in range(batches):
        next(iterator)
        position.read += 1
    state = position.state()
    return state, [batch.tolist() for batch in (*iterator, *loader, *loader)]


@pytest.mark.parametrize("epochs", [0, 2])
@pytest.mark.parametrize("batches", [0, 1, 3, 4])
def test_an_order_goes_on_where_it_was(epochs: int, batches: int) -> None:
    state, expected = read(shuffling(), epochs, batches)
    fresh = shuffling(seed=99)
    position = LoaderPosition(fresh, level="lower")
    rest = [*position.reopened(state), *fresh, *fresh]
    assert [batch.tolist() for batch in rest] == expected
    assert position.state() == state or torch.equal(position.state()["generator"], state["generator"])


def test_an_order_of_the_global_random_state_is_refused() -> None:
    position = LoaderPosition(DataLoader(ROWS, shuffle=True), level="upper")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="the data loader of level 'upper' shuffles by the global random state"):
        position.state()


@pytest.mark.parametrize("loader", [ROWS, DataLoader(ROWS)])  # type: ignore[arg-type]
def test_loaders_without_a_generator(loader: Any) -> None:
    position = LoaderPosition(loader, level="lower")
    position.read += 1
    iterator = LoaderPosition(loader, level="lower").reopened(position.state())
    assert int(next(iterator)) == 1


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"read": 4}, "checkpoint incomplete: lower.loaders: generator is missing"),
        ({"read": 1, "generator": None}, "generator is missing"),
        (
            {"read": 99, "generator": torch.Generator().get_state()},
            "99 batches had been read, and the loader has fewer",
        ),
    ],
)
def test_states_that_do_not_fit(state: dict[str, Any], match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        LoaderPosition(shuffling(), level="lower").reopened(state)
