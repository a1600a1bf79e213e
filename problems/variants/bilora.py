"""BiLoRA (arXiv 2403.13037): singular vectors below, singular values above."""

from dataclasses import dataclass
from typing import Any

from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from bilora import BiloraConfig, binary_entropy_penalty, level_parameters, orthogonality_penalty
from bilora.adapter.singular_values import find_formulation, starts_at_zero
from bilora.problems.levels.level import Level
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.problems.variant import AdapterSettings, Variant
from bilora.settings.arguments import check_fields


@dataclass(frozen=True)
class BiloraSettings(AdapterSettings):
    """Settings of the pseudo SVD ``W0 + (alpha / r) P diag(s) Q`` and of the penalties of its two levels.

    Args:
        formulation: How the raw values become s: ``real``, ``softmax``, ``softmax_sum_one``, ``binary``, or
            ``package.module:NAME``.
        normalized: Whether columns of P and rows of Q have unit norm in the forward pass; None does so for ``real``,
            whose values alone can start at zero.
        start_value: Where every s starts; None takes the formulation's own start.
        orthogonality: gamma1, weight of R1(V) in the lower loss; None for 0 with ``normalized`` and 0.1 without: one of
            the two has to fix the scale of P and Q, or nothing is learned above.
        binary_entropy: gamma2, weight of R2(E) in the upper loss; None takes the formulation's own, which is
            zero for all but ``binary``.

    Example:
        >>> BiloraSettings().normalized, BiloraSettings(formulation="softmax").orthogonality
        (True, 0.1)
        >>> BiloraSettings(binary_entropy=1e-3)
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: adapter: binary_entropy is 0.001, but the values of formulation 'real' are not \
in [0, 1]; leave it out
    """

    formulation: str = "real"
    normalized: bool | None = None
    start_value: float | None = None
    orthogonality: float | None = None
    binary_entropy: float | None = None

    def __post_init__(self) -> None:
        """Fill in what depends on the formulation, and check the values."""
        check_fields(self, "adapter")
        # A frozen dataclass lets its fields be set in no other way.
        if self.normalized is None:
            object.__setattr__(self, "normalized", starts_at_zero(self.formulation))
        if self.orthogonality is None:
            object.__setattr__(self, "orthogonality", 0.0 if self.normalized else 0.1)
        super().__post_init__()

    def faults(self) -> list[str]:
        """Return the faults of all the settings."""
        faults = super().faults() + self.negative_faults("orthogonality", "binary_entropy")
        formulation = find_formulation(self.formulation)
        if self.binary_entropy and not formulation.unit_interval:
            faults.append(
                f"binary_entropy is {self.binary_entropy}, but the values of formulation {self.formulation!r} are not "
                "in [0, 1]; leave it out"
            )
        return faults

    @property
    def entropy_weight(self) -> float:
        """gamma2, the formulation's own where none was given."""
        default = find_formulation(self.formulation).entropy_weight
        return default if self.binary_entropy is None else self.binary_entropy


class BiloraLower(LowerProblem):
    """Pseudo singular vectors P, Q and the task head on D1: ``loss(D1) + gamma1 R1(V)`` (eq. 3)."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that the layers call lower, and the task head."""
        return level_parameters(self.module).lower

    def penalty(self) -> Tensor | None:
        """Return gamma1 R1, the orthogonality penalty."""
        # None at weight zero: the penalty is two products per layer in every step.
        weight = self.cfg.orthogonality
        return weight * orthogonality_penalty(self.module) if weight else None


class ValuesLevel(Level):
    """A level of the pseudo singular values E: ``loss + gamma2 R2(E)``."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that the layers call upper."""
        return level_parameters(self.module).upper

    def penalty(self) -> Tensor | None:
        """Return gamma2 R2, the binary entropy of the values, for formulations that have one."""
        # R2 depends on E alone: it enters the direct gradient d_E L2, and neither v nor the products.
        weight = self.cfg.entropy_weight
        return weight * binary_entropy_penalty(self.module) if weight else None


class BiloraUpper(ValuesLevel, UpperProblem):
    """Pseudo singular values E on D2: ``loss(D2) + gamma2 R2(E)``."""


def adapt(
    model: PreTrainedModel, settings: Any, *, task_type: str | None, steps: int, init_weights: bool | str = True
) -> PeftModel:
    """Return the model with a BILORA adapter on it; ``steps`` does not enter."""
    config = BiloraConfig(
        task_type=task_type,
        r=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        target_modules=settings.target_modules,
        modules_to_save=settings.own_modules_to_save,
        formulation=settings.formulation,
        normalized=settings.normalized,
        start_value=settings.start_value,
        init_weights=init_weights,  # type: ignore[arg-type]  # the config checks it
    )
    return get_peft_model(model, config)


VARIANT = Variant("bilora", BiloraLower, BiloraUpper, BiloraSettings, adapt, has_values=True)
