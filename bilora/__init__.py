"""Bi-level, parameter-efficient fine-tuning of pre-trained language models."""

from __future__ import annotations

from bilora.config import BiloraConfig
from bilora.errors import BiloraError, DataError, DivergedError, LevelsError, SettingsError
from bilora.export import LoraExport, export_lora
from bilora.layer import BiloraLinear
from bilora.model import BiloraModel
from bilora.parameters import LevelParameters, check_saved, level_parameters, trainable_parameters
from bilora.registration import register
from bilora.regularizers import (
    binary_entropy,
    binary_entropy_penalty,
    orthogonality,
    orthogonality_penalty,
)
from bilora.singular_values import FORMULATIONS, Formulation

__version__ = "0.1.0"

__all__ = [
    "FORMULATIONS",
    "BiloraConfig",
    "BiloraError",
    "BiloraLinear",
    "BiloraModel",
    "DataError",
    "DivergedError",
    "Formulation",
    "LevelParameters",
    "LevelsError",
    "LoraExport",
    "SettingsError",
    "binary_entropy",
    "binary_entropy_penalty",
    "check_saved",
    "export_lora",
    "level_parameters",
    "orthogonality",
    "orthogonality_penalty",
    "register",
    "trainable_parameters",
]

# PEFT finds a method only once it is told of it: adapters load where this package has been imported.
register()
