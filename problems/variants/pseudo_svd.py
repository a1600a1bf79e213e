"""A control for BiLoRA: the same P, Q and E, trained together on all the data, in one level."""

from torch import Tensor

from bilora import binary_entropy_penalty, orthogonality_penalty
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.variant import Variant
from bilora.problems.variants.bilora import BiloraSettings, adapt


class PseudoSvd(LowerProblem):
    """Vectors, values and task head on D1 + D2: ``loss(D1 + D2) + gamma1 R1(V) + gamma2 R2(E)``."""

    def penalty(self) -> Tensor | None:
        """Return both of BiLoRA's penalties."""
        terms = ((self.cfg.orthogonality, orthogonality_penalty), (self.cfg.entropy_weight, binary_entropy_penalty))
        weighted = [weight * penalty(self.module) for weight, penalty in terms if weight]
        # Started from the first: sum() would begin at the number 0, one more node in every graph.
        return sum(weighted[1:], weighted[0]) if weighted else None


VARIANT = Variant("pseudo_svd", PseudoSvd, None, BiloraSettings, adapt, has_values=True)
