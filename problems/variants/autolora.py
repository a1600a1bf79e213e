"""AutoLoRA (arXiv 2403.09113): rank-one terms below, the weights that select among them above."""

from dataclasses import dataclass
from typing import ClassVar

from bilora.adapter.pruning import Cut
from bilora.adapter.ranks import Mean
from bilora.adapter.spectrum import selection_weights
from bilora.problems.variant import AdapterSettings, Variant
from bilora.problems.variants import bilora


@dataclass(frozen=True)
class AutoloraSettings(AdapterSettings):
    """An adapter's settings; ``rank`` is the number k of rank-one terms to select among."""

    # What BiLoRA lets its user choose is fixed here: ``W0 + (alpha / k) sum_j softmax(beta)_j P_j Q_j``, the paper's
    # ``sum_j a_j dW_j`` with weights that sum to one, and no penalty on either level.
    formulation: ClassVar[str] = "softmax_sum_one"
    normalized: ClassVar[bool] = False
    start_value: ClassVar[None] = None
    orthogonality: ClassVar[float] = 0.0
    entropy_weight: ClassVar[float] = 0.0

    def faults(self) -> list[str]:
        """Return the faults of all the settings."""
        few = [f"rank is {self.rank}, it must be at least 2 for there to be a selection"] if self.rank == 1 else []
        return super().faults() + few


# The search is BiLoRA's, with the terms and the task head on D1 and the beta of each layer on D2. Then each layer is
# cut at 1/k (Mean), and plain LoRA of the chosen ranks is trained anew on D1 + D2: the ending ``retrain``.
# Not verified, for want of the paper's tables and details: where the terms start (here P = 0 and Q with orthonormal
# rows, there a random A and B = 0), whether the head is trained in the search (here it is, in the public code it is
# not), and the scale of the retrained LoRA (here the search's alpha / k for each kept term). The public code thresholds
# beta / sum(beta), the paper the softmax; this is the paper.
VARIANT = Variant(
    "autolora",
    bilora.BiloraLower,
    bilora.BiloraUpper,
    AutoloraSettings,
    bilora.adapt,
    ending="retrain",
    cut=Cut(Mean(), measure=selection_weights, keep_values=False),
    has_values=True,
)
