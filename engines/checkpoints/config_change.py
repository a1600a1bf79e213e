"""What may differ between the run that wrote a checkpoint and the one that goes on from it."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bilora.errors import CheckpointError

# Settings that decide no number: they may differ without a word.
FREE = frozenset(
    ("save_every", "save_total_limit", "on_save_error", "on_out_of_memory")
    + ("output", "overwrite", "resume", "allow_config_change", "debug")
    # Where one value leaves rows out, the other refuses the file; and the rows themselves are compared.
    + ("on_bad_row",)
)
LEVELS = ("lower", "upper")

# Settings that may differ if the user says so: the state of the checkpoint still means what it did. No other may.
_OF_A_LEVEL = ("learning_rate", "weight_decay", "schedule", "warmup", "gradient_clipping")
ALLOWED = frozenset(
    ["steps", "validate_every", "early_stopping", "skip_diverged"]
    + [f"{level}.{name}" for level in LEVELS for name in _OF_A_LEVEL]
)


class Change(NamedTuple):
    """A setting with the value it had and the one it has now."""

    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.name}: {self.before!r} -> {self.after!r}"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Return what differs between two settings as plain mappings, by dotted name."""
    old, new = dict(_flat(before)), dict(_flat(after))
    # A dict keeps the order in which the settings stand, for the messages; a set would not.
    names = dict.fromkeys((*old, *new))
    return [Change(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def check_changes(before: Mapping[str, Any], after: Mapping[str, Any], *, allow: bool) -> list[Change]:
    """Return how a run's settings differ from a checkpoint's; refuse what may not differ, or not without ``allow``."""
    differing = changes(_as_today(before), after)
    fault = "the settings are not those of the run that is resumed"
    never = [str(change) for change in differing if change.name not in ALLOWED]
    if never:
        raise CheckpointError(f"{fault}; these cannot change within a run: {'; '.join(never)}")
    if differing and not allow:
        named = "; ".join(map(str, differing))
        raise CheckpointError(
            f"{fault}: {named}; say --allow-config-change (allow_config_change=True) if that is meant"
        )
    return differing


def _as_today(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return saved settings as they are written today: one method, one seed, and the scheme of ``darts`` by name."""
    run = dict(settings)
    # A config named several methods and seeds once; checkpoints of that time must stay good.
    for name, value in (("method", run.get("method")), ("seed", run.pop("seeds", None))):
        if isinstance(value, list) and len(value) == 1:
            run[name] = value[0]
    entry = run.get("hypergradient")
    hypergradient = {"name": entry} if isinstance(entry, str) else dict(entry or {})
    if hypergradient.get("name") == "darts" and hypergradient.get("products") != "exact":
        # Saved without a scheme, it was the one that was the default then.
        run["hypergradient"] = {"finite_difference": "central", **hypergradient}
    return run


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if not prefix and name in FREE:
            continue
        # An empty one has no names of its own, and would be lost.
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
