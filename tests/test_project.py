"""What must agree between the files of the project, and what a user meets when the set-up is incomplete."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from tracked_files import CURE, ROOT, pinned_versions, setup_cfg, tracked_files

import bilora

FOLDERS = ("bilora", "problems", "engines")
# Where it is not the name of the import.
DISTRIBUTION = {
    "charset_normalizer": "charset-normalizer",
    "jinja2": "Jinja2",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}


def names(requirements: str) -> set[str]:
    return {re.split(r"[<>=!~;\[ ]", line)[0] for line in requirements.split("\n") if line}


def sources(folder: str) -> list[Path]:
    return tracked_files(f"{folder}/*.py")


def imports(path: Path) -> set[str]:
    """The modules that ``path`` imports, with ``from a import b`` as ``a.b``; imports in functions too."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import, which mypy and doctest do not follow"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def third_party(folder: str) -> set[str]:
    top = {module.partition(".")[0] for path in sources(folder) for module in imports(path)}
    return {DISTRIBUTION.get(name, name) for name in top - sys.stdlib_module_names - {"bilora"}}


def run(code: str, *, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_version_is_the_installed_one() -> None:
    assert bilora.__version__ == metadata.version("bilora")


def test_every_import_is_a_declared_requirement_and_every_requirement_is_imported() -> None:
    declared = names(setup_cfg()["options"]["install_requires"])
    used = set().union(*map(third_party, FOLDERS)) - {"betty"}
    # Imported where a spreadsheet is read, with an error that names the extra.
    optional = names(setup_cfg()["options.extras_require"]["xlsx"])
    assert used - declared - optional == set()
    assert declared - used - third_party("benchmarks") == set()


def test_every_folder_with_sources_is_a_package_of_the_wheel() -> None:
    """A room without a line in setup.cfg works from the checkout and is missing from the wheel."""
    folders = {path.parent.relative_to(ROOT) for folder in FOLDERS for path in sources(folder)}
    packages = {".".join(["bilora", *folder.parts]).replace("bilora.bilora", "bilora") for folder in folders}
    assert set(setup_cfg()["options"]["packages"].split()) == packages


def test_every_requirement_has_a_tested_version() -> None:
    extras = setup_cfg()["options.extras_require"]
    wanted = names(setup_cfg()["options"]["install_requires"]).union(*(names(extras[key]) for key in extras))
    assert {name.lower() for name in wanted - {"bilora"}} <= {name.lower() for name in pinned_versions()}


def test_pinned_versions_are_on_every_machine() -> None:
    """No path and no local build such as ``+cpu``, which another machine could not find."""
    versions = pinned_versions()
    assert versions
    assert [name for name in versions if not re.fullmatch(r"[\w.-]+==[\w.]+", f"{name}=={versions[name]}")] == []


def test_betty_is_the_same_everywhere() -> None:
    assert CURE in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "BETTY = betty-ml==0.2.1" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert pinned_versions()["betty-ml"] == "0.2.1"
    assert not any("betty" in requirement for requirement in metadata.requires("bilora") or ())


def test_another_missing_module_is_not_taken_for_betty(tmp_path: Path) -> None:
    finished = run("import sys; sys.modules['torch'] = None; import bilora.problems", folder=tmp_path)
    assert "ModuleNotFoundError: import of torch" in finished.stderr
    assert CURE not in finished.stderr


@pytest.mark.parametrize("folder", ["problems", "engines"])
def test_folder_is_not_imported_by_its_own_name(folder: str) -> None:
    """It would make a second copy of every class."""
    finished = run(f"import {folder}", folder=ROOT)
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: this folder is imported as bilora.{folder}; run 'pip install -e .'")


def test_no_file_names_a_machine_or_a_registry() -> None:
    pattern = re.compile(
        r"(?<![\w.>})])/(?:wor[k]|roo[t]|home|tmp/w)/\w|(?:pyp[i]|npmj[s]|debia[n])[.]org|python[h]osted[.]org|download[.]pytorch"
    )
    # A picture or an archive is no text, and is read all the same.
    texts = {path: path.read_bytes().decode(errors="replace") for path in tracked_files()}
    assert [f"{path}: {match.group()}" for path, text in texts.items() for match in pattern.finditer(text)] == []


def test_the_contract_refuses_an_import_that_runs_up(tmp_path: Path) -> None:
    """``make layers`` on the sources as they are, and with one import planted in the lowest room."""
    links = tmp_path / "bilora"
    links.mkdir()
    for path in [*(ROOT / "bilora").iterdir(), ROOT / "problems", ROOT / "engines"]:
        (links / path.name).symlink_to(path)
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command(sys.argv[1:])"
    words = [sys.executable, "-c", code, "--config", str(ROOT / "setup.cfg"), "--no-cache"]
    kept = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert kept.returncode == 0, kept.stdout
    assert "Contracts: 1 kept, 0 broken" in kept.stdout
    (links / "errors.py").unlink()
    source = (ROOT / "bilora" / "errors.py").read_text(encoding="utf-8")
    (links / "errors.py").write_text(f"{source}\nimport bilora.commands.verb\n", encoding="utf-8")
    broken = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert broken.returncode == 1
    assert "bilora.errors -> bilora.commands.verb" in broken.stdout
