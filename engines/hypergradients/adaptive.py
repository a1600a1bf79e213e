"""The derivative through one real step of an adaptive optimizer."""

from dataclasses import dataclass

from bilora.engines.hypergradients.implicit import ImplicitHypergradient, Point
from bilora.engines.hypergradients.reverse_step import Adjoint, through_optimizer
from bilora.problems.replay.lower_step import LowerStep, Needs
from bilora.tensors import Tensors, scaled, zeros_like


@dataclass(frozen=True)
class Adaptive(ImplicitHypergradient):
    """w = -(d step / d gradient) v of the last real lower step (the idea of SAMA, arXiv 2310.05674); one product."""

    # The derivative of an SGD, Adam or AdamW step in its gradient is diagonal, and known from the optimizer's state,
    # bias correction, weight decay and gradient clipping included. SAMA leaves the bias correction out.

    @property
    def needs(self) -> Needs:
        """The last step, its gradient and its optimizer's state."""
        # Adam divides by a root that holds the gradient itself, so that the derivative depends on it.
        return super().needs.joined(Needs(steps=1, lower_gradient=True, optimizer=True))

    def solve(self, vector: Tensors, point: Point, step: LowerStep) -> Tensors:
        """Return w."""
        if not step.taken:  # fp16 skipped it: nothing moved
            return zeros_like(vector)
        _, on_gradient = through_optimizer(tuple(Adjoint.of(part) for part in vector), step)
        # The step is V - rate * ..., so its derivative is negative, and w, like v in darts, is not.
        return scaled(on_gradient, -1.0)
