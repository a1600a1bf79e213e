"""The formulations of the pseudo singular values: from the raw values E to s, one row per formulation."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bilora.errors import SettingsError
from bilora.settings.lookup import find


@dataclass(frozen=True)
class Formulation:
    """How the raw values E of one layer become its pseudo singular values s.

    Args:
        values: From E, ``(rank,)``, to s, ``(rank,)``; pure, differentiable twice, and called with at least float32.
        raw: The inverse of ``values``, for starts at a value of s; ``None`` where no inverse is known, and then the
            only start is ``start``.
        start: The raw value that every E_j starts at unless the user gives a start for s.
        unit_interval: Whether every s_j lies in [0, 1], which the binary entropy R2 needs.
        entropy_weight: The weight of R2 that the formulation comes with, unless the user gives another.

    Example:
        >>> square = Formulation(values=lambda E: E * E, raw=torch.sqrt, start=1.0)
        >>> square.values(torch.tensor([1.0, 3.0]))
        tensor([1., 9.])
    """

    values: Callable[[Tensor], Tensor]
    raw: Callable[[Tensor], Tensor] | None = None
    start: float = 0.0
    unit_interval: bool = False
    entropy_weight: float = 0.0


def _identity(raw: Tensor) -> Tensor:
    return raw


def _softmax(raw: Tensor) -> Tensor:
    # r times the paper's form: a mean of one keeps the size of the update, and with it the useful learning
    # rates, the same for every rank and for `real`.
    return raw.numel() * _softmax_sum_one(raw)


_softmax_sum_one = functools.partial(torch.softmax, dim=-1)


FORMULATIONS: dict[str, Formulation] = {
    "real": Formulation(values=_identity, raw=_identity, start=1.0),
    "softmax": Formulation(values=_softmax, raw=torch.log),
    "softmax_sum_one": Formulation(values=_softmax_sum_one, raw=torch.log, unit_interval=True),
    "binary": Formulation(values=torch.sigmoid, raw=torch.logit, unit_interval=True, entropy_weight=1e-4),
}
"""s = E; r softmax(E), of mean one; softmax(E), the paper's, of sum one; sigmoid(E)."""


def find_formulation(name: str) -> Formulation:
    """Return the formulation called ``name``, or the one that ``package.module:NAME`` points to."""
    # A plain object at first: a user's path may point to anything.
    formulation: object = find(FORMULATIONS, name, kind="formulation")
    if not isinstance(formulation, Formulation):
        raise SettingsError(
            f"formulation {name!r} is of type {type(formulation).__name__}, not bilora.Formulation; "
            "wrap the function: NAME = Formulation(values=function)"
        )
    return formulation


def raw_start(name: str, rank: int, *, value: float | None) -> Tensor:
    """Return E, ``(rank,)`` in float32, with all s_j at ``value``, or at the formulation's own start for ``None``."""
    formulation = find_formulation(name)
    default = _constant(rank, formulation.start)
    # The default first: softmax reaches its mean of one at any equal E, and zeros are the plainest.
    if value is None or _gives(formulation, default, value):
        return default
    if formulation.raw is not None:
        raw = formulation.raw(_constant(rank, value))
        if _gives(formulation, raw, value):
            return raw
    raise SettingsError(
        f"formulation {name!r} cannot start with all {rank} values at {value}; "
        f"its own start is {formulation.values(default)[0].item():.6g}"
        + ("" if formulation.raw is not None else ", the only one it has: it gives no inverse (raw)")
    )


def starts_at_zero(name: str) -> bool:
    """Return whether all values of a layer can start at zero, and leave it: what ``normalized`` directions need."""
    try:
        raw_start(name, 2, value=0.0)
    except SettingsError:
        return False
    return True


def starts_faulty(name: str, raw: Tensor) -> Iterator[str]:
    """Yield one sentence per fault at the raw values: s of another shape than E, or a gradient that is zero."""
    values = find_formulation(name).values
    shape = tuple(values(raw).shape)
    if shape != tuple(raw.shape):
        yield f"formulation {name!r} turns E of shape {tuple(raw.shape)} into s of another shape, {shape}"
    elif not _jacobian(values, raw).any():
        yield (
            f"formulation {name!r} has a gradient of zero at its start with rank {raw.numel()}, "
            "so E would never be learned"
        )


def _jacobian(values: Callable[[Tensor], Tensor], raw: Tensor) -> Tensor:
    # Settings may be read where gradients are off.
    with torch.inference_mode(False), torch.enable_grad():
        jacobian: Tensor = torch.autograd.functional.jacobian(values, raw.clone())  # type: ignore[no-untyped-call]
        return jacobian


def _constant(rank: int, value: float) -> Tensor:
    # On the CPU whatever the default device is: under a `meta` default there would be no numbers to look at.
    return torch.full((rank,), value, dtype=torch.float32, device="cpu")


def _gives(formulation: Formulation, raw: Tensor, value: float) -> bool:
    target = torch.full_like(raw, value)
    # Finite ones only: sigmoid(-inf) is 0 too, but E could never leave -inf. The tolerance is the rounding of float32.
    return bool(raw.isfinite().all()) and torch.allclose(formulation.values(raw), target, rtol=1e-5, atol=1e-8)
