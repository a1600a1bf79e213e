"""Tiny transformers with adapters, and a model of two vectors, that the engine trains."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from betty.configs import Config
from peft import get_peft_model
from tiny_models import tiny_bert, tiny_gpt2, tiny_llama
from torch import Tensor, nn

from bilora import BiloraConfig
from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.callback import Callback
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import FitResult, fit
from bilora.problems import LowerProblem, UpperProblem
from bilora.problems.catalog import find_variant
from bilora.problems.variant import Variant
from bilora.problems.variants.bilora import BiloraLower, BiloraSettings, BiloraUpper
from bilora.tasks.generation.batches import PairCollator


def _bert_batch(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 64, (8, 12), generator=generator)
    return {"input_ids": tokens, "labels": torch.randint(0, 2, (8,), generator=generator)}


def _gpt2_batch(seed: int) -> dict[str, Tensor]:
    tokens = torch.randint(1, 64, (8, 12), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": tokens, "labels": tokens.clone()}


@dataclass
class Transformer:
    """A tiny transformer with a BILORA adapter, wired as a bi-level problem."""

    engine: BilevelEngine
    lower: BiloraLower
    upper: BiloraUpper
    model: nn.Module

    def run_to_upper_step(self) -> tuple[Tensor, ...]:
        """Run the engine's steps and return v of the upper batch at the parameters as they then are."""
        self.engine.run()
        self.engine.train()
        batch = next(iter(self.upper.train_data_loader[0]))
        return torch.autograd.grad(self.upper.training_step_exec(batch), self.lower.trainable_parameters())


def _answer_batch(seed: int) -> dict[str, Tensor]:
    """Return a batch as generation has it: prompts without a loss, answers that end, padding with the end token."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for length in (12, 9, 7, 12, 10, 6, 8, 11):
        tokens = torch.randint(1, 64, (length - 1,), generator=generator).tolist()
        examples.append({"input_ids": [*tokens, 0], "labels": [-100] * 4 + [*tokens[4:], 0]})
    return PairCollator(0)(examples)


MODELS = {
    "bert": (tiny_bert, _bert_batch, "SEQ_CLS"),
    "gpt2": (tiny_gpt2, _gpt2_batch, "CAUSAL_LM"),
    "gpt2-answers": (tiny_gpt2, _answer_batch, "CAUSAL_LM"),
    "llama": (tiny_llama, _answer_batch, "CAUSAL_LM"),
}


@pytest.fixture
def make_transformer() -> Callable[..., Transformer]:
    """Make a tiny transformer whose levels both step with SGD, the upper one at rate zero."""

    def make(
        name: str,
        *,
        dropout: float,
        steps: int = 3,
        accumulation: int = 1,
        adapter_dropout: float = 0.0,
        unroll: int | None = None,
        **options: Any,
    ) -> Transformer:
        torch.manual_seed(0)
        base, make_batch, task_type = MODELS[name]
        softmax = {"formulation": "softmax", "init_weights": False, "dropout": adapter_dropout}
        model = get_peft_model(base(dropout), BiloraConfig(task_type=task_type, r=4, **softmax))
        settings = BiloraSettings(rank=4, formulation="softmax")
        below = Config(unroll_steps=unroll or steps, gradient_accumulation=accumulation)
        lower = BiloraLower("lower", below, model, extra_config=settings)
        upper = BiloraUpper("upper", Config(), model, extra_config=settings)
        lower.optimizer = torch.optim.SGD(lower.trainable_parameters(), lr=0.1)
        upper.optimizer = torch.optim.SGD(upper.trainable_parameters(), lr=0.0)
        lower.train_data_loader = [make_batch(seed) for seed in range(4)]
        upper.train_data_loader = [make_batch(100)]
        options = {"hypergradient": {"name": "darts", "finite_difference": "central"}, **options}
        return Transformer(BilevelEngine(lower, upper, steps=steps, device="cpu", **options), lower, upper, model)

    return make


class Pair(nn.Module):
    """One float64 vector a level, and the row ids of every batch that a level was given."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Parameter(torch.linspace(-1.0, 1.0, 4).double())
        self.above = nn.Parameter(torch.full((4,), 0.5).double())
        self.seen: dict[str, list[list[int]]] = {"lower": [], "upper": []}


class PairLower(LowerProblem):
    """A quadratic whose target is the batch's mean label plus noise, so that the random state matters."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        return {"below": self.module.below}

    def training_step(self, batch: Any) -> Any:
        self.module.seen["lower"].append(batch["row"].tolist())
        target = batch["labels"].double().mean() + torch.rand_like(self.module.below)
        return ((self.module.below - self.module.above - target) ** 2).mean()


class PairUpper(UpperProblem):
    """A quadratic in the sum of both vectors."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        return {"above": self.module.above}

    def training_step(self, batch: Any) -> Any:
        self.module.seen["upper"].append(batch["row"].tolist())
        return ((self.module.below + self.module.above - batch["labels"].double().mean()) ** 2).mean()


