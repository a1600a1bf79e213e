"""The names of classes, as a model's config keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def label_settings(names: Sequence[str]) -> dict[str, Any]:
    """Return ``num_labels``, ``id2label`` and ``label2id`` of transformers' configs.

    Args:
        names: A name for each class, in the order of the class indices.

    Example:
        >>> label_settings(("no", "yes"))["label2id"]
        {'no': 0, 'yes': 1}
    """
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
