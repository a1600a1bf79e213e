"""One contract for every row of the table of formulations, and what only one row has."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bilora.adapter.singular_values import FORMULATIONS, find_formulation, raw_start, starts_faulty
from bilora.errors import SettingsError

RANK = 5
# s_j at the start, and the sum of all of them where it is fixed.
START = {"real": 1.0, "softmax": 1.0, "softmax_sum_one": 1 / RANK, "binary": 0.5}
SUM = {"softmax": float(RANK), "softmax_sum_one": 1.0}


def _raw(seed: int = 0) -> Tensor:
    return torch.randn(RANK, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", FORMULATIONS)
def test_shape_and_dtype_stay_and_derivatives_equal_finite_differences(name: str) -> None:
    values = find_formulation(name).values
    assert (values(_raw()).shape, values(_raw()).dtype) == ((RANK,), torch.float32)
    raw = _raw().double().requires_grad_()
    assert torch.autograd.gradcheck(values, raw)
    assert torch.autograd.gradgradcheck(values, raw)


@pytest.mark.parametrize("name", FORMULATIONS)
def test_own_start(name: str) -> None:
    raw = raw_start(name, RANK, value=None)
    assert raw.dtype == torch.float32 and raw.unique().numel() == 1
    assert not list(starts_faulty(name, raw))
    torch.testing.assert_close(find_formulation(name).values(raw), torch.full((RANK,), START[name]))


@pytest.mark.parametrize("name", [name for name, formulation in FORMULATIONS.items() if formulation.raw is not None])
def test_inverse_leads_back(name: str) -> None:
    formulation = find_formulation(name)
    values = formulation.values(_raw())
    torch.testing.assert_close(formulation.values(formulation.raw(values)), values)


@pytest.mark.parametrize("name", FORMULATIONS)
def test_unit_interval_is_told_truly_and_alone_has_an_entropy(name: str) -> None:
    formulation, raw = find_formulation(name), torch.cat([20 * _raw(seed) for seed in range(20)])
    values = formulation.values(raw)
    assert bool(((values >= 0) & (values <= 1)).all()) == formulation.unit_interval
    assert formulation.entropy_weight == (1e-4 if name == "binary" else 0.0)
    assert formulation.unit_interval or not formulation.entropy_weight


@pytest.mark.parametrize("name", SUM)
def test_softmax_forms_have_a_fixed_sum_and_positive_values(name: str) -> None:
    values = find_formulation(name).values(_raw())
    torch.testing.assert_close(values.sum(), torch.tensor(SUM[name]))
    assert bool((values > 0).all())
    # Ratios are those of exp(E).
    torch.testing.assert_close(values[1] / values[0], (_raw()[1] - _raw()[0]).exp())


def test_real_and_binary_against_their_formulas() -> None:
    raw = _raw()
    torch.testing.assert_close(find_formulation("real").values(raw), raw)
    torch.testing.assert_close(find_formulation("binary").values(raw), 1 / (1 + (-raw).exp()))


@pytest.mark.parametrize(("name", "value"), [("real", 0.0), ("real", -0.25), ("binary", 0.01), ("binary", 0.9)])
def test_start_at_a_given_value(name: str, value: float) -> None:
    raw = raw_start(name, RANK, value=value)
    torch.testing.assert_close(find_formulation(name).values(raw), torch.full((RANK,), value))


OUT_OF_REACH = [("softmax", 0.0), ("softmax", 0.5), ("softmax_sum_one", 1.0)]


@pytest.mark.parametrize(("name", "value"), [*OUT_OF_REACH, ("binary", 0.0), ("binary", 1.0), ("binary", 2.0)])
def test_start_out_of_reach_is_refused(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"'{name}' cannot start with all {RANK} values at {value}"):
        raw_start(name, RANK, value=value)


@pytest.mark.parametrize("name", SUM)
def test_one_softmax_value_cannot_be_learned(name: str) -> None:
    assert list(starts_faulty(name, torch.zeros(1)))


def test_start_is_found_where_gradients_are_off_and_the_default_device_holds_no_numbers() -> None:
    with torch.inference_mode(), torch.device("meta"):
        raw = raw_start("binary", 2, value=0.25)
        assert not list(starts_faulty("binary", raw))
    assert raw.device.type == "cpu"


OWN = """
import torch
from bilora import Formulation
bounded = Formulation(values=lambda E: torch.tanh(E))
wrong_shape = Formulation(values=lambda E: E.sum())
bare = torch.tanh
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_formulations.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_formulations"


def test_own_formulation_by_path(own_module: str) -> None:
    raw = _raw()
    torch.testing.assert_close(find_formulation(f"{own_module}:bounded").values(raw), raw.tanh())
    assert raw_start(f"{own_module}:bounded", 3, value=0.0).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(SettingsError, match="no inverse"):
        raw_start(f"{own_module}:bounded", 3, value=0.5)


def test_own_formulation_of_another_shape_or_type(own_module: str) -> None:
    assert "another shape" in next(starts_faulty(f"{own_module}:wrong_shape", torch.zeros(3)))
    with pytest.raises(SettingsError, match="wrap the function"):
        find_formulation(f"{own_module}:bare")


def test_unknown_formulation_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="Did you mean 'softmax'"):
        find_formulation("softmx")
