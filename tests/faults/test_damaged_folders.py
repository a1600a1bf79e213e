"""Every file of a run's folder, damaged in every way, through each verb that reads it: one line that names the file."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from watched_command import QUICK, ended

from bilora import BiloraConfig
from bilora.commands.train_config import TrainConfig
from bilora.files.whole_folders import sha256_of
from bilora.report import report
from bilora.tasks.text.task import TextTask

Damage = Callable[[Path], object]


def _instead(make: Damage) -> Damage:
    """Put something else in the place of a file."""

    def damage(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return damage


def _bytes(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: path.write_bytes(change(path.read_bytes()))


PLACES: dict[str, Damage] = {
    "missing": _instead(lambda path: None),
    "folder": _instead(Path.mkdir),
    "pipe": _instead(os.mkfifo),
    "broken link": _instead(lambda path: path.symlink_to("nowhere")),
    "link to itself": _instead(lambda path: path.symlink_to(path.name)),
    "closed": lambda path: path.chmod(0),
}
TEXTS: dict[str, Damage] = {
    name: _bytes(change)
    for name, change in {
        "empty": lambda content: b"",
        "cut": lambda content: content[: len(content) // 2],
        "no JSON": lambda content: b"{not: [json",
        "list": lambda content: b"[1, 2]",
        "list of lists": lambda content: b"[[]]",
        "text": lambda content: b'"text"',
        "number": lambda content: b"5",
        "null": lambda content: b"null",
        "empty object": lambda content: b"{}",
        "not UTF-8": lambda content: content[:9] + b"\xff\xfe" + content[9:],
        "byte order mark": lambda content: b"\xef\xbb\xbf" + content,
        "UTF-16": lambda content: content.decode().encode("utf-16"),
        "zeros": lambda content: bytes(len(content)),
        "nested": lambda content: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "nested lists": lambda content: b"[" * 100_000,
        "digits": lambda content: b'{"a": ' + b"9" * 5000 + b"}",
    }.items()
}

FEW = {name: TEXTS[name] for name in ("empty", "cut", "list", "not UTF-8", "nested", "digits")}


VALUES = {
    "null": "null",
    "true": "true",
    "negative": "-1",
    "zero": "0",
    "fraction": "1.5",
    "huge": "1" + "0" * 30,
    "digits": "9" * 5000,
    "infinite": "1e999",
    "text": '"abc"',
    "long": json.dumps("x" * 10_000),
    "surrogate": r'"\ud800"',
    "list": "[]",
    "lists": '[[1], {"a": null}]',
    "object": '{"a": {"b": 1}}',
    "three": '"3"',
}


def _with(keys: tuple[str, ...], literal: str | None) -> Damage:
    """Set a value of an object, or remove it."""

    def damage(path: Path) -> None:
        # The reader of YAML takes seconds for a vocabulary.
        content = (json.loads if path.suffix == ".json" else yaml.safe_load)(path.read_text(encoding="utf-8"))
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner.pop(keys[-1], None)
        if literal is not None:
            inner[keys[-1]] = "@@"
        path.write_text(json.dumps(content).replace('"@@"', str(literal)), encoding="utf-8")

    return damage


def _fields(*names: str, inside: tuple[str, ...] = ()) -> dict[str, Damage]:
    kinds: dict[str, str | None] = {"gone": None, **VALUES}
    return {f"{name} {kind}": _with((*inside, name), literal) for name in names for kind, literal in kinds.items()}


def _tensors(change: Callable[[dict[str, Tensor]], dict[str, Tensor]], *, sealed: bool = True) -> Damage:
    """Write other tensors, with the right hash beside them, as another program would."""

    def damage(path: Path) -> None:
        tensors = change({name: tensor.clone() for name, tensor in load_file(path).items()})
        path.unlink()
        save_file(tensors, path, metadata={"format": "pt"})
        if sealed:
            _seal(path)

    return damage


def _seal(path: Path) -> None:
    about = path.with_name("base_fingerprint.json")
    # A base model has none.
    if about.exists():
        about.write_text(json.dumps(json.loads(about.read_text()) | {"weights_sha256": sha256_of(path)}))


def _sealed(change: Callable[[bytes], bytes]) -> Damage:
    def damage(path: Path) -> None:
        _bytes(change)(path)
        _seal(path)

    return damage


def _first(tensors: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    # Of an adapter, or of a base model.
    name = next(name for name in sorted(tensors) if "bilora_P" in name or "query.weight" in name)
    return {**tensors, name: change(tensors[name])}


def _pickle(path: Path) -> None:
    tensors = load_file(path)
    # What is loaded lies in the file still.
    path.unlink()
    torch.save(tensors, path)
    _seal(path)


def _header(header: bytes, length: int | None = None) -> Damage:
    size = (len(header) if length is None else length).to_bytes(8, "little")
    return _sealed(lambda content: size + header + content[-100:])


WEIGHTS: dict[str, Damage] = {
    **{f"cut to {size}": _sealed(lambda content, size=size: content[:size]) for size in (0, 1, 7, 8, 9, 100, 1000)},  # type: ignore[misc]
    "last byte gone": _sealed(lambda content: content[:-1]),
    "a byte more": _sealed(lambda content: content + b"\0"),
    "flipped": _bytes(lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]),
    "huge header": _header(b"{}", 2**63),
    "long header": _header(b"{}", 2**40),
    "header is no JSON": _header(b"{not json"),
    "header is a list": _header(b"[]"),
    "header is empty": _header(b"{}"),
    "header of surrogates": _header(rb'{"\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'),
    "negative shape": _header(b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}'),
    "offsets beyond": _header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4000]}}'),
    "unknown dtype": _header(b'{"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}'),
    "pickle": _pickle,
    "another shape": _tensors(lambda tensors: _first(tensors, lambda P: torch.zeros(3, 5))),
    "one dimension": _tensors(lambda tensors: _first(tensors, lambda P: torch.zeros(()))),
    "no rows": _tensors(lambda tensors: _first(tensors, lambda P: P[:0].clone())),
    "half precision": _tensors(lambda tensors: _first(tensors, lambda P: P.half())),
    "whole numbers": _tensors(lambda tensors: _first(tensors, lambda P: P.to(torch.int64))),
    "truth values": _tensors(lambda tensors: _first(tensors, lambda P: P.bool())),
    "complex": _tensors(lambda tensors: _first(tensors, lambda P: P.to(torch.complex64))),
    "not a number": _tensors(lambda tensors: _first(tensors, lambda P: P * torch.nan)),
    "infinite": _tensors(lambda tensors: _first(tensors, lambda P: P + torch.inf)),
    "a tensor less": _tensors(lambda tensors: dict(sorted(tensors.items())[1:])),
    "the head less": _tensors(lambda tensors: {name: value for name, value in tensors.items() if "bilora" in name}),
    "only the head": _tensors(lambda tensors: {name: value for name, value in tensors.items() if "bilora" not in name}),
    "a tensor more": _tensors(lambda tensors: {**tensors, "base_model.model.more": torch.ones(2)}),
    "no tensor": _tensors(lambda tensors: {}),
    "odd name": _tensors(lambda tensors: {**tensors, "x" * 10_000: torch.ones(2)}),
    "head of three": _tensors(
        lambda tensors: {
            name: torch.ones(3, *t.shape[1:]) if "classifier" in name else t for name, t in tensors.items()
        }
    ),
    "not as its hash": _tensors(lambda tensors: _first(tensors, lambda P: P + 1), sealed=False),
}
LINES: dict[str, Damage] = {
    name: _bytes(change)
    for name, change in {
        "blank lines": lambda content: b"\n\n" + content,
        "list in a line": lambda content: b"[1]\n" + content,
        "no step": lambda content: b"{}\n" + content,
        "step is a list": lambda content: b'{"step": [1]}\n' + content,
        "step is text": lambda content: b'{"step": "1"}\n' + content,
        "huge step": lambda content: b'{"step": 1' + b"0" * 30 + b"}\n" + content,
        "object for a number": lambda content: content.replace(b'"lower_loss": 0', b'"lower_loss": {"a": 0}, "b": 0'),
        "text for a number": lambda content: content.replace(b'"lower_loss": 0', b'"lower_loss": "x", "b": 0'),
        "digits in a line": lambda content: b'{"step": ' + b"9" * 5000 + b"}\n" + content,
        "surrogate in a line": lambda content: b'{"stage": "\\ud800", "step": 1}\n' + content,
        "line of NaN": lambda content: b'{"step": NaN}\n' + content,
        "no line end": lambda content: content.rstrip(b"\n"),
    }.items()
}
ADAPTER_FIELDS = tuple(field.name for field in dataclasses.fields(BiloraConfig))
TASK_FIELDS = tuple(field.name for field in dataclasses.fields(TextTask))
# Of the settings of a run, those that the reader of a folder looks at by itself.
RUN_FIELDS = (
    *("task_settings", "method", "seed", "hypergradient", "lower", "train_file", "text_columns", "model", "steps"),
    *("method_settings", "upper", "split_ratio"),
)
# Without what is of one call, and stands in its words.
OF_CALL = ("output", "overwrite", "resume", "allow_config_change", "debug")
TRAIN_FIELDS = tuple(field.name for field in dataclasses.fields(TrainConfig) if field.name not in OF_CALL)
# Of a base model, what sizes, names and kinds it has.
MODEL_FIELDS = (
    *("model_type", "architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"),
    *("max_position_embeddings", "hidden_act", "pad_token_id", "id2label", "dtype", "transformers_version", "unknown"),
)
TOKENIZER_FIELDS = (
    *("tokenizer_class", "model_max_length", "pad_token", "cls_token", "do_lower_case", "padding_side"),
    *("added_tokens_decoder", "unknown"),
)


def _labels(*names: Any) -> Damage:
    return _with(("task", "label_names"), json.dumps(names))


FILES: dict[str, dict[str, Damage]] = {
    "adapter/adapter_config.json": {
        **PLACES,
        **TEXTS,
        **_fields(*ADAPTER_FIELDS, "unknown"),
        **{f"peft_type {name}": _with(("peft_type",), f'"{name}"') for name in ("LORA", "ADALORA", "IA3", "VERA")},
        **{f"peft_type {name}": _with(("peft_type",), f'"{name}"') for name in ("PROMPT_TUNING", "bilora", "")},
        **{f"task_type {name}": _with(("task_type",), f'"{name}"') for name in ("TOKEN_CLS", "CAUSAL_LM", "")},
        "targets nothing": _with(("target_modules",), '["nothing"]'),
        "targets all": _with(("target_modules",), '"all-linear"'),
        "targets an open bracket": _with(("target_modules",), '"("'),
        "pattern of an open bracket": _with(("rank_pattern",), '{"(": 3}'),
        "formulation unknown": _with(("formulation",), '"reel"'),
    },
    "adapter/adapter_model.safetensors": {**PLACES, **WEIGHTS},
    "adapter/base_fingerprint.json": {**PLACES, **TEXTS, **_fields("base_sha256", "weights_sha256")},
    "adapter/bilora_task.json": {
        **PLACES,
        **TEXTS,
        **_fields("kind", "max_length", "task", "unknown"),
        **_fields(*TASK_FIELDS, "unknown", inside=("task",)),
        "kind tokens": _with(("kind",), '"tokens"'),
        "kind generation": _with(("kind",), '"generation"'),
        "kind multilabel": _with(("kind",), '"multilabel"'),
        "labels twice": _labels("a", "a"),
        "one label": _labels("a"),
        "three labels": _labels("a", "b", "c"),
        "labels are numbers": _labels(0, 1),
        "labels are lists": _labels(["a"], ["b"]),
        "long labels": _labels("a" * 10_000, "b" * 10_000),
        "labels of surrogates": _labels("\ud800", "\ud801"),
    },
    "lora/adapter_config.json": {**PLACES, **TEXTS},
    "config.yaml": {**PLACES, **TEXTS, **_fields(*RUN_FIELDS, "unknown")},
    "finished.json": {**PLACES, **FEW, **_fields("finished")},
    "all_results.json": {
        **PLACES,
        **TEXTS,
        **_fields("task", "method", "seed", "metric", "score", "metrics", "scored_on", "versions", "steps", "seconds"),
    },
    "spectrum.json": {**PLACES, **TEXTS},
    "split.json": FEW,
    "trainer_state.json": FEW,
    **{name: {**PLACES, **FEW, **LINES} for name in ("metrics.jsonl", "times.jsonl", "values.jsonl")},
    "predictions-d2.jsonl": {**PLACES, **FEW, **LINES},
    "checkpoint-2/manifest.json": {
        **PLACES,
        **TEXTS,
        **_fields("format", "step", "run", "parts", "files", "processes"),
    },
    "checkpoint-2/state.json": {**PLACES, **TEXTS},
    "checkpoint-2/state.safetensors": {**PLACES},
    "checkpoint-2/adapter/adapter_config.json": {**PLACES, **TEXTS},
    "train.yaml": {**PLACES, **TEXTS, **_fields(*TRAIN_FIELDS, "unknown")},
    "base/config.json": {**PLACES, **TEXTS, **_fields(*MODEL_FIELDS)},
    "base/model.safetensors": {**PLACES, **WEIGHTS},
    "base/tokenizer.json": {
        **PLACES,
        **TEXTS,
        **_fields("version", "model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "truncation"),
        **_fields("type", "vocab", "unk_token", inside=("model",)),
    },
    "base/tokenizer_config.json": {**PLACES, **TEXTS, **_fields(*TOKENIZER_FIELDS)},
    "base/special_tokens_map.json": {**PLACES, **FEW},
    "base/vocab.txt": {**PLACES, **FEW},
}


TRAINED = ("predict", "export", "evaluate", "merge")
VERBS = {
    "adapter": TRAINED,
    "lora": ("predict lora",),
    "config.yaml": ("report", "resume", "predict", "evaluate own"),
    "train.yaml": ("resume",),
    "base": ("predict", "train", "evaluate", "merge"),
    "finished.json": ("resume",),
    "checkpoint-2": ("resume",),
    "trainer_state.json": ("resume",),
    "split.json": ("resume",),
}


# Of so many damages one is tried; BILORA_DAMAGE_STRIDE=1 tries all, which takes half an hour. It shares no factor with
# the numbers of values and of texts, so that in the end each of them meets some field and some file.
STRIDE = int(os.environ.get("BILORA_DAMAGE_STRIDE", "31"))

# What an error may name in place of the file: a task with other labels is told at the first row that has none of them,
# weights of another base by the folder of that, a setting that fits no run begun by its config.yaml, and a setting that
# names something that is not there by that name.
INSTEAD = {
    "adapter/bilora_task.json": ("reviews.jsonl:1",),
    "base/config.json": ("/run/base ",),
    "base/model.safetensors": ("/run/base ", "loss nan"),
    # Without its max_length the default is taken, which the model is too short for.
    "train.yaml": ("/run/config.yaml", "abc", "xxx", "'3'", " 3: ", "max_length is 128"),
}


def _cases() -> Iterator[Any]:
    for file, damages in FILES.items():
        verbs = VERBS.get(file.split("/")[0], ("report",))
        for number, (name, damage) in enumerate(damages.items()):
            verb = verbs[number % len(verbs)]
            yield pytest.param(file, damage, verb, id=f"{file} {name} {verb}".replace(" ", "_"))


@dataclass(frozen=True)
class Good:
    """Runs that are whole, their base model and rows, and what the first of them answers."""

    ended: Path
    interrupted: Path
    base: Path
    rows: Path
    answers: list[dict[str, Any]]


@pytest.fixture(scope="module")
def good(
    tmp_path_factory: pytest.TempPathFactory, interrupted_run: Path, tiny_encoder: Path, review_file: Path
) -> Good:
    ended_run = Path(shutil.copytree(interrupted_run, tmp_path_factory.mktemp("damaged") / "run"))
    (ended_run / "finished.json").write_text('{"finished": true}')
    output = ended_run.parent / "answers.jsonl"
    words = ["predict", str(ended_run), "--file", str(review_file), "--device", "cpu", "--output", str(output)]
    assert ended(words).code == 0
    return Good(ended_run, interrupted_run, tiny_encoder, review_file, _answers(output))


def _answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _words(verb: str, run: Path, good: Good) -> list[str]:
    name, _, which = verb.partition(" ")
    output = ["--output", str(run.parent / "output")]
    base = ["--model", str(run / "base")] if (run / "base").is_dir() else []
    return {
        "predict": ["predict", str(run / which), "--file", str(good.rows), "--device", "cpu", *output],
        "evaluate": ["evaluate", str(run), "--device", "cpu", *([] if which else ["--data", str(good.rows)])],
        "export": ["export", str(run), *output],
        "merge": ["merge", str(run), *output],
        "report": ["report", str(run)],
        "resume": ["train", "--resume", str(run)],
        "train": ["train", "--train-file", str(good.rows), *output, *QUICK],
    }[name] + base


@pytest.mark.parametrize(("file", "damage", "verb"), [*_cases()][::STRIDE])
def test_damage_ends_in_one_line_that_names_the_file(
    file: str, damage: Damage, verb: str, good: Good, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where the tables of a page hold, its figures take longer than all the rest, and are drawn in tests of their own.
    monkeypatch.setattr(report, "draw", lambda runs: [])
    run = Path(shutil.copytree(good.interrupted if verb == "resume" else good.ended, tmp_path / "run"))
    if file.startswith("base/"):
        shutil.copytree(good.base, run / "base")
    damage(run / file)
    end = ended(_words(verb, run, good))
    # Of a base model with broken numbers a training diverges, which has a code of its own.
    assert end.code in (0, 2) or (verb == "train" and end.code == 3), end.said
    if end.code:
        assert any(name in end.said for name in (Path(file).name, *INSTEAD.get(file, ()))), end.said
    elif verb == "predict" and not file.startswith("base/"):
        _check_right(_answers(tmp_path / "output"), good.answers)


def _check_right(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for answer, right in zip(answers, expected, strict=True):
        assert list(answer["probabilities"].values()) == pytest.approx(list(right["probabilities"].values()), abs=1e-3)
