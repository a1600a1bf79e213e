"""A ridge problem with closed forms, tiny models with each variant's adapter, and Betty's own engine to run them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from peft import PeftModel
from ridge import LowerLoss, Ridge, UpperLoss, Vector, run_engine
from tiny_models import tiny_bert, tiny_gpt2, tiny_llama
from torch import Tensor, nn

from bilora.models.pretrained import quiet_peft
from bilora.problems import VARIANTS, LowerProblem, Needs, UpperProblem
from bilora.tensors import Tensors, zeros_like

FEATURES = 5
RATE = 0.05
MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: tiny_bert(0.1),
    "gpt2": lambda: tiny_gpt2(0.1, initializer_range=0.2),
    "llama": lambda: tiny_llama(0.1, initializer_range=0.2),
}


class CpuEngine(Engine):  # type: ignore[misc]  # Betty carries no types
    """Betty's engine as it is, but for the device: ours are ``torch.device`` objects."""

    def configure_systems(self) -> dict[str, Any]:
        systems: dict[str, Any] = super().configure_systems()
        self.device = torch.device("cpu")
        return systems


@dataclass
class Stub:
    """A hypergradient that returns ``answer(vector, lower)``, zeros unless given, and remembers its calls."""

    needs: Needs = Needs()
    answer: Callable[[Tensors, LowerProblem], Tensors] | None = None
    vectors: list[Tensors] = field(default_factory=list)

    def implicit_term(self, vector: Tensors, lower: LowerProblem) -> Tensors:
        self.vectors.append(vector)
        return self.answer(vector, lower) if self.answer else zeros_like(lower.upper_parameters())


def connect(lower: Any, upper: Any = None) -> CpuEngine:
    """Put the levels into Betty's graph, which sets them up."""
    graph = {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}} if upper else {"u2l": {}, "l2u": {}}
    return CpuEngine([lower, upper] if upper else [lower], EngineConfig(), graph)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def train() -> Callable[..., None]:
    """Give a lower level, alone or under an upper one, so many micro-batches; the first call sets it up."""
    engines: dict[int, CpuEngine] = {}

    def go(lower: LowerProblem, micro_batches: int, upper: UpperProblem | None = None) -> None:
        run_engine(engines.get(id(lower)) or engines.setdefault(id(lower), connect(lower, upper)), micro_batches)

    return go


@pytest.fixture
def stub() -> type[Stub]:
    """The class of stand-ins for a hypergradient."""
    return Stub


@pytest.fixture
def make_ridge() -> Callable[..., Ridge]:
    """Make a ridge problem of two classes of problems, ours or Betty's; the same numbers every time."""

    def make(
        *,
        lower_config: Config | None = None,
        upper_config: Config | None = None,
        hypergradient: Any = None,
        kinds: tuple[type, type] = (LowerProblem, UpperProblem),
    ) -> Ridge:
        generator = torch.Generator().manual_seed(1)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        def level(name: str, kind: type, loss: type, value: Tensor, config: Config | None) -> Any:
            module = Vector(value)
            optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
            batches = [(draw(8, FEATURES), draw(8)) for _ in range(4)]
            return type("Ridge", (loss, kind), {})(
                name, config or Config(), module, optimizer, train_data_loader=batches
            )

        lower = level("lower", kinds[0], LowerLoss, draw(FEATURES), lower_config)
        upper = level("upper", kinds[1], UpperLoss, 0.3 * draw(FEATURES), upper_config)
        if isinstance(upper, UpperProblem):
            upper.hypergradient = hypergradient or Stub()
            lower.needs = upper.hypergradient.needs
        batches = lower.train_data_loader, upper.train_data_loader
        return Ridge(connect(lower, upper), lower, upper, *batches)

    return make


@pytest.fixture(scope="session")
def make_base() -> Callable[[str], nn.Module]:
    """Build a tiny random model; each call gives the same weights."""

    def build(kind: str) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return MODELS[kind]()

    return build


@pytest.fixture(scope="session")
def adapted(make_base: Callable[[str], nn.Module]) -> Callable[..., PeftModel]:
    """Return a tiny model with a variant's adapter on it; the same weights every time."""

    def build(name: str, *, kind: str = "bert", settings: Any = None, steps: int = 6) -> PeftModel:
        variant = VARIANTS[name]
        with torch.random.fork_rng(), quiet_peft():
            torch.manual_seed(4)
            settings = variant.settings(rank=4) if settings is None else settings
            task_type = "SEQ_CLS" if kind == "bert" else "CAUSAL_LM"
            return variant.adapt(make_base(kind), settings, task_type=task_type, steps=steps)

    return build


@pytest.fixture(scope="session")
def bert_batches() -> list[dict[str, Tensor]]:
    """Three batches of random tokens with labels."""
    generator = torch.Generator().manual_seed(5)
    return [
        {
            "input_ids": torch.randint(3, 64, (4, 7), generator=generator),
            "attention_mask": torch.ones(4, 7, dtype=torch.long),
            "labels": torch.randint(0, 2, (4,), generator=generator),
        }
        for _ in range(3)
    ]
