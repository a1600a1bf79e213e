"""From a name to an object."""

from pathlib import Path

import pytest

from bilora import errors
from bilora.errors import BiloraError, SettingsError
from bilora.settings.lookup import did_you_mean, find

TABLE = {"real": 1, "softmax": 2}


def test_a_row_of_the_table() -> None:
    assert find(TABLE, "real", kind="formulation") == 1


def test_a_user_s_own() -> None:
    assert find(TABLE, "math:pi", kind="formulation") == pytest.approx(3.14159, abs=1e-5)


def test_a_user_s_own_file_next_to_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_for_lookup.py").write_text("VALUE = object\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert find({}, "mine_for_lookup:VALUE", kind="method") is object


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(SettingsError, match="formulation 'sofmax' is unknown; known: real, softmax; or give 'package"):
        find(TABLE, "sofmax", kind="formulation")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:X", "cannot import module 'no_such_module': No module named"),
        (":X", "kind ':X' is not of the form 'package.module:NAME'"),
        ("..errors:X", "is not of the form"),
        ("C:/folder/file", "is not of the form"),
        ("math:pie", "module 'math' has no 'pie'. Did you mean 'pi'"),
        ("math:", "kind 'math:' is not of the form"),
    ],
)
def test_a_path_that_leads_nowhere(path: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        find({}, path, kind="kind")


@pytest.mark.parametrize(
    ("name", "meant"), [("radiuss", " Did you mean 'radius'?"), ("Radius", " Did you mean 'radius'?"), ("zzz", "")]
)
def test_the_nearest_name(name: str, meant: str) -> None:
    assert did_you_mean(name, ["radius", "scale"]) == meant


def test_all_errors_share_one_root_and_say_what_kind_they_are() -> None:
    own = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)}
    assert all(issubclass(each, BiloraError) for each in own)
    assert {each.__name__ for each in own if issubclass(each, ValueError)} == {
        "SettingsError",
        "DataError",
        "LevelsError",
        "CheckpointError",
    }
    assert issubclass(errors.DivergedError, ArithmeticError)
