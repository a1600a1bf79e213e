"""README and the pages of docs/: parsers take their commands, their code runs and prints what it says."""

import importlib
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from tracked_files import ROOT, code_blocks, loaded, missing_files, pinned_versions, setup_cfg, tracked_files

import bilora
import bilora.engines
import bilora.problems
from bilora.commands.command_line import parse_config
from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.runs.several_runs import SeveralRuns

FRAGMENTS = ("docs/several-processes.md", "docs/write-your-own-variant.md")
"""Pages whose Python blocks leave out what is the reader's own: they are compiled, and not run."""

PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in tracked_files("README.md", "docs/*.md")
}
README = PAGES["README.md"]
NOT_OURS = (["vllm"], ["curl"], ["llama-server"], ["llama-cli"], ["python", "convert_lora_to_gguf.py"])
HARMLESS = (["python3", "-m", "venv"], [".", ".venv/bin/activate"], ["uv", "venv"], ["git", "clone"], ["cd"])


def blocks(language: str) -> list[tuple[str, str]]:
    return [(page, block) for page, text in PAGES.items() for block in code_blocks(text, language)]


def commands() -> list[tuple[str, list[str]]]:
    """Return page and words of every command of the bash blocks, comments left out and chains taken apart."""
    return [
        (page, [words[0].removeprefix(".venv/bin/"), *words[1:]])
        for page, block in blocks("bash")
        for line in block.replace("\\\n", " ").splitlines()
        # Of a script, such as one for a cluster, only the calls of our programs.
        if not block.startswith("#!") or "benchmarks/" in line
        for part in line.split(" && ")
        if (words := shlex.split(part, comments=True))
    ]


def test_there_is_something_to_check() -> None:
    assert {words[0] for _, words in commands()} >= {"bilora", "python", "make", "pip", "uv"}
    for page in ("docs/the-command.md", "docs/write-your-own-variant.md"):
        assert any("benchmarks/run_glue.py" in words for name, words in commands() if name == page)
    assert code_blocks(README, "python")
    assert len(blocks("python")) > 5
    assert blocks("yaml")


VERBS = loaded(ROOT / "bilora_command.py").VERBS


