"""The exact derivative through the last lower steps."""

from dataclasses import dataclass, replace

from bilora.engines.hypergradients.implicit import ProductSettings, refuse_not_finite
from bilora.engines.hypergradients.reverse_step import Adjoint, through_optimizer
from bilora.errors import SettingsError
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.replay.lower_step import Needs
from bilora.tensors import Tensors, add, zeros_like


@dataclass(frozen=True)
class Unrolled(ProductSettings):
    """Reverse differentiation through the last ``steps`` real lower steps (Maclaurin et al., arXiv 1502.03492)."""

    # From the last step back, with lambda the derivative of L2 in V and u what a step's optimizer hands on of it to its
    # gradient: the term gains d2_{E,V} L1 . u and lambda gains d2_{V,V} L1 . u, at the parameters, batch, masks and
    # state of that step. Exact for SGD, Adam and AdamW, gradient clipping included; two products, and a copy of
    # parameters and state, per step. At most the unroll steps.
    steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise SettingsError(f"unrolled: steps is {self.steps}; it must be at least 1")
        if self.around != "before_step":
            raise SettingsError("unrolled: around is 'after_step'; a step is differentiated where it took its gradient")

    @property
    def needs(self) -> Needs:
        """The last steps with their gradients, parameters and optimizer states."""
        return super().needs.joined(
            Needs(steps=self.steps, lower_gradient=True, optimizer=True, parameters_before=True)
        )

    def implicit_term(self, vector: Tensors, lower: LowerProblem) -> Tensors:
        """Return the derivative of L2 in the upper parameters through the steps, for ``vector`` = v."""
        refuse_not_finite(vector)
        term = zeros_like(lower.upper_parameters())
        adjoints = tuple(Adjoint.of(part) for part in vector)
        # Backwards: what a step contributes depends on the steps after it.
        recorded = lower.recorded_steps(self.steps)
        for index, step in enumerate(reversed(recorded)):
            if not step.taken:  # it was skipped: nothing moved
                continue
            adjoints, on_gradient = through_optimizer(adjoints, step)
            with self.product_method.at(lower, step) as point:
                # No minus, unlike in the implicit term: the optimizer's step already has it.
                term = add(term, point.mixed(on_gradient))
                # lambda before the first step would be of no use.
                if index < len(recorded) - 1:
                    pairs = zip(adjoints, point.hessian(on_gradient), strict=True)
                    adjoints = tuple(replace(adjoint, parameter=adjoint.parameter + part) for adjoint, part in pairs)
        return term
