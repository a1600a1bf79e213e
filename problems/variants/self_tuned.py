"""Learn on D2 how strongly to regularise, then train from the start on all rows: one run, and nothing to tune."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bilora import BiloraConfig, level_parameters
from bilora.adapter.level_parameters import levelled_layers, pseudo_svd_layers
from bilora.data.row_marks import TrainingRows
from bilora.errors import SettingsError
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.problems.stage import Stage
from bilora.problems.variant import AdapterSettings, Variant
from bilora.problems.variants import bilora
from bilora.problems.variants.forgotten_classes import ForgottenClasses
from bilora.problems.variants.learned_decay import DecayUpper, bounds_faults
from bilora.problems.variants.learned_rate import RatedDecays, RatedLower, rate_of
from bilora.problems.variants.shaped_loss import class_names
from bilora.tensors import Tensors

# A decay below it is none in any run that ends.
FLOOR = 1e-3
Values = Sequence[Tensor]


def _whole(values: Values) -> Tensor:
    return torch.cat(list(values))


def _shuffled(values: Values) -> Values:
    order = torch.randperm(sum(map(len, values)), generator=torch.Generator().manual_seed(0))
    return torch.split(_whole(values)[order.to(values[0].device)], list(map(len, values)))


KEPT: dict[str, Callable[[Values], Values]] = {
    "kept": lambda values: values,
    "layer_mean": lambda values: [layer.mean().expand_as(layer) for layer in values],
    "mean": lambda values: [_whole(values).mean().expand_as(layer) for layer in values],
    "shuffled": _shuffled,
    "off": lambda values: values,
}
"""What the second stage makes of the values that the first has learned, by layer; all but ``kept`` are controls."""

GROUPS: dict[str, Callable[[str, str | None], str]] = {
    "two": lambda tensor, layer: "head" if layer is None else "adapters",
    "one": lambda tensor, layer: "all",
    "layer": lambda tensor, layer: layer or "head",
    "tensor": lambda tensor, layer: tensor,
}
"""The group of a tensor of an adapted layer, or of none, as in the head."""


@dataclass(frozen=True)
class SelfTunedSettings(AdapterSettings):
    """An adapter's settings, and those of what is learned on D2; the defaults are meant to be left alone.

    Args:
        decay_start: What every decay starts at, in AdamW's terms: a step takes ``learning rate * decay`` of a tensor.
            It stays there where D2 has nothing to say.
        decay_cap: The largest decay; the smallest is 0.001.
        decay_learning_rate: Adam's constant learning rate for the logarithms of the decays.
        groups: The tensors that share a decay: ``two`` (one for the adapters, one for the head), ``one`` for all, one
            for each ``layer`` or ``tensor``.
        values: What becomes of the pseudo singular values, which are learned beside the decays: they are ``kept`` in
            the second stage, as they are or in their ``layer_mean``, their ``mean`` or ``shuffled``; ``off`` leaves
            them at one.
        values_learning_rate: Adam's constant learning rate for the values.
        rate: Whether the lower learning rate is ``learned`` too, as one factor of it, and kept in the second stage, or
            ``fixed`` at what it starts with.
        classes: Whether the second stage weighs the classes, each inversely to its rows, where the answers to D2 show
            that the first has forgotten one of them (``measured``), ``always`` does, as a control, or ``as_given``
            leaves them as the run has them, as it always is where rows do not have one class each.
        average: Share of the first stage, its end, over which the logarithms of the decays and of the factor are
            averaged; 0 takes the last ones.

    Example:
        >>> SelfTunedSettings(groups="three")
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: adapter: groups is 'three', allowed: two, one, layer, tensor
    """

    decay_start: float = 3.0
    decay_cap: float = 20.0
    decay_learning_rate: float = 0.1
    groups: Literal["two", "one", "layer", "tensor"] = "two"
    values: Literal["kept", "layer_mean", "mean", "shuffled", "off"] = "kept"
    values_learning_rate: float = 0.01
    rate: Literal["learned", "fixed"] = "fixed"
    classes: Literal["measured", "always", "as_given"] = "as_given"
    average: float = 0.5

    # LoRA with a factor of one per rank at its start: nothing but decays and values regularises.
    formulation: ClassVar[str] = "real"
    normalized: ClassVar[bool] = False
    start_value: ClassVar[float] = 1.0
    orthogonality: ClassVar[float] = 0.0

    @property
    def own_row_weights(self) -> str | None:
        """The setting of the classes' weights, where there may be any."""
        return None if self.classes == "as_given" else f"classes: {self.classes}"

    def faults(self) -> list[str]:
        """Return the faults of all the settings."""
        faults = super().faults() + bounds_faults(self.decay_start, self.decay_cap)
        faults += self.negative_faults("decay_learning_rate", "values_learning_rate")
        if 0 < self.decay_start < FLOOR:
            faults.append(f"decay_start is {self.decay_start}, it must be at least {FLOOR}")
        if not 0 <= self.average <= 1:
            faults.append(f"average is {self.average}, it is a share of the stage, in [0, 1]")
        choices: dict[str, Iterable[str]] = {"groups": GROUPS, "values": KEPT, "rate": ("learned", "fixed")}
        for name, allowed in {**choices, "classes": ("measured", "always", "as_given")}.items():
            if getattr(self, name) not in allowed:
                faults.append(f"{name} is {getattr(self, name)!r}, allowed: {', '.join(allowed)}")
        return faults


