"""The files of the project as git knows them, for tests that read sources: a folder that moves cannot fall silent."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tracked_files(*patterns: str) -> list[Path]:
    """Return the files that match git's patterns, new ones that git does not ignore among them; never none.

    A pattern such as ``bilora/*.py`` reaches into every folder below, as git reads it.
    """
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [path for name in sorted(set(listed.split("\0"))) if name and (path := ROOT / name).is_file()]
    assert paths, f"git knows no file that matches {patterns}"
    return paths
