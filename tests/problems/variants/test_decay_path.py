"""What the path of a decay says: against Adam's real walks, and in closed form."""

import math

import pytest
import torch
from torch import Tensor

from bilora.problems.variants.decay_path import DecayPath, read_path

RATE = 0.1


def walks(gradients: Tensor) -> Tensor:
    """The path of Adam at a constant rate under gradients ``(steps, walks)``, from zero."""
    place = torch.nn.Parameter(torch.zeros(gradients.shape[1]))
    optimizer, path = torch.optim.Adam([place], lr=RATE), []
    for gradient in gradients:
        place.grad = gradient
        optimizer.step()
        path.append(place.detach().clone())
    return torch.stack(path)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_gradients_without_a_mean_take_adam_as_far_as_the_formula_says(share: float) -> None:
    """The distance of the mean of the last share from the start is one standard deviation of a random walk."""
    gradients = torch.randn(150, 2000, generator=torch.Generator().manual_seed(0))
    path = walks(gradients)
    readings = [read_path(path[:, i], gradients[:, i], start=0.0, rate=RATE, share=share) for i in range(path.shape[1])]
    spread = math.sqrt(sum(reading.walks**2 for reading in readings) / len(readings))
    assert spread == pytest.approx(1.0, abs=0.1)
    # By chance alone one in twenty gradients is off zero by two errors, and one walk in three goes beyond one.
    if share:
        assert sum(reading.errors > 2 for reading in readings) / len(readings) == pytest.approx(0.05, abs=0.03)
        assert sum(reading.says_nothing for reading in readings) / len(readings) == pytest.approx(0.65, abs=0.06)


def test_a_path_that_has_arrived_says_something_though_nothing_draws_it_any_more() -> None:
    noise = torch.randn(150, generator=torch.Generator().manual_seed(1))
    arrived = torch.cat([torch.linspace(0, -3, 60), torch.full((90,), -3.0)])
    reading = read_path(arrived, noise, start=0.0, rate=RATE, share=0.5)
    assert (reading.mean, reading.errors < 2, reading.says_nothing) == (pytest.approx(-3.0), True, False)
    stayed = read_path(torch.zeros(150), noise, start=0.0, rate=RATE, share=0.5)
    assert (stayed.walks, stayed.says_nothing) == (0.0, True)
    drawn = read_path(torch.zeros(150), noise + 1, start=0.0, rate=RATE, share=0.5)
    assert (drawn.errors > 2, drawn.says_nothing) == (True, False)


def test_errors_in_closed_form() -> None:
    """Of 1, 3, 1, 3, ... every step is off its neighbours: eight count as eight, and twice each as fewer."""
    gradients = torch.tensor([1.0, 3.0] * 4)
    path = torch.zeros(8)
    reading = read_path(path, gradients, start=0.0, rate=RATE, share=1.0)
    assert reading.errors == pytest.approx(2 * math.sqrt(8) / math.sqrt(8 / 7))
    pairs = torch.tensor([1.0, 1.0, 3.0, 3.0] * 2)
    # Deviations -1 -1 1 1 -1 -1 1 1: four neighbours agree and three do not, so that r = 1 / 8.
    reading = read_path(path, pairs, start=0.0, rate=RATE, share=1.0)
    assert reading.errors == pytest.approx(2 * math.sqrt(8 * (7 / 8) / (9 / 8)) / math.sqrt(8 / 7))
    assert read_path(path, torch.ones(8), start=0.0, rate=RATE, share=1.0).errors == math.inf
    assert read_path(path[:2], gradients[:2], start=0.0, rate=RATE, share=1.0).errors == 0.0


def decays(steps: list[tuple[float, float]], *, upper_rows: int = 16, share: float = 0.5) -> DecayPath:
    path = DecayPath(["a", "b", "c"], start=3.0, cap=20.0, floor=1e-3, groups=["x", "y", "x"], rate=RATE, share=share)
    for first, second in steps:
        with torch.no_grad():
            path.log_decay.copy_(torch.tensor([first, second]))
        path.note(torch.tensor([1.0, 0.0]), upper_rows=upper_rows)
    return path


def test_the_answer_is_the_mean_of_the_logarithms_or_the_start() -> None:
    start = math.log(3.0)
    path = decays([(0.0, start), (9.0, start), (1.0, start), (2.0, start)])
    learned = path.learned()
    assert learned["decays"] == {"x": pytest.approx(math.exp(1.5)), "y": pytest.approx(3.0)}
    assert learned["weight_decays"] == {
        "a": learned["decays"]["x"],
        "b": learned["decays"]["y"],
        "c": learned["decays"]["x"],
    }
    assert learned["words"] == (
        "x: decay 4.48, y: decay 3; of y as at the start, since D2 does not say in which direction to go"
    )
    assert decays([(0.0, 0.0), (2.0, 0.5)], share=0.0).answers() == {"x": 2.0, "y": 0.5}


def test_what_settles_is_the_answer_and_it_may_settle_twice() -> None:
    path = decays([(0.0, 0.0), (2.0, 0.5)])
    for _ in range(2):
        path.settle(torch.nn.Linear(1, 1))
        assert path.log_decay.tolist() == [2.0, 0.5]


def test_too_few_rows_to_learn_anything() -> None:
    path = decays([(0.0, 0.0), (2.0, 0.5)], upper_rows=15)
    assert path.learned()["words"] == "x: decay 3, y: decay 3; as at the start, since D2 has fewer than 16 rows"


def test_a_path_goes_on_from_its_state() -> None:
    path, other = decays([(0.0, 1.0), (2.0, 0.5)]), decays([])
    assert other.answers() == {"x": other.start, "y": other.start}
    other.load_state_dict(path.state_dict())
    for one in (path, other):
        one.note(torch.zeros(2), upper_rows=16)
    assert (other.answers(), other.learned()) == (path.answers(), path.learned())