class SelfTunedLower(RatedLower):
    """P, Q and the task head, with the classes weighed in the second stage where the first has forgotten one."""

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """Return what the model does, its loss weighed."""
        output = super().forward(*args, **inputs)
        classes = tuning_of(self).classes
        if classes is not None and classes.weights is not None:
            output.loss = classes.weighted(output.loss, output.logits, inputs["labels"])
        return output

    def terms(self, batch: Any) -> float:
        """Return the number of rows, or the sum of their weights."""
        classes = tuning_of(self).classes
        if classes is None or classes.weights is None:
            return super().terms(batch)
        return float(classes.weights[batch["labels"].cpu()].sum())


class SelfTunedUpper(DecayUpper):
    """Pseudo singular values, by the run's hypergradient; decays and the rate's factor, in closed form."""

    # Rows and answers by class, of the micro-batches of a step.
    _counts: Tensor | None = None

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """Return what the model does, and count its answers."""
        output = super().forward(*args, **inputs)
        # Checks before the first step ask for answers too.
        if (classes := tuning_of(self).classes) is not None and self.step_batches:
            counts = classes.counted(output.logits, inputs["labels"])
            self._counts = counts if self._counts is None else self._counts + counts
        return output

    def level_parameters(self) -> dict[str, nn.Parameter]:
        """Return the values, unless they are off, the logarithm of the factor, if learned, and last those of decays."""
        values = {} if self.cfg.values == "off" else level_parameters(self.module).upper
        rate = rate_of(self)
        factor = {} if rate is None else {"log_factor": rate.log_factor}
        return {**values, **factor, **super().level_parameters()}

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Return the group of the values, with their learning rate, and that of the decays and the factor."""
        *values, shared = super().optimizer_groups()
        if rate_of(self) is not None:
            *others, factor = values[0]["params"]
            values = [{"params": others}] if others else []
            shared = {**shared, "params": [factor, *shared["params"]]}
        return [*({**group, "lr": self.cfg.values_learning_rate} for group in values), shared]

    def implicit_term(self, vector: Tensors, lower: LowerProblem) -> Tensors:
        """Return the hypergradient's term, with those of the decays and of the factor added: no further pass."""
        terms = super().implicit_term(vector, lower)
        rate, step = rate_of(self), lower.recorded_step()
        if rate is None or not step.taken:
            return terms
        assert step.parameters_before is not None  # asked for in needs
        *values, factor, decays = terms
        after, steps = tuple(lower.trainable_parameters()), lower.config.unroll_steps
        return (*values, factor + rate.implicit_term(vector, step.parameters_before, after, steps=steps), decays)

    def take_step(self) -> None:
        """Step, and note what became of the decays and of the factor."""
        tuning, rate = tuning_of(self), rate_of(self)
        gradient = tuning.log_decay.grad
        super().take_step()
        [loader] = self.train_data_loader
        if gradient is not None:
            tuning.note(gradient, upper_rows=len(loader.dataset))
        if tuning.classes is not None and self._counts is not None:
            [counts] = self.processes.averaged([self._counts])
            tuning.classes.note(counts, upper_rows=len(loader.dataset))
            self._counts = None
        if rate is not None:
            rate.note()


