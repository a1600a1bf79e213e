"""From a name to an object, and optional packages: there, missing, or broken themselves."""

from pathlib import Path

import pytest

from bilora import errors
from bilora.errors import BiloraError, SettingsError
from bilora.settings.lookup import did_you_mean, find, import_extra

TABLE = {"real": 1, "softmax": 2}


def test_a_row_of_the_table_or_a_user_s_own() -> None:
    assert find(TABLE, "real", kind="formulation") == 1
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
    classes = {error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)}
    assert all(issubclass(error, BiloraError) for error in classes)
    of_values = {"SettingsError", "DataError", "LevelsError", "CheckpointError"}
    assert {error.__name__ for error in classes if issubclass(error, ValueError)} == of_values
    assert issubclass(errors.DivergedError, ArithmeticError)


def test_an_optional_package_that_is_missing_is_named_with_its_extra() -> None:
    assert import_extra("json.decoder", extra="nlg").JSONDecoder
    with pytest.raises(SettingsError, match=r"package no_such_package, which.*pip install 'bilora\[nlg\]'"):
        import_extra("no_such_package.part", extra="nlg")


def test_a_fault_inside_of_a_package_is_not_taken_for_its_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("import another_missing_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="another_missing_package"):
        import_extra("broken_package", extra="nlg")
