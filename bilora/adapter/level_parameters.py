"""Which parameters of a model belong to the lower level and which to the upper: the layers say so."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from bilora.errors import LevelsError, SettingsError, first_ten

_SHOWN = 5


# The protocols have methods only: then whether a class answers one is looked up once, not once per training step.
@runtime_checkable
class AdaptedLayer(Protocol):
    """A layer that holds adapters, each under a name."""

    def held_adapters(self) -> list[str]:
        """Return the names of all adapters in this layer."""

    def active_held_adapters(self) -> list[str]:
        """Return those of them that take part in the forward pass."""


@runtime_checkable
class LevelledLayer(AdaptedLayer, Protocol):
    """A layer that says which of its parameters belong to which level."""

    def lower_parameters(self, adapter: str) -> dict[str, nn.Parameter]:
        """Return the lower level's parameters of an adapter, by their names below the layer."""

    def upper_parameters(self, adapter: str) -> dict[str, nn.Parameter]:
        """Return the upper level's parameters of an adapter, by their names below the layer."""


@runtime_checkable
class PseudoSvdLayer(AdaptedLayer, Protocol):
    """A layer with an update P diag(s) Q."""

    def singular_values(self, adapter: str) -> Tensor:
        """Return s, ``(rank,)``."""

    def singular_vectors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """Return P, ``(out, rank)``, and Q, ``(rank, in)``, as they enter the update."""

    def values_between_zero_and_one(self, adapter: str) -> bool:
        """Return whether every s_j lies in [0, 1]."""


def levelled_layers(model: nn.Module) -> Iterator[tuple[str, LevelledLayer]]:
    """Yield the layers that say which of their parameters are upper and which lower, with their full names."""
    for name, module in model.named_modules():
        # Of the class, since only that answer is kept; isinstance would look at every method of every module again.
        if issubclass(type(module), LevelledLayer):
            yield name, cast(LevelledLayer, module)


def pseudo_svd_layers(model: nn.Module) -> Iterator[tuple[str, PseudoSvdLayer]]:
    """Yield the layers whose update is P diag(s) Q, with their full names.

    Example:
        >>> list(pseudo_svd_layers(nn.Linear(2, 2)))
        []
    """
    for name, module in model.named_modules():
        if issubclass(type(module), PseudoSvdLayer):
            yield name, cast(PseudoSvdLayer, module)


@dataclass(frozen=True)
class LevelParameters:
    """The trainable parameters of a model, by full name, in two parts without overlap.

    Args:
        lower: Pseudo singular vectors, and everything else that is trained, such as the task head.
        upper: Raw pseudo singular values.
    """

    lower: dict[str, nn.Parameter]
    upper: dict[str, nn.Parameter]


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter that is trained, by full name.

    Example:
        >>> sorted(trainable_parameters(nn.Linear(2, 2)))
        ['bias', 'weight']
    """
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def level_parameters(model: nn.Module) -> LevelParameters:
    """Return the trainable parameters of the active adapters and the head, divided into the two levels.

    The layers say which parameters are upper and which lower; a parameter that no layer claims, such as one of a task
    head, is lower.

    Args:
        model: A model with adapters, from ``peft.get_peft_model``. Ask after that call, not before: PEFT replaces
            parameters while it wraps.

    Returns:
        Both levels; together they hold each trainable parameter exactly once.

    Raises:
        LevelsError: A level is empty, a layer claims a parameter for both levels or one that the model does not have,
            or an adapter is trainable though it is not active.

    Example:
        >>> from peft import get_peft_model
        >>> from bilora import BiloraConfig
        >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), BiloraConfig(r=2, target_modules=["0"]))
        >>> levels = level_parameters(model)
        >>> sorted(levels.lower)
        ['base_model.model.0.bilora_P.default', 'base_model.model.0.bilora_Q.default']
        >>> sorted(levels.upper)
        ['base_model.model.0.bilora_E.default']
    """
    claimed = _claims(model)
    trainable = trainable_parameters(model)
    upper = {name: parameter for name, parameter in claimed.upper.items() if parameter.requires_grad}
    # By identity: a name may differ from the layer's where two modules share a parameter.
    upper_ids = {id(parameter) for parameter in upper.values()}
    lower = {name: parameter for name, parameter in trainable.items() if id(parameter) not in upper_ids}
    faults = [
        *_clashes(claimed),
        *_misplaced(model, claimed, trainable),
        *_idle(model),
        *_empty("upper", upper, claimed.upper),
        *_empty("lower", lower, claimed.lower),
    ]
    if faults:
        raise LevelsError("the model does not divide into two levels:\n  " + first_ten(faults, "\n  "))
    return LevelParameters(lower=lower, upper=upper)


def check_saved(model: nn.Module) -> None:
    """Refuse a model with a trained parameter that neither an adapter nor ``modules_to_save`` would save.

    Args:
        model: A model with adapters, from ``peft.get_peft_model``.

    Raises:
        SettingsError: There is such a parameter; it would come back untrained.

    Example:
        >>> from peft import get_peft_model
        >>> from bilora import BiloraConfig
        >>> base = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        >>> model = get_peft_model(base, BiloraConfig(r=2, target_modules=["0"]))
        >>> check_saved(model)
        >>> _ = base[1].requires_grad_(True)
        >>> check_saved(model)
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: 2 trainable parameters would be saved nowhere: base_model.model.1.bias, \
base_model.model.1.weight; name their modules in modules_to_save, or freeze them
    """
    saved = {
        id(parameter)
        for _, layer in levelled_layers(model)
        for adapter in layer.held_adapters()
        for parameter in _held(layer, adapter).values()
    }
    wrappers = [module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    saved |= {id(parameter) for wrapper in wrappers for parameter in wrapper.parameters()}
    saved |= {id(parameter) for parameter in _saved_biases(model)}
    lost = sorted(name for name, parameter in trainable_parameters(model).items() if id(parameter) not in saved)
    if lost:
        raise SettingsError(
            f"{len(lost)} trainable parameters would be saved nowhere: {_some(lost)}; "
            "name their modules in modules_to_save, or freeze them"
        )


def _saved_biases(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the biases that PEFT saves, as the configs of the adapters ask for."""
    kinds = {getattr(config, "bias", "none") for config in getattr(model, "peft_config", {}).values()}
    if "all" in kinds:
        yield from (parameter for name, parameter in model.named_parameters() if name.endswith("bias"))
    elif kinds - {"none"}:
        layers = (module.get_base_layer() for module in model.modules() if isinstance(module, BaseTunerLayer))
        biases = (getattr(layer, "bias", None) for layer in layers)
        yield from (bias for bias in biases if isinstance(bias, nn.Parameter))


