"""The baseline: PEFT's own AdaLoRA (arXiv 2303.10512), with the calls that its users have to make."""

from dataclasses import dataclass
from typing import Any

from peft import AdaLoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from bilora.errors import SettingsError
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.variant import AdapterSettings, Variant

IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""PEFT's names for the importance of each weight, and for the moving averages of it and of its uncertainty."""


@dataclass(frozen=True)
class AdaloraSettings(AdapterSettings):
    """AdaLoRA's settings; ``rank`` is the average rank at the end.

    Args:
        initial_rank: Rank of every layer at the start; None is one and a half times ``rank``, PEFT's own ratio.
        orthogonality: Weight of the regularizer that PEFT adds to the loss.
        warmup: Share of the steps before the first pruning.
        final: Share of the steps after the last pruning.
    """

    initial_rank: int | None = None
    orthogonality: float = 0.5
    warmup: float = 0.1
    final: float = 0.3

    @property
    def start_rank(self) -> int:
        """The rank every layer starts with."""
        # Rounded up: rank 1 must start above 1 to have anything to prune.
        return self.initial_rank if self.initial_rank is not None else -(-3 * self.rank // 2)

    def faults(self) -> list[str]:
        """Return the faults of all the settings."""
        faults = super().faults() + self.negative_faults("orthogonality")
        if self.start_rank < self.rank:
            faults.append(f"initial_rank is {self.start_rank}, it must not be below rank {self.rank}")
        # Not "< 0 or", which NaN passes.
        if not (self.warmup >= 0 and self.final >= 0 and self.warmup + self.final < 1):
            faults.append(f"warmup {self.warmup} and final {self.final} must not be negative and must sum to below 1")
        return faults


class Adalora(LowerProblem):
    """Everything trainable on all the data; the loss holds PEFT's regularizer, since its forward adds it."""

    def take_step(self) -> None:
        """Step, then let AdaLoRA weigh the gradients and reallocate ranks."""
        super().take_step()
        # PEFT leaves this call to the user; without it AdaLoRA never prunes. After the step and before the gradients
        # are forgotten, as in its documentation.
        self.module.base_model.update_and_allocate(self._count // self.gas)

    def extra_state(self) -> dict[str, Any]:
        """Return the ranks that AdaLoRA has kept so far, and the averages by which it weighs them."""
        # The ranks decide which rows of the matrices are saved.
        allocator = self.module.base_model.rankallocator
        return {
            "rank_pattern": self._adapter_config().rank_pattern,
            **{name: dict(getattr(allocator, name)) for name in IMPORTANCE},
        }

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Set the kept ranks and the averages."""
        self._adapter_config().rank_pattern = state["rank_pattern"]
        allocator = self.module.base_model.rankallocator
        for name in IMPORTANCE:
            setattr(allocator, name, {key: average.to(self.device) for key, average in state[name].items()})

    def _adapter_config(self) -> Any:
        return self.module.peft_config[self.module.active_adapter]


def adapt(model: PreTrainedModel, settings: AdaloraSettings, *, task_type: str | None, steps: int) -> PeftModel:
    """Return the model with PEFT's AdaLoRA on it, its pruning schedule laid over ``steps`` steps."""
    final = int(settings.final * steps)
    # The averages that ranks are weighed by need one step before the step that prunes.
    if steps - final < 2:
        raise SettingsError(
            f"AdaLoRA has no step to weigh its ranks in before the last pruning: steps is {steps}, of which final "
            f"{settings.final} leaves {steps - final} until then, and it needs 2; raise steps or lower final"
        )
    config = AdaLoraConfig(
        task_type=task_type,
        init_r=settings.start_rank,
        target_r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT says int and computes with it as a number
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        modules_to_save=settings.own_modules_to_save,
        orth_reg_weight=settings.orthogonality,
        total_step=steps,
        tinit=int(settings.warmup * steps),
        tfinal=final,
        # About a hundred reallocations, however long the run is.
        deltaT=max(1, steps // 100),
    )
    return get_peft_model(model, config)


VARIANT = Variant("adalora", Adalora, None, AdaloraSettings, adapt)