class SelfTuning(RatedDecays):
    """The decays, and what becomes of the values of a model when both are learned."""

    def __init__(
        self, model: nn.Module, settings: SelfTunedSettings, class_counts: Mapping[str, int] | None = None
    ) -> None:
        names = list(level_parameters(model).lower)
        owners = _owners(model)
        super().__init__(
            names,
            start=settings.decay_start,
            floor=FLOOR,
            cap=settings.decay_cap,
            groups=[GROUPS[settings.groups](name, owners.get(name)) for name in names],
            rate=settings.decay_learning_rate,
            share=settings.average,
            learns_rate=settings.rate == "learned",
        )
        self.classes: ForgottenClasses | None = None
        # Rows that have no class each have none that could be forgotten.
        if settings.classes != "as_given" and class_counts:
            always = settings.classes == "always"
            self.classes = ForgottenClasses(class_counts, share=settings.average, always=always)
        self.values_are_off = settings.values == "off"
        self.kept = KEPT[settings.values]
        # In a function: as an attribute the model would be a part of this module, and of its state.
        self.layer_means = partial(_layer_means, model)

    @torch.no_grad()
    def settle(self, model: nn.Module) -> None:
        """Fix decays and rate, and the values as the settings have them; at one where D2 is too small to learn them."""
        super().settle(model)
        if self.classes is not None:
            self.classes.settle()
        values = list(level_parameters(model).upper.values())
        kept = [torch.ones_like(value) for value in values] if self.too_few_rows else self.kept(values)
        # All are made before the first is changed, of which the others may be made.
        for value, new in zip(values, [new.clone() for new in kept], strict=True):
            value.copy_(new)

    def learned(self) -> dict[str, Any]:
        """Return the decays, the factor of the rate, and the mean of the values in each layer."""
        decays = super().learned()
        if self.classes is not None:
            decays |= {"classes": self.classes.learned(), "words": decays["words"] + self.classes.words()}
        if self.values_are_off:
            return decays
        means = self.layer_means()
        least, most = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        words = (
            f"{decays['words']}; how much each layer may move: {means[least]:.2f} ({least}) to {means[most]:.2f} "
            f"({most}), {sum(means.values()) / len(means):.2f} on average"
        )
        return {**decays, "layers": means, "words": words}


def tuning_of(level: LowerProblem | UpperProblem) -> SelfTuning:
    """Return the companion of a level."""
    assert isinstance(level.companion, SelfTuning)  # built by the variant
    return level.companion


def _owners(model: nn.Module) -> dict[str, str]:
    """Return the layer of every lower parameter that an adapted layer calls its own."""
    return {
        f"{name}.{key}": name
        for name, layer in levelled_layers(model)
        for adapter in layer.active_held_adapters()
        for key in layer.lower_parameters(adapter)
    }


def _layer_means(model: nn.Module) -> dict[str, float]:
    return {
        name.removeprefix("base_model.model."): layer.singular_values(adapter).mean().item()
        for name, layer in pseudo_svd_layers(model)
        for adapter in layer.active_held_adapters()
    }


def refuse_other_adapter(model: nn.Module, *, method: str = "self_tuned") -> None:
    """Refuse a BiLoRA adapter whose values cannot start at one."""
    config: Any = getattr(model, "peft_config", {}).get(getattr(model, "active_adapter", None))
    if isinstance(config, BiloraConfig) and (config.normalized or config.formulation != "real"):
        raise SettingsError(
            f"method {method!r} trains the adapter of BiloraConfig(init_weights='lora'), and this one has formulation="
            f"{config.formulation!r} and normalized={config.normalized}; make such a one, or train this one by "
            "variant='bilora'"
        )


def companion(model: nn.Module, settings: SelfTunedSettings, rows: TrainingRows) -> SelfTuning:
    """Return the decays of everything on the lower level of a model whose values can start at one."""
    refuse_other_adapter(model)
    counts = dict(zip(class_names(model, rows), rows.class_counts, strict=True))
    # Whole numbers may be the targets of a regression, whose model has one output.
    outputs = getattr(getattr(model, "config", None), "num_labels", 0)
    return SelfTuning(model, settings, counts if outputs == len(counts) > 1 else None)


def plan(settings: SelfTunedSettings) -> tuple[Stage, ...]:
    """Return the stage that learns; the ending trains anew."""
    title = "learning how strongly to regularise"
    return (Stage("bilevel", SelfTunedLower, SelfTunedUpper, title=title, is_search=True, small_upper=True),)


VARIANT = Variant(
    "self_tuned",
    SelfTunedLower,
    SelfTunedUpper,
    SelfTunedSettings,
    partial(bilora.adapt, init_weights="lora"),
    plan=plan,
    ending="retrain",
    has_values=True,
    companion=companion,
    # A constant rate: with a falling one the decays hardly move before it is too late.
    defaults={
        "unroll_steps": 2,
        "hypergradient": "first_order",
        "upper.schedule": "constant",
        "upper.warmup": 0.0,
        "upper.batch_size": 32,
        "upper.gradient_clipping": 0.0,
    },
)
