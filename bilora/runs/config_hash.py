"""The hash of a run's config, by which a folder knows the run that it holds."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bilora.engines.checkpoints.config_change import FREE
from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.runs.config import ADAPTER, RunConfig
from bilora.settings.sections import resolved

# Settings that came after runs had hashes, and are no part of one where they are left out.
LATER = ("source_column", "weight_column", "group_column", "revision")

# The defaults of a hypergradient's settings when runs got hashes.
THEN = {"finite_difference": "central", "scale": "one"}


def config_hash(config: RunConfig) -> str:
    """Return the hash of everything that decides the numbers of a run: all settings but those of its folder."""
    plain = resolved(config.of(config.method, config.seed))
    settings = {name: value for name, value in plain.items() if name not in FREE}
    # Written as they were when a config had lists and other defaults, so that the hash of a run stays what it was.
    settings["method"], settings["seeds"] = [settings["method"]], [settings.pop("seed")]
    if config.label_separator is None:
        del settings["label_separator"]
    if not config.flip_labels:
        del settings["flip_labels"]
    for name in ADAPTER:  # they are among those of the method
        del settings[name]
    for name in ("trusted_file", "trusted_column", "road", *LATER):
        if settings[name] is None:
            del settings[name]
    settings["method_settings"] = resolved(config.variant_settings)
    name, more = short_hypergradient(config.hypergradient)
    settings["hypergradient"] = {"name": name, **more} if more else name
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def short_hypergradient(hypergradient: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a hypergradient's name, and those of its settings that are not its defaults, or those of earlier runs."""
    name = hypergradient if isinstance(hypergradient, str) else str(hypergradient["name"])
    plain, built = resolved(build_hypergradient(name)), resolved(build_hypergradient(hypergradient))
    if not isinstance(built, dict):  # a user's own that is no dataclass
        return name, {}
    # The defaults of earlier versions: names and hashes of runs must go on meaning what they meant then.
    plain |= {key: then for key, then in THEN.items() if key in plain}
    return name, {key: value for key, value in built.items() if value not in (plain[key], None)}
