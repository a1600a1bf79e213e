"""Bi-level, parameter-efficient fine-tuning of pre-trained language models."""

import importlib
from typing import TYPE_CHECKING, Any

from bilora.adapter.config import BiloraConfig
from bilora.adapter.export import LoraExport, export_lora
from bilora.adapter.layer import BiloraLinear
from bilora.adapter.level_parameters import (
    LevelParameters,
    check_saved,
    level_parameters,
    pseudo_svd_layers,
    trainable_parameters,
)
from bilora.adapter.model import BiloraModel
from bilora.adapter.pruning import Cut, cut_ranks
from bilora.adapter.ranks import RANK_RULES, Budget, Energy, Mean, Threshold
from bilora.adapter.registration import register
from bilora.adapter.regularizers import binary_entropy, binary_entropy_penalty, orthogonality, orthogonality_penalty
from bilora.adapter.singular_values import FORMULATIONS, Formulation
from bilora.adapter.spectrum import Spectrum, magnitudes
from bilora.errors import BiloraError, DataError, DivergedError, LevelsError, SettingsError

if TYPE_CHECKING:
    from bilora.estimators import BiloraClassifier, BiloraRegressor
    from bilora.runs.trained import open_trained as load

__version__ = "0.1.0"

__all__ = [
    "FORMULATIONS",
    "RANK_RULES",
    "BiloraClassifier",
    "BiloraConfig",
    "BiloraError",
    "BiloraLinear",
    "BiloraModel",
    "BiloraRegressor",
    "Budget",
    "Cut",
    "DataError",
    "DivergedError",
    "Energy",
    "Formulation",
    "LevelParameters",
    "LevelsError",
    "LoraExport",
    "Mean",
    "SettingsError",
    "Spectrum",
    "Threshold",
    "binary_entropy",
    "binary_entropy_penalty",
    "check_saved",
    "cut_ranks",
    "export_lora",
    "level_parameters",
    "load",
    "magnitudes",
    "orthogonality",
    "orthogonality_penalty",
    "pseudo_svd_layers",
    "register",
    "trainable_parameters",
]


def __getattr__(name: str) -> Any:
    """Return what trains or opens a run, which is imported when it is asked for."""
    # Betty and scikit-learn take seconds, and whoever only loads an adapter needs neither.
    if name in ("BiloraClassifier", "BiloraRegressor"):
        return getattr(importlib.import_module("bilora.estimators"), name)
    if name == "load":
        return importlib.import_module("bilora.runs.trained").open_trained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# PEFT knows only the methods that are registered, so that adapters load wherever this package has been imported.
register()
