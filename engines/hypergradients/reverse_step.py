"""One real step of SGD, Adam or AdamW, differentiated in reverse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bilora.errors import SettingsError
from bilora.problems.replay.lower_step import LowerStep, OptimizerSnapshot
from bilora.tensors import Tensors, add, dot, scaled


@dataclass(frozen=True)
class Adjoint:
    """The derivative of L2 in a parameter and in the optimizer's moments of it, at one point of the unrolled steps."""

    parameter: Tensor
    first: Tensor  # moment: exp_avg, or SGD's momentum buffer
    second: Tensor  # moment: exp_avg_sq

    @classmethod
    def of(cls, parameter: Tensor) -> Adjoint:
        """Return the adjoint at the end of the last step."""
        # Zeros: nothing later reads the moments.
        return cls(parameter, torch.zeros_like(parameter), torch.zeros_like(parameter))


def reverse_step(after: Adjoint, gradient: Tensor, snapshot: OptimizerSnapshot) -> tuple[Adjoint, Tensor]:
    """Return the adjoint before a step, without the part through the gradient, and that of the clipped gradient."""
    reverse = RULES.get(snapshot.optimizer)
    if reverse is None:
        raise SettingsError(
            f"the lower optimizer is {snapshot.optimizer}; its step can be differentiated for {', '.join(RULES)}; "
            "use one of them, or hypergradient: darts"
        )
    idle = [name for name in WITHOUT_DERIVATIVE if snapshot.group.get(name)]
    if idle:
        raise SettingsError(
            f"the lower optimizer {snapshot.optimizer} has {', '.join(idle)} set, whose step has no rule here; "
            "leave it out, or use hypergradient: darts"
        )
    return reverse(after, gradient, snapshot)


def _reverse_sgd(after: Adjoint, gradient: Tensor, snapshot: OptimizerSnapshot) -> tuple[Adjoint, Tensor]:
    """g' = g + wd p; b' = momentum b + (1 - dampening) g' (b' = g' at first); p' = p - lr (g' + momentum b' | b')."""
    group = snapshot.group
    rate, decay, momentum = float(group["lr"]), float(group["weight_decay"]), float(group["momentum"])
    moved = -rate * after.parameter
    if momentum == 0.0:
        on_gradient, on_buffer = moved, after.first
    else:
        direct = moved if group["nesterov"] else torch.zeros_like(moved)
        on_new = after.first + (momentum * moved if group["nesterov"] else moved)
        # torch's first buffer is the gradient itself, without momentum and dampening.
        started = "momentum_buffer" in snapshot.state
        on_gradient = direct + on_new * ((1.0 - float(group["dampening"])) if started else 1.0)
        on_buffer = momentum * on_new if started else torch.zeros_like(on_new)
    # d p' / d p is one, and the decay makes g' depend on p as well.
    return Adjoint(after.parameter + decay * on_gradient, on_buffer, after.second), on_gradient


def _reverse_adam(after: Adjoint, gradient: Tensor, snapshot: OptimizerSnapshot) -> tuple[Adjoint, Tensor]:
    """g' = g + wd p (torch's ``Adam``: weight decay is part of the gradient); p' = p - lr m^ / (sqrt(v^) + eps)."""
    decay = float(snapshot.group["weight_decay"])
    before, on_gradient = _reverse_moments(after, gradient + decay * snapshot.parameter, snapshot)
    # g' depends on p through the decay, besides p' = p.
    return Adjoint(before.parameter + decay * on_gradient, before.first, before.second), on_gradient


def _reverse_adamw(after: Adjoint, gradient: Tensor, snapshot: OptimizerSnapshot) -> tuple[Adjoint, Tensor]:
    """p' = (1 - lr wd) p - lr m^ / (sqrt(v^) + eps)."""
    before, on_gradient = _reverse_moments(after, gradient, snapshot)
    # The decay acts on p alone, past the gradient and its moments.
    shrink = 1.0 - float(snapshot.group["lr"]) * float(snapshot.group["weight_decay"])
    return Adjoint(shrink * before.parameter, before.first, before.second), on_gradient


def _reverse_moments(after: Adjoint, gradient: Tensor, snapshot: OptimizerSnapshot) -> tuple[Adjoint, Tensor]:
    """Adam (arXiv 1412.6980, algorithm 1): m' = b1 m + (1 - b1) g, v' = b2 v + (1 - b2) g^2, bias-corrected."""
    group = snapshot.group
    beta1, beta2 = map(float, group["betas"])
    # The snapshot is of before the step, and torch corrects with the count after it.
    count = snapshot.steps_taken + 1
    correction1, correction2 = 1.0 - beta1**count, 1.0 - beta2**count
    # In float64: at the first steps sqrt(v^) + eps - |g| is a difference of nearly equal numbers.
    g = gradient.double()
    m = beta1 * snapshot.moment("exp_avg").double() + (1.0 - beta1) * g
    v = beta2 * snapshot.moment("exp_avg_sq").double() + (1.0 - beta2) * g.square()
    root = (v / correction2).sqrt()
    denominator = root + float(group["eps"])
    # The minus of the step: p' = p - lr m^ / (sqrt(v^) + eps).
    moved = -float(group["lr"]) * after.parameter.double()
    on_m = after.first.double() + moved / (correction1 * denominator)
    # d root / d v' = 1 / (2 root correction2); where v' = 0, g and the old moments are 0 and nothing flows.
    slope = torch.where(root > 0, 1.0 / (2.0 * correction2 * root), 0.0)
    on_v = after.second.double() - moved * (m / correction1) / denominator.square() * slope
    on_gradient = (1.0 - beta1) * on_m + 2.0 * (1.0 - beta2) * g * on_v
    dtype = after.parameter.dtype
    return Adjoint(after.parameter, (beta1 * on_m).to(dtype), (beta2 * on_v).to(dtype)), on_gradient.to(dtype)


# Options under which a step follows other formulas than the rules.
WITHOUT_DERIVATIVE = ("amsgrad", "maximize")
# By the name of the class in torch.optim: that of a subclass, whose step may be another, is not taken.
RULES = {"SGD": _reverse_sgd, "Adam": _reverse_adam, "AdamW": _reverse_adamw}


def through_optimizer(after: tuple[Adjoint, ...], step: LowerStep) -> tuple[tuple[Adjoint, ...], Tensors]:
    """Return the adjoints before a recorded step's optimizer, and that of the gradient before clipping."""
    gradient = step.lower_gradient
    if gradient is None:
        raise RuntimeError("the step was recorded without its gradient; ask for it in 'needs'")
    rows = zip(after, scaled(gradient, step.clip), step.optimizer, strict=True)
    before, on_gradient = zip(*(reverse_step(*row) for row in rows), strict=True)
    if step.clip < 1.0:
        # Clipped is c g with c = max_norm / |g|: its derivative is c (I - g g^T / |g|^2), since a change along g leaves
        # the clipped gradient as it is.
        along = dot(on_gradient, gradient) / dot(gradient, gradient)
        on_gradient = scaled(add(on_gradient, gradient, scale=-along), step.clip)
    return before, on_gradient