def collate(rows: Any) -> dict[str, Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


@pytest.fixture
def make_engine() -> Callable[..., BilevelEngine]:
    """Make an engine over a fresh pair of vectors; both levels step with SGD."""

    def make(
        *,
        single: bool = False,
        names: tuple[str, str] = ("lower", "upper"),
        lower_config: Config | None = None,
        upper_config: Config | None = None,
        lower_class: type[LowerProblem] = PairLower,
        upper_class: type[UpperProblem] = PairUpper,
        **options: Any,
    ) -> BilevelEngine:
        torch.manual_seed(0)
        pair = Pair()
        batches = [collate([{"row": row, "labels": row % 3}]) for row in range(5)]
        lower = lower_class(names[0], lower_config or Config(unroll_steps=2), pair)
        upper = upper_class(names[1], upper_config or Config(), pair)
        lower.optimizer = torch.optim.SGD(lower.trainable_parameters(), lr=0.1)
        upper.optimizer = torch.optim.SGD(upper.trainable_parameters(), lr=0.1)
        lower.train_data_loader = upper.train_data_loader = batches
        options = {"steps": 5, "hypergradient": "first_order", "device": "cpu", **options}
        return BilevelEngine(lower, None if single else upper, **options)

    return make


class Records(Callback):
    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.validations: list[Any] = []

    def on_step(self, engine: BilevelEngine, record: Any) -> None:
        self.steps.append(record)

    def on_validation(self, engine: BilevelEngine, record: Any) -> None:
        self.validations.append(record)


@dataclass
class Fitted:
    model: Any
    result: FitResult
    records: Records

    def parameters(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.model.named_parameters() if weight.requires_grad}


# What is handed on to ``fit`` as it is.
FIT_WORDS = ("validate", "monitor", "upper_rows", "folder", "resume", "allow_config_change", "variant_settings")


def _fitted(model: Any, rows: Any, variant: Variant, batches: LevelSettings, callbacks: Any, options: Any) -> Fitted:
    given = {name: options.pop(name) for name in FIT_WORDS if name in options}
    common = {"unroll_steps": 2, "lower": batches, "upper": batches, "device": "cpu"}
    settings, records = FitSettings(**{**common, **options}), Records()
    callbacks = (records, *callbacks)
    result = fit(model, rows, collate=collate, variant=variant, settings=settings, callbacks=callbacks, **given)
    return Fitted(model, result, records)


@pytest.fixture
def fit_pair() -> Callable[..., Fitted]:
    """Fit a fresh pair to ``rows`` rows of two classes; words that ``fit`` does not know are settings."""

    def run(*, rows: int = 40, single: bool = False, callbacks: Any = (), **options: Any) -> Fitted:
        variant = Variant("pair", PairLower, None if single else PairUpper, dict, lambda model, *_, **__: model)
        data = [{"row": row, "labels": row % 2} for row in range(rows)]
        options = {"steps": 8, "hypergradient": "first_order", **options}
        return _fitted(Pair(), data, variant, LevelSettings(batch_size=4), callbacks, options)

    return run


@pytest.fixture
def fit_adapter() -> Callable[..., Fitted]:
    """Fit a variant's adapter on a fresh tiny BERT, with dropout, to 40 rows of synthetic ids."""

    def run(
        method: str,
        *,
        settings: dict[str, Any] | None = None,
        base_dropout: float = 0.1,
        dtype: torch.dtype = torch.float32,
        callbacks: Any = (),
        **options: Any,
    ) -> Fitted:
        given = {name: options.pop(name) for name in FIT_WORDS if name in options}
        variant, fit_settings = find_variant(method), {"steps": 4, **(settings or {})}
        adapter = variant.settings(rank=2, **options)
        torch.manual_seed(0)
        base: Any = tiny_bert(base_dropout)
        model = variant.adapt(base, adapter, task_type="SEQ_CLS", steps=fit_settings["steps"]).to(dtype)
        torch.seed()  # what the fit does must come from its own seed
        tokens = torch.randint(1, 64, (40, 6), generator=torch.Generator().manual_seed(1))
        data = [{"input_ids": ids, "labels": index % 2} for index, ids in enumerate(tokens.tolist())]
        if "sources" in variant.row_marks:
            data = [{**row, "source": f"site {index % 3}"} for index, row in enumerate(data)]
        batches = LevelSettings(batch_size=8, learning_rate=1e-2)
        return _fitted(model, data, variant, batches, callbacks, {"variant_settings": adapter, **given, **fit_settings})

    return run
