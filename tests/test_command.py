"""The command itself: it answers fast, from texts that are what the parsers say, and runs as an installed one does."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tracked_files import CURE, ROOT, loaded, setup_cfg

command = loaded(ROOT / "bilora_command.py")
writer = loaded(ROOT / ".ci" / "write_help_texts.py")


@pytest.mark.parametrize("verb", writer.verbs().values(), ids=lambda verb: verb.name)
def test_the_help_of_a_verb_is_what_its_parser_says(verb: object) -> None:
    """Run ``make help-texts`` after a change of options."""
    path = ROOT / "bilora/commands/help" / f"{verb.name}.txt"  # type: ignore[attr-defined]
    assert path.read_text(encoding="utf-8") == writer.help_of(verb)


def test_the_common_help_is_what_its_table_says() -> None:
    assert (ROOT / "bilora/commands/help" / "train-common.txt").read_text(encoding="utf-8") == writer.common_help()


def test_the_help_of_the_command_has_every_verb_by_its_name() -> None:
    verbs = writer.verbs()
    assert (ROOT / "bilora/commands/help" / "bilora.txt").read_text(encoding="utf-8") == writer.overview(verbs)
    assert [verb.name for verb in verbs.values()] == list(verbs)
    assert "\n" not in "".join(verb.help for verb in verbs.values())
    assert set(verbs) <= set(command.VERBS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages where a wheel would put them, compiled as pip leaves them."""
    target = tmp_path_factory.mktemp("installed") / "site"
    for folder, package in (("bilora", "bilora"), ("problems", "bilora/problems"), ("engines", "bilora/engines")):
        shutil.copytree(ROOT / folder, target / package)
    shutil.copy(ROOT / "bilora_command.py", target)
    return target


def installed(site: Path, *words: str, before: str = "", after: str = "") -> subprocess.CompletedProcess[str]:
    """Call the entry point of setup.cfg as the script of an installed package does, in another folder."""
    name, _, target = setup_cfg()["options.entry_points"]["console_scripts"].strip().partition(" = ")
    assert name == "bilora"
    module, _, function = target.partition(":")
    call = f"from {module} import {function}\ncode = {function}()"
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n{before}\n{call}\n{after}\nsys.exit(code)"
    return subprocess.run([sys.executable, "-P", "-c", code, *words], cwd=site.parent, capture_output=True, text=True)


@pytest.mark.parametrize(("verb", "text"), [("", "bilora"), ("train", "train-common"), ("train all", "train")])
def test_help_takes_less_than_half_a_second_and_imports_no_torch(verb: str, text: str, site: Path) -> None:
    words = [*verb.split()[:1], "--help", *verb.split()[1:]]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = installed(site, *words, after="assert not {'torch', 'bilora', 'jsonargparse'} & set(sys.modules)")
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "bilora/commands/help" / f"{text}.txt").read_text(encoding="utf-8")
    # Time of the processor, which does not grow when others use the machine.
    assert spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime < 0.5


LATER = """
import importlib, bilora
for name in ("bilora.problems", "bilora.engines"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(error)
del sys.modules["betty"]
sys.argv[1:] = ["init", "--task", "mrpc", "--method", "lora"]
print(main(), bilora.__file__)
"""


@pytest.fixture(scope="module")
def without_betty(site: Path) -> subprocess.CompletedProcess[str]:
    """One process, which takes seconds to start: a verb without Betty, the library without it, and a verb with it."""
    return installed(site, "train", before="sys.modules['betty'] = None", after=LATER)


def test_a_missing_betty_is_told_in_one_line(without_betty: subprocess.CompletedProcess[str]) -> None:
    assert without_betty.returncode == 2
    assert without_betty.stderr.startswith("bilora: error: ")
    assert without_betty.stderr.rstrip().endswith(CURE)
    assert "Traceback" not in without_betty.stderr


def test_the_library_works_without_betty_and_names_the_cure_where_it_does_not(
    without_betty: subprocess.CompletedProcess[str],
) -> None:
    line, again = without_betty.stdout.splitlines()[:2]
    assert line == again
    assert line.startswith("bilora.problems needs Betty")
    assert line.endswith(CURE)


def test_a_verb_runs_as_installed(site: Path, without_betty: subprocess.CompletedProcess[str]) -> None:
    assert "\ntask: mrpc\n" in without_betty.stdout
    assert without_betty.stdout.splitlines()[-1] == f"0 {site / 'bilora' / '__init__.py'}"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "usage: bilora VERB"),
        (["--help"], 0, "usage: bilora VERB"),
        (["-h"], 0, "usage: bilora VERB"),
        (["train", "--steps", "3", "--help"], 0, "usage: bilora train --train-file FILE [options]"),
        (["evaluate", "-h"], 0, "usage: bilora evaluate RUN [options]"),
        (["--version"], 0, "bilora 0."),
        (["predit"], 2, "Did you mean 'predict'?"),
        (["--print-completion", "fish"], 2, "give --print-completion bash"),
    ],
)
def test_what_needs_no_library(words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words) == code
    ended = capsys.readouterr()
    assert said in ended.out + ended.err
    assert bool(ended.err) is (code == 2 and bool(words))


@pytest.mark.parametrize(
    ("words", "index", "offered"),
    [
        (["bilora", "ex"], 1, "export"),
        (["bilora", "train", "--lower.lea"], 2, "--lower.learning-rate"),
        (["bilora", "evaluate", "--da"], 2, "--data"),
    ],
)
def test_a_shell_completes(words: list[str], index: int, offered: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--print-completion", "bash"]) == 0
    typed = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={index}; _bilora; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", capsys.readouterr().out + typed], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [offered]
