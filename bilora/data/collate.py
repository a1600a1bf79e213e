"""What makes a batch of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Collate = Callable[[Sequence[Any]], Any]
