"""What must agree between the files of the project, and what a user meets when the set-up is incomplete."""

import ast
import configparser
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from tracked_files import tracked_files

import bilora

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("bilora", "problems", "engines")
CURE = "pip install --no-deps --ignore-requires-python betty-ml==0.2.1"
DISTRIBUTION = {
    "jinja2": "Jinja2",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}  # where it is not the name of the import


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def names(requirements: str) -> set[str]:
    return {re.split(r"[<>=!~;\[ ]", line)[0] for line in requirements.split("\n") if line}


def pinned_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def sources(folder: str) -> list[Path]:
    return tracked_files(f"{folder}/*.py")


def imports(path: Path) -> set[str]:
    """The modules that ``path`` imports, with ``from a import b`` as ``a.b``; imports in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import, which mypy and doctest do not follow"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def third_party(folder: str) -> set[str]:
    top = {module.partition(".")[0] for path in sources(folder) for module in imports(path)}
    return {DISTRIBUTION.get(name, name) for name in top - sys.stdlib_module_names - {"bilora"}}


def run(code: str, *, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_version_is_the_installed_one() -> None:
    assert bilora.__version__ == metadata.version("bilora")


def test_every_import_is_a_declared_requirement() -> None:
    declared = names(setup_cfg()["options"]["install_requires"])
    used = set().union(*(third_party(folder) for folder in FOLDERS)) - {"betty"}
    assert used - declared == set()


def test_every_declared_requirement_is_imported() -> None:
    declared = names(setup_cfg()["options"]["install_requires"])
    assert declared - set().union(*(third_party(folder) for folder in (*FOLDERS, "benchmarks"))) == set()


def test_every_folder_with_sources_is_a_package_of_the_wheel() -> None:
    """A room without a line in setup.cfg works from the checkout and is missing from the wheel."""
    folders = {path.parent.relative_to(ROOT) for folder in FOLDERS for path in sources(folder)}
    packages = {".".join(["bilora", *folder.parts]).replace("bilora.bilora", "bilora") for folder in folders}
    assert set(setup_cfg()["options"]["packages"].split()) == packages


def test_every_requirement_has_a_tested_version() -> None:
    extras = setup_cfg()["options.extras_require"]
    wanted = names(setup_cfg()["options"]["install_requires"]).union(*(names(extras[key]) for key in extras))
    tested = dict(line.split("==") for line in pinned_lines())
    assert {name.lower() for name in wanted - {"bilora"}} <= {name.lower() for name in tested}


def test_tested_versions_are_on_every_machine() -> None:
    """No path and no local build such as ``+cpu``, which another machine could not find."""
    assert [line for line in pinned_lines() if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_betty_is_the_same_everywhere() -> None:
    assert CURE in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "BETTY = betty-ml==0.2.1" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "betty-ml==0.2.1" in pinned_lines()
    assert not any("betty" in requirement for requirement in metadata.requires("bilora") or ())


def test_library_works_without_betty(tmp_path: Path) -> None:
    finished = run("import sys; sys.modules['betty'] = None; import bilora", folder=tmp_path)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("module", ["bilora.problems", "bilora.engines"])
def test_missing_betty_is_named_with_its_cure(tmp_path: Path, module: str) -> None:
    finished = run(f"import sys; sys.modules['betty'] = None; import {module}", folder=tmp_path)
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: bilora.problems needs Betty")
    assert last.endswith(CURE)


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
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or an archive
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in pattern.finditer(text)]
    assert found == []


def test_the_contract_refuses_an_import_that_runs_up(tmp_path: Path) -> None:
    """``make layers`` on the sources as they are, and with one import planted in the lowest room."""
    links = tmp_path / "bilora"
    links.mkdir()
    for path in [*(ROOT / "bilora").iterdir(), ROOT / "problems", ROOT / "engines"]:
        (links / path.name).symlink_to(path)
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command(sys.argv[1:])"
    words = [sys.executable, "-c", code, "--config", str(ROOT / "setup.cfg"), "--no-cache"]
    kept = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert kept.returncode == 0, kept.stdout
    assert "Contracts: 1 kept, 0 broken" in kept.stdout
    (links / "errors.py").unlink()
    source = (ROOT / "bilora" / "errors.py").read_text(encoding="utf-8")
    (links / "errors.py").write_text(f"{source}\nimport bilora.commands.verb\n", encoding="utf-8")
    broken = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert broken.returncode == 1
    assert "bilora.errors -> bilora.commands.verb" in broken.stdout
