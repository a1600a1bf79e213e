"""The cache of converted models: whole or not there, and checked at each use."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bilora.errors import DataError, SettingsError
from bilora.files import whole_folders
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


def test_built_once_and_used_again(cache: Path) -> None:
    build = Build()
    folder = cached_folder("it", build)
    assert folder == cache / "it"
    assert cached_folder("it", build) == folder
    assert build.times == 1
    assert set(json.loads((folder / MANIFEST).read_text())) == {"model", "deep/tokenizer"}
    assert [path.name for path in cache.iterdir()] == ["it"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model").write_text("Weights"),
        lambda folder: (folder / "model").write_text("weig"),
        lambda folder: (folder / "deep" / "tokenizer").unlink(),
        lambda folder: (folder / MANIFEST).unlink(),
        lambda folder: (folder / MANIFEST).write_text('{"model": '),
        lambda folder: (folder / MANIFEST).write_text("[]"),
    ],
    ids=["changed byte", "cut file", "missing file", "no manifest", "half a manifest", "another manifest"],
)
def test_a_damaged_folder_is_made_anew(cache: Path, damage: Callable[[Path], object]) -> None:
    folder, again = cached_folder("it", Build()), Build()
    damage(folder)
    with pytest.warns(DamagedCacheWarning, match="it is damaged .*; it is made anew"):
        assert cached_folder("it", again) == folder
    assert (folder / "model").read_text() == "weights"
    assert cached_folder("it", again) == folder
    assert again.times == 1
    assert [path.name for path in cache.iterdir()] == ["it"]


def test_a_build_that_fails_leaves_nothing(cache: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "model").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder("it", build)
    assert list(cache.iterdir()) == []


def test_the_folder_of_a_faster_process_is_taken(cache: Path) -> None:
    def build(folder: Path) -> None:
        cached_folder("it", Build("of the other process"))
        (folder / "model").write_text("ours")

    assert (cached_folder("it", build) / "model").read_text() == "of the other process"
    assert [path.name for path in cache.iterdir()] == ["it"]


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


@pytest.mark.parametrize(
    ("make", "name", "match"),
    [
        (whole_folders.new_file, "full/file", "output .*file is there already"),
        (whole_folders.new_file, "none/file", "output .*file: there is no folder .*none; make it first"),
        (whole_folders.new_folder, "full", "output .*full is not empty"),
        (whole_folders.new_folder, "full/file", "output .*file cannot be made"),
    ],
)
def test_an_output_that_cannot_be_new(tmp_path: Path, make: Callable[[str], Path], name: str, match: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(SettingsError, match=match):
        make(str(tmp_path / name))
