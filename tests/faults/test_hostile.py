"""A thousand broken files, words, adapters and checkpoints through the command itself: no traceback, no hang.

The inputs follow from a fixed seed. ``BILORA_HOSTILE`` says how many are tried; ``.ci/hostile.py`` tries 1,000.
"""

import json
import os
import shutil
import string
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pandas
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from watched_command import QUICK, ended

import bilora_command
from bilora.commands import exit_codes
from bilora.errors import BiloraError

COUNT = int(os.environ.get("BILORA_HOSTILE", "80"))
SEED = 20261129
ALLOWED = (0, 1, 2, 3, 4)
"""The exit codes of the docs; 1 is a failed self-check, after one line."""

Value = TypeVar("Value")


@dataclass
class Good:
    """Files that work, of which broken ones are made."""

    model: Path
    rows: Path
    run: Path
    interrupted: Path
    comparison: Path


@dataclass
class Drawn:
    """Draws values, and writes into a folder of this input alone."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    folder: Path
    good: Good

    def one_of(self, values: Any) -> Any:
        return self.draw(st.sampled_from(list(values)))

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(folder, self.folder / "copy", symlinks=True))


LETTERS = st.characters(codec=None, exclude_categories=())
ODD_TEXTS = st.sampled_from(
    ["", " ", "</s>", "[SEP]", "[MASK] [CLS]", "<|endoftext|>", "\x00", "\ud800", "\r\n", '"', "NA", "nan", "1e999"]
    + ["a" * 300, "9" * 5000, "\u202e abc", "\N{PILE OF POO}", "../../x", "-", "--help", "${HOME}", "%s", "{}"]
)
TEXTS = ODD_TEXTS | st.text(LETTERS, max_size=30) | st.text(string.printable, max_size=30)
NUMBERS = st.integers() | st.floats() | st.sampled_from([-1, 0, 2**31, 2**32, 2**63, 2**64, 10**30, -(10**30), 1e-320])
PLAIN = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=6
)


def damaged(drawn: Drawn, content: bytes) -> bytes:
    """Return bytes with a piece cut out, doubled, or changed."""
    start = drawn.draw(st.integers(0, max(0, len(content) - 1)))
    end = min(len(content), start + drawn.draw(st.sampled_from([1, 2, 8, 64, 10**6])))
    piece = drawn.draw(st.sampled_from([b"", content[start:end] * 2]) | st.binary(max_size=8))
    return content[:start] + piece + content[end:]


def changed(drawn: Drawn, content: Any) -> Any:
    """Return what JSON or YAML holds, with one value somewhere in it replaced, or one key gone or new."""
    if isinstance(content, dict) and content and drawn.draw(st.integers(0, 5)):
        key = drawn.one_of(content)
        return {**content, key: changed(drawn, content[key])}
    if isinstance(content, dict) and content and drawn.draw(st.booleans()):
        gone = drawn.one_of(content)
        return {key: value for key, value in content.items() if key != gone}
    return drawn.draw(VALUES)


def labelled_file(drawn: Drawn) -> Path:
    """Write a file of labelled rows, some of them odd."""
    odd = drawn.draw(st.lists(st.tuples(st.integers(0, 59), VALUES, VALUES), max_size=3))
    rows = [{"text": f"a film {i}", "label": ("bad", "good")[i % 2]} for i in range(60)]
    for place, text, label in odd:
        rows[place] = {"text": text, "label": label} if drawn.draw(st.booleans()) else {"text": text}  # type: ignore[dict-item]
    path = drawn.folder / f"rows.{drawn.one_of(['csv', 'tsv', 'jsonl', 'parquet', 'txt', 'json'])}"
    if path.suffix == ".parquet":
        try:
            pandas.DataFrame(rows).to_parquet(path)
        except Exception:  # values that no column holds together
            pandas.DataFrame([{key: repr(value) for key, value in row.items()} for row in rows]).to_parquet(path)
        content = path.read_bytes()
    elif path.suffix in (".csv", ".tsv"):
        content = pandas.DataFrame(rows).to_csv(index=False, sep=drawn.one_of(",;\t")).encode("utf-8", "surrogatepass")
    else:
        lines = [json.dumps(row, ensure_ascii=drawn.draw(st.booleans())) + "\n" for row in rows]
        content = "".join(lines).encode("utf-8", "surrogatepass")
    if drawn.draw(st.booleans()):
        content = damaged(drawn, content)
    path.write_bytes(content)
    return path


def trains_on_a_file(drawn: Drawn) -> list[str]:
    return [drawn.one_of(["train", "train", "doctor"]), "--train-file", str(labelled_file(drawn)), *_trains(drawn)]


def answers_a_file(drawn: Drawn) -> list[str]:
    verb = drawn.one_of(["predict", "evaluate"])
    option = {"predict": "--file", "evaluate": "--data"}[verb]
    words = [verb, str(drawn.good.run), option, str(labelled_file(drawn)), "--device", "cpu"]
    return [*words, *(["--output", str(drawn.folder / "answers.jsonl")] if verb == "predict" else [])]


def reads_a_config(drawn: Drawn) -> list[str]:
    verb, content = _config(drawn)
    for _ in range(drawn.draw(st.integers(1, 3))):
        content = changed(drawn, content)
    text = yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")
    if drawn.draw(st.booleans()):
        text = damaged(drawn, text)
    return _reads(drawn, verb, text)


# What YAML can say and no settings file should: anchors, tags, depth, a second document, several names of one value.
ODD_YAML = (
    *("&a [*a]", "*nowhere", "&a [1, 2]", "{<<: {steps: 3}}", "<<: 1", "!!bool x", "!own {a: 1}", "!!float 1_0"),
    *("!!python/object/apply:os.system [ls]", "!!binary AAAA", "!!timestamp 2001-99-99", "!!set {a, b}", "0o17"),
    *("!!omap [a: 1]", "1:20:30", "0x" + "f" * 5000, "{a: 1, a: 2}", "? [a, b]\n: c", "|\n  text", "---\n--- 1"),
    *("...\n%YAML 9.9", "\t- a", "@", "`", "%", "\ufeff"),
    *("[" * 2000, "[" * 2000 + "]" * 2000, "{a: " * 500 + "1" + "}" * 500, "- " * 1500 + "a"),
    # A billion values.
    "[&a [1, 2], " + ", ".join(f"&{n} [*{m}, *{m}, *{m}]" for m, n in pairwise("abcdefghijklmnopqrs")) + "]",
)


def reads_odd_yaml(drawn: Drawn) -> list[str]:
    verb, content = _config(drawn)
    lines = yaml.safe_dump(content).splitlines()
    at = drawn.draw(st.integers(0, len(lines) - 1))
    key, odd = lines[at].partition(":")[0], drawn.one_of(ODD_YAML)
    # In place of a value, beside it (its key twice), or as a line of its own.
    lines[at : at + 1] = drawn.one_of([[f"{key}: {odd}"], [lines[at], f"{key}: {odd}"], [odd, lines[at]]])
    code = drawn.one_of(["utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig", "latin-1"])
    return _reads(drawn, verb, "\n".join(lines).encode(code, "replace"))


def has_odd_words(drawn: Drawn) -> list[str]:
    help_text = bilora_command.help_text("train")
    options = sorted({word.rstrip(",") for word in help_text.split() if word.startswith("--") and word[2:3].isalpha()})
    more: list[str] = []
    for _ in range(drawn.draw(st.integers(1, 3))):
        option, value = drawn.one_of(options), drawn.draw(PLAIN | VALUES)
        # What the shell can hand over: no NUL, no half of a pair.
        word = (value if isinstance(value, str) else json.dumps(value)).replace("\x00", "").encode("utf-8", "replace")
        more += [option, word.decode("utf-8")] if drawn.draw(st.integers(0, 9)) else [option]
    # What is drawn last wins, but for what would train for long or write elsewhere.
    return ["train", "--train-file", str(drawn.good.rows), *_trains(drawn)[:-2], *more, *_trains(drawn)[-2:]]


def opens_an_adapter(drawn: Drawn) -> list[str]:
    run = drawn.copy(drawn.good.run)
    folder = run / drawn.one_of(["adapter", "lora", "."])
    _damage(drawn, drawn.one_of(path for path in sorted(folder.iterdir()) if path.is_file()))
    verb = drawn.one_of(["predict", "evaluate", "export", "merge"])
    words = {
        "predict": ["--file", str(drawn.good.rows), "--device", "cpu", "--output", str(drawn.folder / "out.jsonl")],
        "evaluate": ["--data", str(drawn.good.rows), "--device", "cpu"],
    }
    return [verb, str(run), *words.get(verb, ["--output", str(drawn.folder / "out")])]


def resumes_a_run(drawn: Drawn) -> list[str]:
    run = drawn.copy(drawn.good.interrupted)
    _damage(drawn, drawn.one_of(path for path in sorted(run.rglob("*")) if path.is_file() and ".lock" not in path.name))
    return ["train", "--resume", str(run)]


def reports_a_run(drawn: Drawn) -> list[str]:
    run = drawn.copy(drawn.good.run)
    _damage(drawn, drawn.one_of(path for path in sorted(run.iterdir()) if path.is_file()))
    return ["report", str(run)]


def compares_in_a_folder(drawn: Drawn) -> list[str]:
    """A comparison goes on in the folder of an earlier one, or in that of something else."""
    folder = drawn.copy(drawn.one_of([drawn.good.comparison, drawn.good.comparison, drawn.good.run]))
    _damage(drawn, drawn.one_of(path for path in sorted(folder.rglob("*")) if path.is_file()))
    config = drawn.good.comparison / "config.yaml"
    return ["compare", "--config", str(config), *_compares(drawn)[:-1], str(folder)]


def writes_to_an_odd_place(drawn: Drawn) -> list[str]:
    good, run = drawn.good, str(drawn.good.run)
    starts = {
        "init": ["--method", drawn.one_of(["bilora", "lora", "nowhere"])],
        "export": [run],
        "merge": [run],
        "predict": [run, "--file", str(good.rows), "--device", "cpu"],
        "evaluate": [run, "--data", str(good.rows), "--device", "cpu"],
        "report": [run],
        "compare": ["--config", str(good.comparison / "config.yaml"), *_compares(drawn)[:-2]],
        **dict.fromkeys(("train", "doctor"), ["--train-file", str(good.rows), *_trains(drawn)[:-2]]),
    }
    verb = drawn.one_of(starts)
    return [verb, *starts[verb], "--output", odd_place(drawn)]


def odd_place(drawn: Drawn) -> str:
    """Return the name of something that is there already, cannot be there, or is an odd name for a file."""
    folder = drawn.folder
    (folder / "file").write_text("mine")
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("mine")
    (folder / "closed").mkdir(mode=0o500)
    (folder / "link").symlink_to(folder / "gone" / "nowhere")
    (folder / "circle").symlink_to(folder / "circle")
    os.mkfifo(folder / "pipe")
    names = [
        "file",
        "full",
        "closed",
        "link",
        "circle",
        "pipe",
        "new",
        "new.html",
        "n" * 300,
        "a/" * 2500,
        "\udcff",
        "\n",
    ]
    places = [str(folder / name) + more for name in names for more in ("", "/below", "/below/more")]
    places += ["", " ", ".", "..", "/", "/proc/x", "/proc/self/fd/x", "/dev/null", "/dev/full", "/dev/null/x"]
    text = drawn.draw(TEXTS).replace("\x00", "").replace("/", "-").encode("utf-8", "replace").decode()
    return str(drawn.one_of([*places, str(folder / text)]))


KINDS = {
    kind.__name__: kind
    for kind in (trains_on_a_file, answers_a_file, reads_a_config, has_odd_words, opens_an_adapter)
    + (resumes_a_run, reports_a_run, reads_odd_yaml, compares_in_a_folder, writes_to_an_odd_place)
}


def _trains(drawn: Drawn) -> list[str]:
    return ["--model", str(drawn.good.model), *QUICK, "--output", str(drawn.folder / "run")]


def _compares(drawn: Drawn) -> list[str]:
    # One training for each method and candidate, in this process.
    return ["--seeds", "1", "--jobs", "1", "--choose-seeds", "1", *_trains(drawn)]


def _config(drawn: Drawn) -> tuple[str, dict[str, Any]]:
    """Return a verb, and a config that it takes."""
    verb = drawn.one_of(["doctor", "train", "train", "compare"])
    source = drawn.good.comparison / "config.yaml" if verb == "compare" else drawn.good.run / "train.yaml"
    content: dict[str, Any] = yaml.safe_load(source.read_text()) | {"output": str(drawn.folder / "run")}
    return verb, content if verb == "compare" else content | {"report_to": []}


def _reads(drawn: Drawn, verb: str, text: bytes) -> list[str]:
    (drawn.folder / "config.yaml").write_bytes(text)
    more = _compares(drawn) if verb == "compare" else _trains(drawn)
    return [verb, "--config", str(drawn.folder / "config.yaml"), *more]


def _damage(drawn: Drawn, path: Path) -> None:
    """Break one file: as bytes, or in one value of what it holds."""
    content = path.read_bytes()
    if path.suffix in (".json", ".yaml") and drawn.draw(st.integers(0, 3)):
        content = yaml.safe_dump(changed(drawn, yaml.safe_load(content))).encode("utf-8", "surrogatepass")
        if path.suffix == ".json":
            content = json.dumps(yaml.safe_load(content)).encode()
    elif drawn.draw(st.integers(0, 9)):
        content = damaged(drawn, content)
    else:
        return path.unlink()
    path.write_bytes(content)


def hostile(count: int, good: Good, root: Path) -> dict[str, int]:
    """Try inputs drawn from the seed; return how many ended with which exit code."""
    codes: dict[str, int] = {}
    numbers = iter(range(10**9))

    @seed(SEED)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(st.data())
    def tried(data: st.DataObject) -> None:
        folder = root / str(next(numbers))
        folder.mkdir()
        kind = data.draw(st.sampled_from(sorted(KINDS)))
        words = KINDS[kind](Drawn(data.draw, folder, good))
        try:
            code = ended(words).code
        except BaseException:
            print(f"kept: {folder}\nbilora {' '.join(map(repr, words))}")
            raise
        assert code in ALLOWED, f"exit {code}"
        codes[f"{kind} {code}"] = codes.get(f"{kind} {code}", 0) + 1
        shutil.rmtree(folder)

    tried()
    return codes


@pytest.fixture(scope="module")
def good(
    command_run: Any,
    interrupted_run: Path,
    tiny_encoder: Path,
    review_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Good:
    comparison = tmp_path_factory.mktemp("compared") / "comparison"
    words = ["compare", "--train-file", str(review_file), "--model", str(tiny_encoder), *QUICK, "--seeds", "1"]
    words += [
        "--text-columns",
        "[text]",
        "--methods",
        "[lora, b]",
        "--entries",
        "{b: {method: bilora, settings: {rank: 2}}}",
    ]
    assert bilora_command.main([*words, "--learning-rates", "[0.01]", "--output", str(comparison)]) == 0
    return Good(tiny_encoder, review_file, command_run.folder, interrupted_run, comparison)


def test_what_is_broken_ends_in_one_line(good: Good, tmp_path: Path) -> None:
    codes = hostile(COUNT, good, tmp_path)
    print(json.dumps(codes, indent=1, sort_keys=True))
    assert sum(codes.values()) >= COUNT
    # Both ends were seen: inputs that are all refused, or all taken, would show nothing.
    assert {code.rsplit(" ", 1)[-1] for code in codes} >= {"0", "2"}


def test_a_handler_that_is_gone_is_noticed(good: Good, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exit_codes, "CODES", {})
    with pytest.raises(BiloraError):
        hostile(20, good, tmp_path)
