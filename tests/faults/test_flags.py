"""Words and configs that cannot be used: one line that names the setting, before a model is read."""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import pytest

import bilora_command
from bilora.commands.compare import COMPARE
from bilora.commands.doctor import DOCTOR
from bilora.commands.evaluate import EVALUATE
from bilora.commands.exit_codes import exit_code
from bilora.commands.export import EXPORT, MERGE
from bilora.commands.init import INIT
from bilora.commands.predict import PREDICT
from bilora.commands.report import REPORT
from bilora.commands.train import TRAIN
from bilora.commands.verb import Verb
from bilora.compare.config import ComparisonConfig
from bilora.runs import run, trained

VERBS = (TRAIN, DOCTOR, COMPARE, INIT, EVALUATE, PREDICT, EXPORT, MERGE, REPORT)


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a model was read")

    for module in (run, trained):
        monkeypatch.setattr(module, "load_model", refuse)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line with which the command refuses the words."""
    capsys.readouterr()
    try:
        code = bilora_command.main(words)
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = capsys.readouterr().err
    assert (code, len(said.splitlines())) == (2, 1), said[:2_000]
    return said


def parsed(verb: Verb, words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code of reading the words alone, and what is said."""
    capsys.readouterr()
    try:
        code = exit_code(verb.parse, words, program=f"bilora {verb.name}")
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, capsys.readouterr().err


DIGITS = "9" * 5_000
# As YAML, and whether some setting takes a value of this type.
VALUES = {
    "list": '[1, "a", [2]]',
    "mapping": "{a: {b: 1}}",
    "null": "null",
    "empty text": '""',
    "text": "x" * 10_000,
    "truth": "true",
    "nan": ".nan",
    "infinity": "-.inf",
    "huge": DIGITS,
    "large": str(2**64),
}


