"""Betty's config: what is read, what is refused because nobody would read it, what is out of range."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from betty.configs import Config
from torch import nn

from bilora.errors import SettingsError
from bilora.problems import LowerProblem, UpperProblem
from bilora.problems.levels.betty_problem import READ, autocast_dtype, check_config

# Another value than the default, for every field that nobody here reads.
UNREAD: dict[str, Any] = {
    "type": "cg",
    "first_order": False,
    "retain_graph": True,
    "allow_unused": False,
    "initial_dynamic_scale": 1.0,
    "scale_factor": 3.0,
    "log_step": 10,
    "log_local_step": True,
    "darts_alpha": 0.1,
    "darts_multitask": True,
    "sama_adam_alpha": 0.1,
    "sama_multitask": True,
    "neumann_iterations": 3,
    "neumann_alpha": 0.5,
    "cg_iterations": 3,
    "cg_alpha": 0.5,
}


def test_every_field_is_read_or_refused() -> None:
    assert {field.name for field in dataclasses.fields(Config)} == {*READ, *UNREAD}


@pytest.mark.parametrize(("name", "value"), UNREAD.items())
def test_fields_that_nobody_reads(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"config of level 'upper': {name}={value!r} is not read"):
        UpperProblem("upper", Config(**{name: value}), nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("unroll_steps", 0, "at least 1"),
        ("gradient_accumulation", 0, "at least 1"),
        ("warmup_steps", -1, "at least 0"),
        ("gradient_clipping", -1.0, "positive, or 0 for none"),
        ("gradient_clipping", math.nan, "positive, or 0 for none"),
        ("precision", "fp8", "known: fp32, bf16, fp16"),
    ],
)
def test_values_out_of_range(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(SettingsError, match=f"config of level 'lower': {name} is {value!r}; .*{allowed}"):
        LowerProblem("lower", Config(**{name: value}), nn.Linear(1, 1))


def test_all_faults_are_told_together() -> None:
    config = Config(type="cg", unroll_steps=0, gradient_accumulation=-2, precision="half")
    with pytest.raises(SettingsError) as caught:
        check_config(config, level="lower")
    assert all(name in str(caught.value) for name in ("type='cg'", "unroll_steps", "accumulation", "'half'"))


def test_good_configs_pass() -> None:
    check_config(Config(), level="lower")
    read = Config(unroll_steps=4, gradient_accumulation=2, gradient_clipping=1.0, precision="bf16", warmup_steps=8)
    check_config(read, level="lower")


def test_autocast_dtypes() -> None:
    dtypes = [autocast_dtype(precision) for precision in ("fp32", "bf16", "fp16")]
    assert dtypes == [None, torch.bfloat16, torch.float16]
