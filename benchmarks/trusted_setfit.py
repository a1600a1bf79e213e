"""SetFit by its own trainer, where its package is installed: pairs of rows first, a logistic regression behind."""

import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

PACKAGE = "setfit"
# Pairs of a row of the same and of another class, per row and iteration (Tunstall et al. 2022, arXiv 2209.11055).
ITERATIONS = 20
BATCH = 16
# A class that the head has never seen has no probability, and its logarithm no end.
SMALLEST = 1e-12


def lack() -> str | None:
    """Return what is missing, or None."""
    if importlib.util.find_spec(PACKAGE) is not None:
        return None
    return f"the package {PACKAGE} is not installed; pip install {PACKAGE} for it, and give the same command again"


def train(
    texts: Sequence[str], labels: Sequence[int], *, model: str, classes: int, max_length: int, seed: int, device: str
) -> Callable[[Sequence[str]], Tensor]:
    """Train on a few rows, and return what gives the logits ``(texts, classes)`` of others."""
    setfit: Any = importlib.import_module(PACKAGE)
    body = setfit.SetFitModel.from_pretrained(model, device=device)
    body.model_body.max_seq_length = max_length
    rows = Dataset.from_dict({"text": list(texts), "label": list(labels)})
    with tempfile.TemporaryDirectory() as folder:
        settings = setfit.TrainingArguments(
            output_dir=folder,
            batch_size=BATCH,
            num_epochs=1,
            num_iterations=ITERATIONS,
            seed=seed,
            save_strategy="no",
            report_to="none",
        )
        setfit.Trainer(model=body, args=settings, train_dataset=rows).train()
    # The head's columns are the classes that it has seen, in their order.
    seen = sorted(set(labels))

    def answer(others: Sequence[str]) -> Tensor:
        found = torch.as_tensor(body.predict_proba(list(others), as_numpy=True)).double()
        chances = torch.zeros(len(found), classes, dtype=torch.float64)
        chances[:, torch.tensor(seen)] = found
        return chances.clamp_min(SMALLEST).log()

    return answer
