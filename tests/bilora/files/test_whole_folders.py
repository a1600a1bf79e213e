"""The cache of converted models: whole or not there, and checked at each use."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bilora.errors import DataError
from bilora.files.whole_folders import CACHE_VARIABLE, MANIFEST, DamagedCacheWarning, cache_root, cached_folder


class Build:
    """Writes two files, and counts how often."""

    def __init__(self, text: str = "weights") -> None:
        self.text = text
        self.times = 0

    def __call__(self, folder: Path) -> None:
        self.times += 1
        (folder / "deep").mkdir()
        (folder / "model").write_text(self.text)
        (folder / "deep" / "tokenizer").write_text("tokens")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def left_over(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_built_once_and_used_again(cache: Path) -> None:
    build = Build()
    folder = cached_folder("it", build)
    assert folder == cache / "it"
    assert cached_folder("it", build) == folder
    assert build.times == 1
    assert set(json.loads((folder / MANIFEST).read_text())) == {"model", "deep/tokenizer"}
    assert left_over(cache) == ["it"]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a changed byte": lambda folder: (folder / "model").write_text("Weights"),
    "a cut file": lambda folder: (folder / "model").write_text("weig"),
    "a missing file": lambda folder: (folder / "deep" / "tokenizer").unlink(),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "half a manifest": lambda folder: (folder / MANIFEST).write_text('{"model": '),
    "another manifest": lambda folder: (folder / MANIFEST).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_made_anew(cache: Path, damage: str) -> None:
    folder = cached_folder("it", Build())
    DAMAGE[damage](folder)
    again = Build()
    with pytest.warns(DamagedCacheWarning, match="it is damaged .*; it is made anew"):
        assert cached_folder("it", again) == folder
    assert (folder / "model").read_text() == "weights"
    assert cached_folder("it", again) == folder
    assert again.times == 1
    assert left_over(cache) == ["it"]


def test_a_build_that_fails_leaves_nothing(cache: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "model").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder("it", build)
    assert left_over(cache) == []


def test_the_folder_of_a_faster_process_is_taken(cache: Path) -> None:
    def build(folder: Path) -> None:
        cached_folder("it", Build("of the other process"))
        (folder / "model").write_text("ours")

    assert (cached_folder("it", build) / "model").read_text() == "of the other process"
    assert left_over(cache) == ["it"]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(DataError, match=rf"cannot be written: .*; set {CACHE_VARIABLE} to a folder with room"):
        cached_folder("it", Build())


def test_without_the_variable_it_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "bilora"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "bilora"
