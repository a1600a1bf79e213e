"""What may differ between the run that wrote a checkpoint and the one that goes on from it."""

from collections.abc import Iterator, Mapping
from typing import Any

from bilora.errors import CheckpointError, first_ten

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


def check_changes(before: Mapping[str, Any], after: Mapping[str, Any], *, allow: bool) -> list[str]:
    """Return how a run's settings differ from a checkpoint's; refuse what may not differ, or not without ``allow``."""
    old, new = deciding_settings(before), dict(_flat(after))
    # In the order in which the settings stand, which a set would lose.
    names = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
    differing = {name: f"{name}: {old.get(name)!r} -> {new.get(name)!r}" for name in names}
    fault = "the settings are not those of the run that is resumed"
    never = [change for name, change in differing.items() if name not in ALLOWED]
    if never:
        raise CheckpointError(f"{fault}; these cannot change within a run: {first_ten(never, '; ')}")
    changes = list(differing.values())
    if changes and not allow:
        raise CheckpointError(
            f"{fault}: {first_ten(changes, '; ')}; say --allow-config-change (allow_config_change=True) if that is "
            "meant"
        )
    return changes


def deciding_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run, of this version or an earlier one, that decide its numbers, by dotted name."""
    return dict(_flat(_as_today(settings)))


def _as_today(settings: Mapping[str, Any]) -> dict[str, Any]:
    run = dict(settings)
    # Checkpoints stay good when the form of the settings changes; once a config could name several methods and seeds.
    for name, value in (("method", run.get("method")), ("seed", run.pop("seeds", None))):
        if isinstance(value, list) and len(value) == 1:
            run[name] = value[0]
    entry = run.get("hypergradient")
    # Of another type, in a file that was damaged, it differs from that of today as it stands.
    hypergradient = {"name": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, Mapping) else {}
    # Saved without them, they were the ones that were the defaults then.
    if hypergradient.get("name") == "darts":
        then = {} if hypergradient.get("products") == "exact" else {"finite_difference": "central"}
        run["hypergradient"] = {**then, "scale": "one", **hypergradient}
    return run


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if not prefix and name in FREE:
            continue
        # An empty one has no names of its own, and would be lost.
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
