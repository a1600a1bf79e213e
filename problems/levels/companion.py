"""What a run learns beside the parameters of its adapter."""

from __future__ import annotations

import abc
from typing import Any

from torch import nn


class Companion(nn.Module, abc.ABC):
    """A module that lives as long as a run, beside the model: each level of each stage has it as ``companion``.

    Its parameters belong to whichever level names them. The engine moves it to the device of the model; a
    checkpoint of a run needs its ``state_dict``.
    """

    @abc.abstractmethod
    def learned(self) -> dict[str, Any]:
        """Return what it has learned as a JSON object, which is written to the folder of the run."""
