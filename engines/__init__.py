"""How it is optimised: the engine, the hypergradients, and the road from data to adapter."""

if __name__ != "bilora.engines":
    raise ImportError("this folder is imported as bilora.engines; run 'pip install -e .' in the checkout once")

import bilora.problems  # noqa: F401, I001  (first of all: it says what to do where Betty is missing)

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.early_stopping import EarlyStopping
from bilora.engines.endings import ENDINGS, build_ending
from bilora.engines.training.fit import fit
from bilora.engines.training.result import FitResult, StageResult
from bilora.engines.hypergradients.catalog import HYPERGRADIENTS, build_hypergradient
from bilora.engines.callbacks.keep_best import KeepBest
from bilora.engines.callbacks.files import MetricsFile
from bilora.metrics.monitor import Monitor
from bilora.engines.callbacks.progress import Progress
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.callbacks.records import StagePlace, StepRecord, UpperRecord, ValidationRecord
from bilora.engines.trainer.trainer import BilevelTrainer
from bilora.engines.trainer.arguments import BilevelTrainingArguments
from bilora.engines.trainer.generating import BilevelSeq2SeqTrainer, BilevelSeq2SeqTrainingArguments

__all__ = [
    "ENDINGS",
    "HYPERGRADIENTS",
    "BilevelEngine",
    "BilevelSeq2SeqTrainer",
    "BilevelSeq2SeqTrainingArguments",
    "BilevelTrainer",
    "BilevelTrainingArguments",
    "Callback",
    "EarlyStopping",
    "FitResult",
    "FitSettings",
    "KeepBest",
    "LevelSettings",
    "MetricsFile",
    "Monitor",
    "Progress",
    "StagePlace",
    "StageResult",
    "StepRecord",
    "UpperRecord",
    "ValidationRecord",
    "build_ending",
    "build_hypergradient",
    "fit",
]
