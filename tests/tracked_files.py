"""The files of the project as git knows them, for tests that read sources: a folder that moves cannot fall silent."""

import configparser
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
# Where Betty is missing.
CURE = "pip install --no-deps --ignore-requires-python betty-ml==0.2.1"


def tracked_files(*patterns: str) -> list[Path]:
    """Return the files that match git's patterns, new ones that git does not ignore among them; never none.

    A pattern such as ``bilora/*.py`` reaches into every folder below, as git reads it.
    """
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [path for name in sorted(set(listed.split("\0"))) if name and (path := ROOT / name).is_file()]
    assert paths, f"git knows no file that matches {patterns}"
    return paths


def loaded(path: Path) -> ModuleType:
    """Return a file outside the packages as a module, executed but not run as a program."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    # Dataclasses look their module up.
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a Markdown page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def missing_files(text: str, *more: str) -> list[str]:
    """Return the paths between backticks on a Markdown page, those of ``more`` patterns too, that do not exist."""
    folders = r"(?:bilora|problems|engines|benchmarks|examples|tests|docs)/[\w./-]+"
    paths = {path for pattern in (folders, *more) for path in re.findall(f"`({pattern})`", text)}
    return [path for path in sorted(paths) if not (ROOT / path).exists()]


def setup_cfg() -> configparser.ConfigParser:
    """Return the settings of the project."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def pinned_versions() -> dict[str, str]:
    """Return the version of each package that constraints.txt pins."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))
