"""The table of hypergradient approximations, and how a config names one."""

from collections.abc import Callable, Mapping
from typing import Any

from bilora.engines.hypergradients.adaptive import Adaptive
from bilora.engines.hypergradients.conjugate_gradient import ConjugateGradient
from bilora.engines.hypergradients.darts import Darts
from bilora.engines.hypergradients.first_order import FirstOrder
from bilora.engines.hypergradients.neumann import Neumann
from bilora.engines.hypergradients.nystrom import Nystrom
from bilora.engines.hypergradients.unrolled import Unrolled
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

# The approximation of a mapping without a name.
DEFAULT = "darts"
# Betty's names for two of them.
ALIASES = {"cg": "conjugate_gradient", "sama": "adaptive"}


def build_hypergradient(hypergradient: str | Mapping[str, Any] | Hypergradient) -> Hypergradient:
    """Return the approximation that a config, a command line or a caller chose.

    Args:
        hypergradient: A name from :data:`HYPERGRADIENTS` or ``package.module:NAME``; a mapping of that approximation's
            own settings with the key ``name``, without which it is ``darts``; or an object, which is returned as it is.

    Raises:
        SettingsError: The name or a setting is unknown, or a value is not allowed.

    Example:
        >>> build_hypergradient({"finite_difference": "central"}).needs.upper_gradient
        False
        >>> build_hypergradient({"name": "darts", "radiuss": 0.1})
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: hypergradient 'darts' has no setting 'radiuss'; known: around, \
finite_difference, products, radius, scale. Did you mean 'radius'?
    """
    if not isinstance(hypergradient, str | Mapping):
        return hypergradient
    settings = {"name": hypergradient} if isinstance(hypergradient, str) else dict(hypergradient)
    name = str(settings.pop("name", DEFAULT))
    name = ALIASES.get(name, name)
    return build_section(find(HYPERGRADIENTS, name, kind="hypergradient"), settings, kind=f"hypergradient {name!r}")


def explicit(choice: str | Mapping[str, Any], built: Hypergradient | None = None) -> str | dict[str, Any]:
    """Return a choice with its name, and with the scheme of differences that ``darts`` takes by itself."""
    # What is written down then means the same where defaults are others, as they once were. `built` is what the choice
    # builds, where that is there already.
    settings = {"name": choice} if isinstance(choice, str) else {"name": DEFAULT, **choice}
    built = built or build_hypergradient(choice)
    if isinstance(built, Darts) and built.finite_difference is not None:
        settings["finite_difference"] = built.finite_difference
    # A bare name stays one in the files of a run.
    return choice if isinstance(choice, str) and len(settings) == 1 else settings
