"""Betty's set-up without its words."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from betty.logging import get_logger


@contextmanager
def quiet_betty() -> Iterator[None]:
    """Keep Betty from printing its set-up to the standard output, which is the user's.

    Example:
        >>> with quiet_betty():
        ...     get_logger().info("not to be seen")
    """
    logger = get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
