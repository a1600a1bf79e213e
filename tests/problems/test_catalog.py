"""Variants are found by name, or as ``package.module:NAME`` in a user's own file."""

from pathlib import Path

import pytest

from bilora.errors import SettingsError
from bilora.problems import VARIANTS, Variant, find_variant

MODULE = """
from dataclasses import replace
from bilora.problems.variants.lora import VARIANT
MINE = replace(VARIANT, name="mine")
NUMBER = 3
"""


@pytest.fixture(autouse=True)
def _module_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_variant.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", VARIANTS)
def test_by_name(name: str) -> None:
    assert find_variant(name) is VARIANTS[name]
    assert VARIANTS[name].name == name


def test_by_path() -> None:
    variant = find_variant("own_variant:MINE")
    assert isinstance(variant, Variant)
    assert (variant.name, variant.lower) == ("mine", VARIANTS["lora"].lower)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("bilra", "method 'bilra' is unknown; known: adalora, alternating, .*, two_stage;.*mean 'bilora'"),
        ("adaLora", "Did you mean 'adalora'"),
        ("own_variant:MIEN", "module 'own_variant' has no 'MIEN'.*Did you mean 'MINE'"),
        ("own_varian:MINE", "cannot import module 'own_varian'"),
        ("own_variant:NUMBER", "'own_variant:NUMBER' points to a int; it must be a Variant"),
    ],
)
def test_refused(name: str, match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        find_variant(name)
