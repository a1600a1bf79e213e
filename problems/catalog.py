"""The table of variants."""

from bilora.errors import SettingsError
from bilora.problems.variant import Variant
from bilora.problems.variants import (
    adalora,
    alternating,
    autolora,
    bidora,
    bilora,
    correction_then_trusted,
    dora,
    learned_classes,
    learned_decay,
    learned_decay_bilora,
    learned_loss,
    learned_noise,
    learned_rows,
    learned_sources,
    lora,
    lora_d1,
    lora_early_stopping,
    noisy_then_trusted,
    pseudo_svd,
    self_tuned,
    two_stage,
)
from bilora.settings.lookup import find

VARIANTS: dict[str, Variant] = {
    # Bi-level.
    "bilora": bilora.VARIANT,
    "learned_decay": learned_decay.VARIANT,
    "learned_decay_bilora": learned_decay_bilora.VARIANT,
    "self_tuned": self_tuned.VARIANT,
    "noisy_then_trusted": noisy_then_trusted.VARIANT,
    "correction_then_trusted": correction_then_trusted.VARIANT,
    "autolora": autolora.VARIANT,
    "bidora": bidora.VARIANT,
    # Bi-level, in the lower loss: rows of unequal worth.
    "learned_noise": learned_noise.VARIANT,
    "learned_sources": learned_sources.VARIANT,
    "learned_classes": learned_classes.VARIANT,
    "learned_rows": learned_rows.VARIANT,
    "learned_loss": learned_loss.VARIANT,
    # Baselines: PEFT's own methods, on all the data.
    "lora": lora.VARIANT,
    "dora": dora.VARIANT,
    "adalora": adalora.VARIANT,
    # Controls: to what else would a sceptical reader put the gain down?
    "pseudo_svd": pseudo_svd.VARIANT,
    "alternating": alternating.VARIANT,
    "two_stage": two_stage.VARIANT,
    "lora_d1": lora_d1.VARIANT,
    "lora_early_stopping": lora_early_stopping.VARIANT,
}
"""Every variant by name. A new one is a file with a ``VARIANT`` and a row here, or a user's own module."""

# Of a run whose user names none: it has nothing to tune.
DEFAULT_METHOD = "self_tuned"


def find_variant(name: str) -> Variant:
    """Return the variant called ``name``, or the one that ``package.module:NAME`` points to.

    Raises:
        SettingsError: There is no such variant, or what is there is not one.

    Example:
        >>> find_variant("lora").upper is None
        True
    """
    variant: object = find(VARIANTS, name, kind="method")
    if not isinstance(variant, Variant):
        raise SettingsError(f"method {name!r} points to a {type(variant).__name__}; it must be a Variant")
    return variant