def settings_of(kind: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings, and of sections."""
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # a dataclass
        hint = get_type_hints(kind)[field.name]
        yield prefix + field.name
        # The levels have the same settings, and those of a comparison's runs are seen in a run.
        if dataclasses.is_dataclass(hint) and field.name == "lower":
            yield from settings_of(hint, f"{prefix}{field.name}.")  # type: ignore[arg-type]


ALL_SETTINGS = [(TRAIN, name) for name in settings_of(TRAIN.config)]
ALL_SETTINGS += [(COMPARE, name) for name in settings_of(ComparisonConfig)]


@pytest.mark.parametrize(("verb", "name"), ALL_SETTINGS, ids=lambda value: getattr(value, "name", value))
def test_a_value_of_any_type_is_taken_or_refused_in_a_line(
    verb: Verb, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two settings that stand side by side, each is tried with every other type, to be quick."""
    *sections, last = name.split(".")
    path = tmp_path / "config.yaml"
    for kind, value in list(VALUES.items())[ALL_SETTINGS.index((verb, name)) % 2 :: 2]:
        inside = f"{last}: {value}"
        path.write_text("".join(f"{section}: {{{inside}}}" for section in sections) or inside)
        code, said = parsed(verb, ["--config", str(path)], capsys)
        if kind in ("empty text", "huge"):
            assert code == 2, kind
        assert code in (0, 2)
        if code:
            assert len(said.splitlines()) == 1
            assert len(said) < 3_000
            assert last[:4] in said or kind == "huge"  # of entries, one is an entry
            assert "functools" not in said


TEXTS = [
    (verb, field.name)
    for verb in VERBS
    for field in dataclasses.fields(verb.config)
    if get_type_hints(verb.config)[field.name] in (str, str | None)
]


@pytest.mark.parametrize(("verb", "name"), TEXTS, ids=lambda value: getattr(value, "name", value))
def test_an_empty_word_is_no_value(verb: Verb, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a variable of the shell that is not set: `--model "$MODEL"` would take the embedded one."""
    needed = {"run": "run", "runs": "run", "file": "rows.csv", "output": "out"}
    there = {field.name for field in dataclasses.fields(verb.config)} & needed.keys() - {name}
    words = [f"--{other}={needed[other]}" for other in sorted(there)] if verb.positional else []
    code, said = parsed(verb, [*words, f"--{name.replace('_', '-')}", ""], capsys)
    assert code == 2
    assert f"no value for {name}" in said


ADAPTER = "--method-settings.bilora."


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "4294967296"], "seed is 4294967296, it must be below 4,294,967,296"),
        (["--seed", "-1"], "seed is -1, it must not be negative"),
        (["--seed", str(2**64)], "it must be below 4,294,967,296"),
        (["--seed", "1e3"], "Expected a <class 'int'>"),
        (["--seed", DIGITS], "seed"),
        (["--steps", str(10**12)], "steps is 1000000000000, it must be below 4,294,967,296"),
        (["--epochs", "1e300"], "epochs is 1e+300, it must be positive, and below"),
        (["--lower.batch-size", str(10**9)], "fewer than a batch of 1000000000"),
        (["--lower.accumulation", str(10**30)], "accumulation is"),
        (["--max-length", str(10**9)], "max_length is 1000000000, but the bert model has 64 positions"),
        (["--max-length", str(10**20)], "max_length is"),
        (["--lower", "3"], "Unable to load config '3'"),
        (["--lower", "[1]"], "Unable to load config"),
        ([ADAPTER + "target-modules", "("], "target_modules is '(', which is no regular expression: missing )"),
        ([ADAPTER + "target_modules", "[]"], "target_modules is [], name at least one layer"),
        ([ADAPTER + "rank", "1e6"], "rank: Expected a <class 'int'>"),
        (["--text-columns", "text", "text"], "text_columns is ('text', 'text'), which names a column twice"),
        (["--text-columns", "label"], "label_column is 'label', which is among text_columns too"),
        (["--text-columns", "text", "--label-column", "text"], "which is among text_columns too"),
        (["--device", "cuda:7"], "device is 'cuda:7', which this machine does not have; here: cpu"),
        (["--device", "tpu"], "allowed: auto, cpu, cuda, cuda:N, mps"),
        (["--precision", "fp8"], "precision"),
        (["--resume", "nowhere"], "resume: nowhere is not the output folder of an earlier command"),
        (["--resume", "n" * 300], "is not the output folder of an earlier command"),
        (["--config", "n" * 300], "File name too long"),
        (["--config", "nowhere.yaml"], "there is no file nowhere.yaml; bilora init --output nowhere.yaml writes one"),
        (["--config", "."], "is a folder; give a plain file"),
        (["--config", "/dev/zero"], "is a pipe or a device"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_words_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], review_file: Path, tiny_encoder: Path
) -> None:
    known = ["--train-file", str(review_file), "--model", str(tiny_encoder)]
    resumes = words[0] in ("--resume", "--config")
    line = refused(["train", *([] if resumes else known), *words], capsys)
    assert said in line
    assert line.startswith("bilora train: error: ")
    assert len(line) < 2_500


def test_seeds_of_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    assert "give at least one, and at most 1,000" in refused(["compare", "--seeds", str(10**9)], capsys)
    assert "none may be negative, or above 4,294,967,295" in refused(["compare", "--seeds", "0", str(2**32)], capsys)


MAPPINGS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{" + ", ".join(f"k{j}: *a{i - 1}" for j in range(10)) + "}\n" for i in range(1, 12)
)
LISTS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [" + f"*a{i - 1}, " * 10 + "]\n" for i in range(1, 12))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [" + f"*a{i - 1}, " * 10 + "]}\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: 5\nlower:\n  warmup: 0\nsteps: 6", "'steps' is given on line 1 and again on line 4"),
        ("lower: {warmup: 0, warmup: 0.1}", "'warmup' is given on line 1 and again on line 1"),
        ("lower: 3", "lower is 3, and holds settings by name"),
        ("lower: [learning_rate]", "lower is ['learning_rate'], and holds settings by name"),
        ("lower: other.yaml", "lower is 'other.yaml', and holds settings by name"),
        ("upper: 3\nlower: x", "lower is 'x', and holds settings by name, as learning_rate: VALUE; upper is 3"),
        ("lower: {lower: {lower: 1}}", "lower"),
        ("[1, 2]", "holds no settings by name, but a list"),
        ("just words", "holds no settings by name, but a str"),
        ("", "holds no settings; bilora init writes a file"),
        ("# nothing", "holds no settings"),
        (b"\xff\xfe\x00", "can't decode byte 0xff"),
        (b"steps: 5\nmodel: \xe9", "can't decode byte 0xe9"),
        (b"\x00\x01\x02", "control characters are not allowed"),
        ("model: \ud800".encode("utf-8", "surrogatepass"), "can't decode"),
        ("!!python/object/apply:os.system ['touch ran']", "could not determine a constructor for the tag"),
        ("model: !!python/object/apply:os.system ['touch ran']", "could not determine a constructor for the tag"),
        ("model: !!python/name:os.system", "could not determine a constructor"),
        ("debug: !!bool maybe", "a value cannot be read"),
        ("steps: !!int many", "a value cannot be read"),
        (f"a: 1\nsteps: {DIGITS}", "line 2: a number of 5,000 digits"),
        ("? [a, b]\n: 1", "found unhashable key"),
        ("a: &a [*a]", "stands for more than 100,000 values"),
        (MAPPINGS, "stands for more than 100,000 values"),
        (LISTS, "stands for more than 100,000 values"),
        (MERGED, "stands for more than 100,000 values"),
        ("task_settings:\n" + "".join(f"  {line}\n" for line in MERGED.splitlines()), "stands for more"),
        ("a: " + "[" * 100_000, "100 levels"),
        ("a: " + "[" * 100_000 + "]" * 100_000, "100 levels"),
        ("steps: '" + "[" * 100_000 + "'", "100 levels"),
        ("a: " * 50_000, "cannot be read"),
        ("steps: [", "cannot be read"),
        ("\t- x", "cannot be read"),
    ],
)
def test_a_config_that_is_not_plain_settings(
    text: str | bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for verb in ("train", "doctor"):
        line = refused([verb, "--config", str(path)], capsys)
        assert said in line
        # Of a single value jsonargparse tells the name of the setting.
        assert str(path) in line or "Parser key" in line or "does not accept" in line
        assert len(line) < 2_500
    assert not Path("ran").exists()


def test_words_that_are_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--task-settings", "[" * 100_000], ["--method-settings.bilora.rank", "[" * 100_000]):
        assert "or 100 levels" in refused(["train", *words], capsys)


def test_a_pipe_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "config.yaml")
    assert "is a pipe or a device" in refused(["train", "--config", str(tmp_path / "config.yaml")], capsys)


def test_ten_faults_are_told_and_the_others_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {f"class {number}": -1.0 for number in range(133)}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"class_weights": weights}))
    line = refused(["train", "--config", str(path)], capsys)
    assert "and 123 more" in line
    assert "class 9" in line
    assert "class 10" not in line
