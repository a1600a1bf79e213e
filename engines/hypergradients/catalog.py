"""The table of hypergradient approximations, and how a config names one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bilora.engines.hypergradients.adaptive import Adaptive
from bilora.engines.hypergradients.conjugate_gradient import ConjugateGradient
from bilora.engines.hypergradients.darts import Darts
from bilora.engines.hypergradients.first_order import FirstOrder
from bilora.engines.hypergradients.neumann import Neumann
from bilora.engines.hypergradients.nystrom import Nystrom
from bilora.engines.hypergradients.unrolled import Unrolled
from bilora.errors import SettingsError
from bilora.problems.levels.hypergradient import Hypergradient
from bilora.settings.lookup import find
from bilora.settings.sections import build_section

HYPERGRADIENTS: dict[str, Callable[..., Hypergradient]] = {
    "first_order": FirstOrder,
    "darts": Darts,
    "neumann": Neumann,
    "conjugate_gradient": ConjugateGradient,
    "nystrom": Nystrom,
    "adaptive": Adaptive,
    "unrolled": Unrolled,
}
"""Every approximation by name. A new one is a file with a frozen dataclass and a row here."""

ALIASES = {"cg": "conjugate_gradient", "sama": "adaptive"}
"""Betty's names for two of them."""


def build_hypergradient(hypergradient: str | Mapping[str, Any] | Hypergradient) -> Hypergradient:
    """Return the approximation that a config, a command line or a caller chose.

    Args:
        hypergradient: A name from :data:`HYPERGRADIENTS` or ``package.module:NAME``; a mapping with the key ``name``
            and that approximation's own settings; or an object, which is returned as it is.

    Raises:
        SettingsError: The name or a setting is unknown, or a value is not allowed.

    Example:
        >>> build_hypergradient({"name": "darts", "finite_difference": "forward"}).needs.upper_gradient
        True
        >>> build_hypergradient({"name": "darts", "radiuss": 0.1})
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: hypergradient 'darts' has no setting 'radiuss'; known: around, \
finite_difference, products, radius, scale. Did you mean 'radius'?
    """
    if isinstance(hypergradient, str):
        hypergradient = {"name": hypergradient}
    if not isinstance(hypergradient, Mapping):
        return hypergradient
    settings = dict(hypergradient)
    if "name" not in settings:
        raise SettingsError(
            f"hypergradient has settings ({', '.join(settings)}) but no name; give it, as in "
            f"{{name: darts, {', '.join(settings)}: ...}} or --hypergradient.name darts"
        )
    name = str(settings.pop("name"))
    name = ALIASES.get(name, name)
    factory = find(HYPERGRADIENTS, name, kind="hypergradient")
    return build_section(factory, settings, kind=f"hypergradient {name!r}")
