"""Bi-level, parameter-efficient fine-tuning of pre-trained language models."""

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

__version__ = "0.1.0"

__all__ = [
    "FORMULATIONS",
    "RANK_RULES",
    "BiloraConfig",
    "BiloraError",
    "BiloraLinear",
    "BiloraModel",
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
    "magnitudes",
    "orthogonality",
    "orthogonality_penalty",
    "pseudo_svd_layers",
    "register",
    "trainable_parameters",
]

# PEFT knows only the methods that are registered, so that adapters load wherever this package has been imported.
register()
