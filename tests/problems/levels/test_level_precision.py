"""bf16 and fp16 by autocast, on a CPU too: what really runs, and what happens when fp16 overflows."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from betty.configs import Config
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from bilora.errors import DivergedError
from bilora.problems import LowerProblem

Train = Callable[[LowerProblem, int], None]
START_SCALE = 2.0**16  # GradScaler's own


class Network(nn.Module):
    """Two layers; the dtype that leaves the first one is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 1)
        self.seen: set[torch.dtype] = set()
        self.first.register_forward_hook(lambda module, inputs, output: self.seen.add(output.dtype))

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        prediction = self.second(torch.tanh(self.first(x)))
        return {"loss": ((prediction.squeeze(-1).float() - y) ** 2).mean()}


@pytest.fixture
def batches() -> list[dict[str, Tensor]]:
    return [{"x": torch.randn(16, 8), "y": torch.randn(16)} for _ in range(4)]


def make(batches: Any, precision: str, *, rate: float = 0.05, **config: Any) -> Any:
    torch.manual_seed(2)
    module = Network()
    optimizer = SGD(module.parameters(), lr=rate, momentum=0.9)
    scheduler = StepLR(optimizer, step_size=1, gamma=0.5)
    return LowerProblem("lower", Config(precision=precision, **config), module, optimizer, scheduler, batches)


def moved(level: LowerProblem, train: Train, micro_batches: int) -> Tensor:
    before = flat(level)
    train(level, micro_batches)
    return flat(level) - before


def flat(level: LowerProblem) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in level.trainable_parameters()])


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_modules_run_in_the_dtype_of_the_precision(
    batches: Any, train: Train, precision: str, dtype: torch.dtype
) -> None:
    level = make(batches, precision)
    train(level, 2)
    assert level.module.seen == {dtype}
    assert {parameter.dtype for parameter in level.trainable_parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("config", [{}, {"gradient_accumulation": 2}, {"gradient_clipping": 0.1}])
def test_half_precision_moves_as_fp32(batches: Any, train: Train, precision: str, config: dict[str, Any]) -> None:
    half, full = make(batches, precision, **config), make(batches, "fp32", **config)
    ours, theirs = moved(half, train, 4), moved(full, train, 4)
    assert not torch.equal(ours, theirs)
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.999
    assert ours.norm() / theirs.norm() == pytest.approx(1.0, abs=0.01)
    # The gradient is told without its loss scale.
    assert half.report.gradient_norm == pytest.approx(full.report.gradient_norm, rel=0.02)
    assert half.report.loss == pytest.approx(full.report.loss, rel=0.02)


def test_overflow_skips_the_step_and_halves_the_scale(batches: Any, train: Train) -> None:
    """A loss times 1000 overflows at the starting scale; neither parameters nor momentum nor schedule move."""
    level = make(batches, "fp16")
    level.training_step = lambda batch: 1000 * level.module(**batch)["loss"]
    assert moved(level, train, 1).abs().max() == 0.0
    assert level.scaler.get_scale() == START_SCALE / 2
    assert level.optimizer.state == {}
    assert level.optimizer.param_groups[0]["lr"] == 0.05
    assert math.isfinite(level.report.loss)
    assert not math.isfinite(level.report.gradient_norm)


def test_training_goes_on_once_the_scale_fits(batches: Any, train: Train) -> None:
    level = make(batches, "fp16", rate=1e-5)
    level.training_step = lambda batch: 1000 * level.module(**batch)["loss"]
    skipped = 0
    while moved(level, train, 1).abs().max() == 0.0:
        skipped += 1
    assert 1 <= skipped < 16
    assert level.scaler.get_scale() == START_SCALE / 2**skipped
    assert level.optimizer.param_groups[0]["lr"] == 0.5e-5  # one step, however many were skipped


def test_one_overflow_in_an_accumulated_step_skips_all_of_it(batches: Any, train: Train) -> None:
    level = make(batches, "fp16", gradient_accumulation=2)
    factors = iter([1.0, 1000.0, 1.0, 1.0])
    level.training_step = lambda batch: next(factors) * level.module(**batch)["loss"]
    assert moved(level, train, 2).abs().max() == 0.0
    assert moved(level, train, 2).abs().max() > 0.0


def test_gradient_that_no_scale_saves_is_an_error(batches: Any, train: Train) -> None:
    """The gradient of sqrt at zero is infinite at every scale: 16 halvings from 2^16 to 1, then the error."""
    level = make(batches, "fp16")
    level.training_step = lambda batch: (0 * level.module(**batch)["loss"]).sqrt()
    before = flat(level)
    train(level, 16)
    assert level.scaler.get_scale() == 1.0
    with pytest.raises(DivergedError, match="level 'lower', step 17: loss 0.0, gradient norm (nan|inf)"):
        train(level, 1)
    assert torch.equal(flat(level), before)


def test_loss_that_is_not_finite_is_an_error_at_once(batches: Any, train: Train) -> None:
    level = make(batches, "fp16")
    level.training_step = lambda batch: math.inf * level.module(**batch)["loss"]
    with pytest.raises(DivergedError, match="level 'lower', step 1: loss inf"):
        train(level, 1)
