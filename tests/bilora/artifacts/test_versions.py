"""The versions in a row of results."""

from __future__ import annotations

import platform

import peft
import torch
import transformers

import bilora
from bilora.artifacts.fingerprint import versions


def test_versions_are_those_that_run() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["bilora"] == bilora.__version__
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert (found["transformers"], found["peft"]) == (transformers.__version__, peft.__version__)
    assert found["betty-ml"] == "0.2.1"
