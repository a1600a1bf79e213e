"""The table of variants."""

from __future__ import annotations

from bilora.errors import SettingsError
from bilora.lookup import find
from bilora.problems import adalora, bilora, lora, pseudo_svd
from bilora.problems.variant import Variant

VARIANTS: dict[str, Variant] = {
    each.name: each for each in (bilora.VARIANT, lora.VARIANT, adalora.VARIANT, pseudo_svd.VARIANT)
}
"""Every variant by name. A new one is a file with a ``VARIANT`` and a row here, or a user's own module."""


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
