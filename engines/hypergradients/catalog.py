"""The table of hypergradient approximations, and how a config names one."""

import dataclasses
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
        SettingsError: The name or a setting is unknown, a value is not allowed, or the object is no hypergradient.

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
        return _checked(hypergradient, "hypergradient")
    settings = {"name": hypergradient} if isinstance(hypergradient, str) else dict(hypergradient)
    name = str(settings.pop("name", DEFAULT))
    name = ALIASES.get(name, name)
    kind = f"hypergradient {name!r}"
    return _checked(build_section(find(HYPERGRADIENTS, name, kind="hypergradient"), settings, kind=kind), kind)


def _checked(built: Any, what: str) -> Hypergradient:
    # A class has the methods as well, and no settings.
    if isinstance(built, type) or not isinstance(built, Hypergradient):
        raise SettingsError(
            f"{what} is {built!r}; give a name ({', '.join(HYPERGRADIENTS)} or 'package.module:NAME'), a mapping with "
            "'name' and settings, or an object with needs and implicit_term()"
        )
    return built


def named(hypergradient: str | Mapping[str, Any] | Hypergradient) -> str | dict[str, Any]:
    """Return a choice as a config and a checkpoint write it: an object as its name and settings.

    Raises:
        SettingsError: It is an object that no name and settings would build again.

    Example:
        >>> named(Neumann(terms=7))
        {'name': 'neumann', 'finite_difference': 'central', 'terms': 7}
    """
    if isinstance(hypergradient, str):
        return hypergradient
    if isinstance(hypergradient, Mapping):
        return dict(hypergradient)
    built: Any = build_hypergradient(hypergradient)
    kind = type(built)
    rows = {row: name for name, row in HYPERGRADIENTS.items()}
    choice: dict[str, Any] = {"name": rows.get(kind, f"{kind.__module__}:{kind.__qualname__}")}
    for field in dataclasses.fields(built) if dataclasses.is_dataclass(built) else ():
        if (value := getattr(built, field.name)) != field.default:
            choice[field.name] = value
    try:
        again = build_hypergradient(choice)
    except SettingsError:
        again = None
    if again != built:
        raise SettingsError(
            f"hypergradient is an object of {kind.__module__}.{kind.__qualname__}, which a config and a checkpoint "
            "cannot name; make its class a frozen dataclass at the top of a module, or give 'package.module:NAME' "
            "(BilevelEngine alone, which writes nothing, takes any object)"
        )
    return choice


def explicit(choice: str | Mapping[str, Any], built: Hypergradient | None = None) -> str | dict[str, Any]:
    """Return a choice with its name, and with the scale and the scheme of differences that ``darts`` has by itself."""
    # What is written down then means the same where defaults are others, as they once were. `built` is what the choice
    # builds, where that is there already.
    settings = {"name": choice} if isinstance(choice, str) else {"name": DEFAULT, **choice}
    built = built or build_hypergradient(choice)
    if isinstance(built, Darts):
        settings |= {} if built.finite_difference is None else {"finite_difference": built.finite_difference}
        settings["scale"] = built.scale
    # A bare name stays one in the files of a run.
    return choice if isinstance(choice, str) and len(settings) == 1 else settings
