"""Build the wheel by way of the sdist; compare what it holds with the sources; import it elsewhere."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"bilora": "bilora", "problems": "bilora/problems", "engines": "bilora/engines"}
IMPORT_ALL = """
import pathlib, sys, bilora, bilora.problems, bilora.engines
for module in (bilora, bilora.problems, bilora.engines):
    assert pathlib.Path(module.__file__).is_relative_to(sys.argv[1]), f"{module.__file__} is not the wheel's"
"""


def main() -> None:
    """Run the three checks, and exit with a text that says which one failed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder / "dist")
        compare(wheel)
        import_elsewhere(wheel, folder)
    print(f"{wheel.name} holds every source file and imports outside the checkout")


def build(folder: Path) -> Path:
    """Return the wheel that was built, by way of the sdist, into ``folder``."""
    finished = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if finished.returncode:
        sys.exit(f"{finished.stdout}\nthe wheel does not build")
    (wheel,) = folder.glob("*.whl")
    return wheel


def compare(wheel: Path) -> None:
    """Exit unless the wheel holds the sources, the type marker and the licence, and no more."""
    patterns = [f"{folder}/*" for folder in FOLDERS]
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns, "bilora_command.py"]
    listed = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    # A file that git still lists and that is deleted in the work tree cannot be in the wheel.
    tracked = [name.partition("/") for name in listed if (ROOT / name).is_file()]
    expected = {f"{FOLDERS[folder]}/{rest}" if rest else folder for folder, _, rest in tracked}
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = {name for name in names if ".dist-info/" in name}
    found = names - metadata
    if found != expected:
        sys.exit(
            f"{wheel.name} lacks {sorted(expected - found)} and has {sorted(found - expected)} too much; "
            "every folder with sources needs a line in packages of setup.cfg"
        )
    if not any(name.endswith("/LICENSE") for name in metadata):
        sys.exit(f"{wheel.name} lacks the licence")


def import_elsewhere(wheel: Path, folder: Path) -> None:
    """Exit unless the wheel, unpacked into ``folder``, is imported from there by a process started there."""
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True)
    # -S leaves out the editable install; the dependencies are found through the second entry.
    (site_packages,) = [path for path in sys.path if path.endswith("site-packages")]
    code = f"import sys; sys.path[:0] = [{str(target)!r}, {site_packages!r}]\n{IMPORT_ALL}"
    finished = subprocess.run([sys.executable, "-S", "-W", "ignore", "-c", code, str(target)], cwd=folder)
    if finished.returncode:
        sys.exit(f"{wheel.name} cannot be imported outside the checkout")


if __name__ == "__main__":
    main()
