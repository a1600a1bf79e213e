"""Variants are found by name, or as ``package.module:NAME`` in a user's own file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bilora.errors import SettingsError
from bilora.problems import VARIANTS, Variant, find_variant

OWN = """
from dataclasses import replace
from bilora.problems.variants.lora import VARIANT
MINE = replace(VARIANT, name="mine")
NUMBER = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module of the user's, in a folder on the path."""
    (tmp_path / "own_variant.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_variant"


@pytest.mark.parametrize("name", VARIANTS)
def test_by_name(name: str) -> None:
    assert find_variant(name) is VARIANTS[name]
    assert VARIANTS[name].name == name


def test_by_path(own: str) -> None:
    variant = find_variant(f"{own}:MINE")
    assert isinstance(variant, Variant)
    assert variant.name == "mine"
    assert variant.lower is VARIANTS["lora"].lower


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
def test_refused(own: str, name: str, match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        find_variant(name)
