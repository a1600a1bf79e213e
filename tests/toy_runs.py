"""Folders of runs, written as if the runs had been made."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import yaml

NASTY = '<script>alert("x")</script> & $a$'


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def step_line(step: int, *, upper: bool) -> dict[str, Any]:
    line: dict[str, Any] = {"stage": "bilevel", "step": step, "lower_loss": 2.0 / step, "lower_task_loss": 1.0 / step}
    line |= {"lower_gradient_norm": 1.0, "lower_learning_rates": [0.01 / step]}
    if upper:
        line |= {"upper_step": step // 2, "upper_loss": 1.5 / step, "upper_learning_rates": [0.1]}
        line |= {"hypergradient_norm": 0.5, "direct_norm": 0.25, "implicit_norm": 0.0, "meter_cosine": 0.75}
    return line


def toy_run(
    folder: Path,
    *,
    method: str = "bilora",
    label: str | None = None,
    seed: int = 0,
    steps: int = 8,
    predictions: Any = (),
    task: dict[str, Any] | None = None,
    learned: dict[str, Any] | None = None,
    **results: Any,
) -> Path:
    """Write the files of a run, as if it had been made."""
    folder.mkdir(parents=True)
    bilevel = method == "bilora"
    (folder / "config.yaml").write_text(yaml.safe_dump({"method": [method], "seeds": [seed], "task": "mrpc"}))
    lines = [step_line(step, upper=bilevel and step % 2 == 0) for step in range(1, steps + 1)]
    lines += [{"stage": "bilevel", "step": s, "validation": {"loss": 0.5, "accuracy": 0.5 + s / 100}} for s in (4, 8)]
    (folder / "metrics.jsonl").write_text(jsonl(lines))
    (folder / "times.jsonl").write_text(jsonl([{"step": s, "seconds": s / 2} for s in range(1, steps + 1)]))
    if bilevel:
        layers = {f"bert.encoder.layer.{index}.attention.self.query": [1.0, -0.5] for index in range(3)}
        (folder / "values.jsonl").write_text(jsonl([{"stage": "b", "step": s, "layers": layers} for s in (0, 4, 8)]))
        spectrum = [{"layer": name, "values": [2.0, 0.5], "kept": 1} for name in layers]
        (folder / "spectrum.json").write_text(json.dumps(spectrum))
        (folder / "learned.json").write_text(json.dumps(learned or {"words": f"{NASTY}: decay 16.1"}))
    if label is not None:
        (folder / "comparison.json").write_text(json.dumps({"label": label, "purpose": "report"}))
    if predictions:
        (folder / "predictions-validation.jsonl").write_text(jsonl(predictions))
    row = {"task": "mrpc", "method": method, "seed": seed, "metric": "accuracy", "score": 0.58, "train_loss": 0.25}
    row |= {"validation_loss": 0.5, "seconds": 4.0, "peak_memory_mb": 100.0, "trainable_parameters": 10}
    row |= {"versions": {"torch": "2"}, "command": f"python run {NASTY}", "config_sha256": "abc"}
    (folder / "all_results.json").write_text(json.dumps(row | results))
    if task is not None:
        (folder / "adapter").mkdir()
        about = {"kind": "text", "max_length": 16, "task": {"name": "toy", "text_fields": ["text"]} | task}
        (folder / "adapter" / "bilora_task.json").write_text(json.dumps(about))
    return folder


def answers(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"id": index, "label": label, "prediction": answer} for index, (label, answer) in enumerate(pairs)]


CLASSES = ("bill", "complaint", "praise")


def class_answers(
    *, seed: int, right: float, count: int = 200, texts: Sequence[str] = (), rows_seed: int = 0
) -> list[dict[str, Any]]:
    """Return answers of three classes, a share of them right, each with a confidence that is about true."""
    rows, generator = numpy.random.default_rng(rows_seed), numpy.random.default_rng(seed)
    labels = rows.choice(3, size=count, p=[0.6, 0.3, 0.1])
    answers = []
    for row, label in enumerate(labels):
        sure = generator.uniform(2 * right - 1, 1.0)
        answer = label if generator.random() < sure else (label + 1) % 3
        text = texts[row % len(texts)] if texts else f"a letter number {row} to the office, {CLASSES[label]} or not"
        line = {"id": row, "line": row + 2, "text": text, "label": CLASSES[label], "prediction": CLASSES[answer]}
        chances = {"confidence": round(sure, 6), "label_confidence": round(sure if answer == label else 1 - sure, 6)}
        answers.append(line | chances)
    return answers


def scored(answers: Sequence[dict[str, Any]]) -> float:
    """Return the accuracy of answers."""
    return sum(row["label"] == row["prediction"] for row in answers) / len(answers)


CLASS_TASK = {"label_names": CLASSES, "metric": "accuracy", "other_metrics": ["macro_f1"]}
