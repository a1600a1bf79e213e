"""AutoLoRA (arXiv 2403.09113): rank-one terms below, the weights that select among them above."""

from dataclasses import dataclass

from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from bilora import BiloraConfig
from bilora.adapter.pruning import Cut
from bilora.adapter.ranks import Mean
from bilora.adapter.spectrum import selection_weights
from bilora.problems.variant import AdapterSettings, Variant
from bilora.problems.variants.bilora import BiloraLower, BiloraUpper


@dataclass(frozen=True)
class AutoloraSettings(AdapterSettings):
    """An adapter's settings; ``rank`` is the number k of rank-one terms to select among."""

    def faults(self) -> list[str]:
        """Return the faults of all the settings."""
        few = [f"rank is {self.rank}, it must be at least 2 for there to be a selection"] if self.rank == 1 else []
        return super().faults() + few


class AutoloraLower(BiloraLower):
    """The rank-one terms and the task head on D1, without a penalty."""

    def penalty(self) -> Tensor | None:
        """Return None."""
        return None


class AutoloraUpper(BiloraUpper):
    """The selection weights ``softmax(beta)`` of each layer on D2, without a penalty."""

    def penalty(self) -> Tensor | None:
        """Return None."""
        return None


def adapt(model: PreTrainedModel, settings: AutoloraSettings, *, task_type: str | None, steps: int) -> PeftModel:
    """Return the model with ``W0 + (alpha / k) sum_j softmax(beta)_j P_j Q_j`` on it; ``steps`` does not enter.

    That is the paper's ``sum_j a_j dW_j`` with weights that sum to one. Search, then threshold each layer at 1/k
    (:class:`~bilora.adapter.ranks.Mean`), then plain LoRA of the chosen ranks, trained anew on D1 + D2: the ending
    ``retrain``.
    """
    # Not verified, for want of the paper's tables and details: where the terms start (here P = 0 and Q with orthonormal
    # rows, there a random A and B = 0), whether the head is trained in the search (here it is, in the public code it is
    # not), and the scale of the retrained LoRA (here the search's alpha / k for each kept term). The public code
    # thresholds beta / sum(beta), the paper the softmax; this is the paper.
    config = BiloraConfig(
        task_type=task_type,
        r=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        target_modules=settings.target_modules,
        modules_to_save=settings.own_modules_to_save,
        formulation="softmax_sum_one",
        normalized=False,
    )
    return get_peft_model(model, config)


VARIANT = Variant(
    "autolora",
    AutoloraLower,
    AutoloraUpper,
    AutoloraSettings,
    adapt,
    ending="retrain",
    cut=Cut(Mean(), measure=selection_weights, keep_values=False),
    has_values=True,
)