def verb(name: str) -> Any:
    module, _, attribute = VERBS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that looks like a checkout, with the config that the page's own ``bilora init`` writes."""
    for name in ("benchmarks", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    init = next(words for _, words in commands() if words[:2] == ["bilora", "init"])
    assert verb("init").run(init[2:]) == 0


def check_bilora(words: list[str]) -> None:
    """The words make a config of the verb."""
    if words[1].startswith("--"):
        assert words[1] in (ROOT / "bilora/commands/help/bilora.txt").read_text(encoding="utf-8")
    elif words[1] == "init":
        assert Path("mrpc.yaml").is_file()
    else:
        verb(words[1]).parse(words[2:])


def check_make(words: list[str]) -> None:
    """The targets and variables are those of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words[1:]:
        name, is_setting, _ = word.partition("=")
        pattern = r"^(\w+) \?=" if is_setting else r"^([\w-]+):(?!=)"
        assert name in re.findall(pattern, makefile, flags=re.MULTILINE), f"the Makefile has no {name}"


def check_install(words: list[str]) -> None:
    """Files, extras and versions that a pip or uv line names are those of the project."""
    pinned = pinned_versions()
    for before, word in zip(words, words[1:], strict=False):
        if before in ("--constraint", "-c", "--requirement", "-r"):
            assert (ROOT / word).is_file()
        elif word.startswith(".["):
            assert set(word[2:-1].split(",")) <= set(setup_cfg()["options.extras_require"])
        elif "==" in word:
            name, version = word.split("==")
            assert pinned[name] == version
        elif re.fullmatch(r"[a-z][\w-]*", word) and word not in ("pip", "install"):
            assert word in pinned or word == "bilora", f"{word} has no tested version"


def check_benchmark(path: str, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The words make the options of a program in benchmarks/."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = loaded(ROOT / path)
    (module._options if hasattr(module, "_options") else module.PROGRAM.parse)(argv)


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] == "bilora":
        check_bilora(words)
    elif words[0] == "torchrun" and "bilora_command" in words:
        check_bilora(words[words.index("bilora_command") :])
    elif words[0] == "make":
        check_make(words)
    elif programs := [index for index, word in enumerate(words) if word.startswith("benchmarks/")]:
        check_benchmark(words[programs[0]], words[programs[0] + 1 :], monkeypatch)
    elif words[:2] == ["pip", "install"] or words[:3] == ["uv", "pip", "install"]:
        check_install(words)
    else:
        others = (*NOT_OURS, *HARMLESS)
        assert any(words[: len(other)] == other for other in others), f"no test knows how to check {words}"


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda part: part if isinstance(part, str) else part[0])
@pytest.mark.usefixtures("checkout")
def test_command(page: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if not {"--print_config", "--help"} & set(words[2:]):
        check(words, monkeypatch)
        return
    with pytest.raises(SystemExit) as ended:
        check(words, monkeypatch)
    assert ended.value.code == 0


@pytest.mark.parametrize(("page", "code"), blocks("python"), ids=lambda part: part.splitlines()[0])
def test_code_runs_and_prints_what_it_says(
    page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands in a comment behind a print, or in a line of its own, is in what is printed."""
    compiled = compile(code, page, "exec")
    if page in FRAGMENTS:
        return
    monkeypatch.chdir(tmp_path)
    exec(compiled, {"__name__": "__main__"})
    printed = capsys.readouterr().out
    said = re.findall(r"^ *print\(.*\)  # (.*)$", code, flags=re.MULTILINE)
    said += re.findall(r"^# (.*)$", code, flags=re.MULTILINE)
    assert said
    assert [text for text in said if text not in printed] == []


@pytest.mark.parametrize(("page", "text"), blocks("yaml"), ids=lambda part: part.splitlines()[0])
def test_settings_load(page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(ROOT)
    assert parse_config(SeveralRuns, ["--config", str(path)], prog=page, description="").method


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist_and_links_lead_to_pages(page: str) -> None:
    """Anchors are checked by ``make docs``, where pages of the API have theirs."""
    assert set(missing_files(PAGES[page], r"[A-Z]+\.md")) <= {"docs/features/lora.md"}  # vLLM's
    linked = {link.partition("#")[0] for link in re.findall(r"\]\(((?!https:)[^)]+)\)", PAGES[page])}
    assert [link for link in sorted(linked) if not (ROOT / page).parent.joinpath(link).is_file()] == []


def test_options_that_the_pages_name_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_config(SeveralRuns, ["--help"], prog="run_glue.py", description="")
    helps = [capsys.readouterr().out, *(path.read_text() for path in tracked_files("bilora/commands/help/*.txt"))]
    known = {option.replace("-", "_") for text in helps for option in re.findall(r"--[a-z][\w.-]*", text)}
    text = README + PAGES["docs/the-command.md"] + PAGES["docs/which-hypergradient.md"]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    named = {option.replace("-", "_") for option in re.findall(r"`(--[a-z][\w.-]*)", prose)}
    assert named
    # What stands below an option that is a mapping is that mapping's key: one that does not exist raises here.
    below = {option for option in named if option.startswith("__hypergradient.")}
    build_hypergradient({"name": "neumann"} | {option.split(".")[1]: "neumann" for option in below})
    assert named - below - known == set()


def test_every_page_is_in_the_navigation() -> None:
    """A page that is new needs a line under ``nav`` in mkdocs.yml."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(f"docs/{page}" for page in re.findall(r"[\w/-]+\.md", str(nav))) == sorted(
        PAGES.keys() - {"README.md"}
    )


@pytest.mark.parametrize("package", [bilora, bilora.problems, bilora.engines], ids=lambda package: package.__name__)
def test_every_public_name_is_in_the_api(package: ModuleType) -> None:
    page = PAGES[f"docs/api/{package.__name__.rpartition('.')[2]}.md"]
    shown = re.findall(r"^::: ([\w.]+)$", page, flags=re.MULTILINE)
    assert {f"{package.__name__}.{name}" for name in package.__all__} <= set(shown)
    for name in shown:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), f"there is no {name}"


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| `") and line.count("|") > 6]


def test_the_hypergradients_of_the_page_are_the_measured_ones() -> None:
    """The cosines, to the digits that are shown; a name has its settings behind it, as in ``terms 5``."""
    told = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows(PAGES["docs/which-hypergradient.md"])]
    assert len(told) == len(bilora.engines.HYPERGRADIENTS)
    measured = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in (ROOT / "benchmarks/results/hypergradients.txt").read_text(encoding="utf-8").splitlines()
        if re.search(r"│ (exact|-) +│", line)
    ]
    for first, _, _, *cosines, _ in told:
        name, *_ = re.findall(r"\w+", first)
        numbers = re.findall(r"\d+", first)
        # As the table has it: `darts, scale one`, `neumann, terms 5, step size power_iteration`.
        found = [row for row in measured if re.findall(r"\w+", row[0])[0] == name]
        found = [row for row in found if re.findall(r"\d+", row[0])[: len(numbers)] == numbers]
        values = [["-" if cell == "undefined" else f"{float(cell):.3f}" for cell in row[2:8:2]] for row in found]
        assert cosines in values, first


def test_messages_that_are_explained_are_ones_that_exist() -> None:
    """Those of the first column of the page on errors; an ellipsis stands for what differs from case to case."""
    sources = "\n".join(
        path.read_text("utf-8") for path in tracked_files("bilora/*.py", "problems/*.py", "engines/*.py")
    )
    code = re.sub(r"\"\s*\n\s*f?\"", "", sources)  # strings that are split over lines put together
    page = PAGES["docs/troubleshooting.md"]
    messages = re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
    messages += re.findall(r"^\| ``(.+?)`` \|", page, flags=re.MULTILINE)
    assert len(messages) > 60
    parts = {part.strip() for message in messages for part in message.split("…") if part.strip()}
    assert [part for part in sorted(parts) if part not in code] == []


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell, in a fresh kernel and in an empty folder; what is stored has no outputs of someone's machine."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "docs/quick_start.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs] == []
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "8 lower steps" in printed
    assert "same outputs: True" in printed
