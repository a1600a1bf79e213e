"""The README: its commands are ones that exist, its code runs and prints what it says, its files are there."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tracked_files import ROOT, code_blocks, make_targets, missing_files, tracked_files

from bilora.commands.command_line import parse_config
from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.runs.config import SeveralRuns

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Return the words of every command of the bash blocks, comments left out and chains taken apart."""
    return [
        words
        for block in code_blocks(README, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        for part in line.split(" && ")
        if (words := shlex.split(part, comments=True))
    ]


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    variables = set(re.findall(r"^(\w+) \?=", makefile, flags=re.MULTILINE))
    for word in words[1:]:
        name, is_setting, _ = word.partition("=")
        assert name in (variables if is_setting else make_targets()), f"the Makefile has no {name}"


def check_program(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is there, and its config parser takes the words."""
    monkeypatch.chdir(ROOT)
    place = next(index for index, word in enumerate(words) if word.startswith("benchmarks/run_"))
    assert (ROOT / words[place]).is_file()
    argv = words[place + 1 :]
    if "--task" not in argv and "--config" not in argv and "run_ner.py" in words[place]:
        argv = ["--config", "benchmarks/configs/ner.yaml", *argv]
    if "--help" in argv:
        with pytest.raises(SystemExit) as ended:
            parse_config(SeveralRuns, argv, prog="program", description="")
        assert ended.value.code == 0
        return
    assert parse_config(SeveralRuns, argv, prog="program", description="").method


def check_bilora(words: list[str]) -> None:
    """The verb is there, and each of its options is among those that its help has."""
    texts = ROOT / "bilora" / "commands" / "help"
    if words[1].startswith("--"):
        assert words[1] in (texts / "bilora.txt").read_text(encoding="utf-8")
        return
    path = texts / f"{words[1]}.txt"
    assert path.is_file(), f"there is no verb {words[1]}"
    known = set(re.findall(r"--[\w.]+", path.read_text(encoding="utf-8"))) | {"--help", "--seed"}
    # What the runs of a comparison take may stand without the name of its section.
    known |= {"--" + each.removeprefix("--run.") for each in known}
    options = [word.partition("=")[0] for word in words[2:] if word.startswith("--")]
    assert [each for each in options if "--" + each[2:].replace("-", "_") not in known] == []


def check_install(words: list[str]) -> None:
    """Files, extras and versions that a pip or uv line names are those of the project."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    for before, word in zip(words, words[1:], strict=False):
        if before in ("--constraint", "-c", "--requirement", "-r"):
            assert (ROOT / word).is_file()
        elif word.startswith(".["):
            assert set(word[2:-1].split(",")) <= set(config["options.extras_require"])
        elif "==" in word:
            name, version = word.split("==")
            assert pinned()[name] == version
        elif re.fullmatch(r"[a-z][\w-]*", word) and word not in ("pip", "install"):
            assert word in pinned() or word == "bilora", f"{word} has no tested version"


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    program = Path(words[0]).name
    if program == "make":
        check_make(words)
    elif any(word.startswith("benchmarks/run_") for word in words):
        check_program(words, monkeypatch)
    elif program == "bilora":
        check_bilora(words)
    elif words[:2] == ["pip", "install"] or words[:3] == ["uv", "pip", "install"]:
        check_install(words)
    else:
        harmless = (["python3", "-m", "venv"], [".", ".venv/bin/activate"], ["uv", "venv"], ["git", "clone"], ["cd"])
        assert any(words[: len(each)] == each for each in harmless), f"no test knows how to check {words}"


def test_there_is_something_to_check() -> None:
    checked = {words[0] for words in commands()}
    assert "make" in checked
    assert any("benchmarks/run_glue.py" in words for words in commands())
    assert code_blocks(README, "python")


@pytest.mark.slow
@pytest.mark.parametrize("code", code_blocks(README, "python"), ids=lambda code: code.splitlines()[0])
def test_code_runs_and_prints_what_it_says(code: str, tmp_path: Path) -> None:
    """What stands in a comment behind a print is in what is printed."""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    for said in re.findall(r"^print\(.*\)  # (.*)$", code, flags=re.MULTILINE):
        assert said in ended.stdout


def test_files_that_are_named_exist() -> None:
    assert "`bilora/" in README
    assert missing_files(README, r"[A-Z]+\.md") == []


def test_options_that_are_named_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_config(SeveralRuns, ["--help"], prog="run_glue.py", description="")
    known = set(re.findall(r"--[\w.]+", capsys.readouterr().out))
    for path in tracked_files("bilora/commands/help/*.txt"):
        known |= {
            word.replace("-", "_").replace("__", "--", 1) for word in re.findall(r"--[a-z][\w.-]*", path.read_text())
        }
    text = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    named = {word.replace("-", "_").replace("__", "--", 1) for word in re.findall(r"`(--[a-z][\w.-]*)", text)}
    assert named
    # What stands below an option that is a mapping is that mapping's key: one that does not exist raises here.
    below = {word for word in named if word.startswith("--hypergradient.")}
    build_hypergradient({"name": "neumann"} | {word.split(".")[1]: "neumann" for word in below})
    assert named - below - known == set()