def _held(layer: LevelledLayer, adapter: str) -> dict[str, nn.Parameter]:
    return layer.lower_parameters(adapter) | layer.upper_parameters(adapter)


def _claims(model: nn.Module) -> LevelParameters:
    claimed = LevelParameters({}, {})
    for name, layer in levelled_layers(model):
        prefix = f"{name}." if name else ""  # the model may be such a layer itself
        for adapter in layer.active_held_adapters():
            claimed.lower.update({prefix + key: value for key, value in layer.lower_parameters(adapter).items()})
            claimed.upper.update({prefix + key: value for key, value in layer.upper_parameters(adapter).items()})
    return claimed


def _clashes(claimed: LevelParameters) -> Iterator[str]:
    # By identity, for a layer may call one parameter by two names.
    lower_ids = {id(parameter) for parameter in claimed.lower.values()}
    both = [name for name, parameter in claimed.upper.items() if id(parameter) in lower_ids]
    if both:
        yield f"a layer claims parameters for both levels: {_some(both)}"


def _misplaced(model: nn.Module, claimed: LevelParameters, trainable: dict[str, nn.Parameter]) -> Iterator[str]:
    # Names lead users, files and optimizers to a parameter, so that a wrong one would move another parameter or none.
    by_name = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in (claimed.lower | claimed.upper).items():
        if by_name.get(name) is not parameter:
            yield f"a layer claims {name!r}, which is not the name of that parameter in the model"
        elif parameter.requires_grad and name not in trainable:
            yield f"{name!r} is the same parameter as another one; a level cannot hold it twice"


def _idle(model: nn.Module) -> Iterator[str]:
    for name, layer in levelled_layers(model):
        # An optimizer would get it and never a gradient for it.
        for adapter in set(layer.held_adapters()) - set(layer.active_held_adapters()):
            if any(parameter.requires_grad for parameter in _held(layer, adapter).values()):
                yield f"adapter {adapter!r} in {name!r} is trainable but not active; use model.set_adapter"


def _empty(level: str, trained: dict[str, nn.Parameter], claimed: dict[str, nn.Parameter]) -> Iterator[str]:
    if trained:
        return
    if claimed:
        yield (
            f"the {level} level is empty: all its {len(claimed)} parameters are frozen; load the adapter with "
            "PeftModel.from_pretrained(..., is_trainable=True), and leave model.disable_adapter() before asking"
        )
    else:
        yield (
            f"the {level} level is empty: no layer of the model has one; "
            "wrap it with peft.get_peft_model(model, BiloraConfig())"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
