"""The exact derivative through the last lower steps."""

from __future__ import annotations

from dataclasses import dataclass

from bilora.engines.hypergradients.implicit import ProductSettings, refuse_not_finite
from bilora.engines.hypergradients.reverse_step import Adjoint, through_optimizer
from bilora.errors import SettingsError
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.replay.lower_step import Needs
from bilora.tensors import Tensors, add, zeros_like


@dataclass(frozen=True)
class Unrolled(ProductSettings):
    """Reverse differentiation through the last ``steps`` real lower steps (Maclaurin et al., arXiv 1502.03492).

    From the last step back, with lambda the derivative of L2 in the lower parameters and u the one that each
    step's optimizer passes on to its gradient: the term gains ``d2_{E,V} L1 . u`` and lambda gains
    ``d2_{V,V} L1 . u``, both at the parameters, batch, masks and optimizer state of that step. Exact for SGD,
    Adam and AdamW, gradient clipping included; two products a step, and a copy of parameters and state a step.

    Args:
        steps: How many steps to go back; at most the unroll steps.

    Raises:
        SettingsError: A value is out of range.

    Example:
        >>> Unrolled(steps=2).needs.steps
        2
    """

    steps: int = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.steps < 1:
            raise SettingsError(f"unrolled: steps is {self.steps}; it must be at least 1")
        if self.around != "before_step":
            raise SettingsError("unrolled: around is 'after_step'; a step is differentiated where it took its gradient")

    @property
    def needs(self) -> Needs:
        """The last steps with everything their optimizer knew."""
        return super().needs.joined(
            Needs(steps=self.steps, lower_gradient=True, optimizer=True, parameters_before=True)
        )

    def implicit_term(self, vector: Tensors, lower: LowerProblem) -> Tensors:
        """Return the derivative of L2 in the upper parameters through the steps."""
        refuse_not_finite(vector)
        term = zeros_like(lower.upper_parameters())
        adjoints = tuple(Adjoint.of(each) for each in vector)
        recorded = lower.recorded_steps(self.steps)
        for index, step in enumerate(reversed(recorded)):
            if not step.taken:  # it was skipped: nothing moved
                continue
            adjoints, on_gradient = through_optimizer(adjoints, step)
            with self.product_method().at(lower, step) as point:
                term = add(term, point.mixed(on_gradient))
                if index < len(recorded) - 1:
                    adjoints = _add_parameter(adjoints, point.hessian(on_gradient))
        return term


def _add_parameter(adjoints: tuple[Adjoint, ...], more: Tensors) -> tuple[Adjoint, ...]:
    pairs = zip(adjoints, more, strict=True)
    return tuple(Adjoint(each.parameter + extra, each.first, each.second) for each, extra in pairs)
