"""Optional packages: there, missing, or broken themselves."""

from pathlib import Path

import pytest

from bilora.errors import SettingsError
from bilora.settings.lookup import import_extra


def test_what_is_installed_is_returned() -> None:
    assert import_extra("json.decoder", extra="nlg").JSONDecoder


def test_what_is_missing_is_named_with_its_extra() -> None:
    with pytest.raises(SettingsError, match=r"package no_such_package, which.*pip install 'bilora\[nlg\]'"):
        import_extra("no_such_package.part", extra="nlg")


def test_a_fault_inside_of_the_package_is_not_taken_for_its_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("import another_missing_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="another_missing_package"):
        import_extra("broken_package", extra="nlg")
