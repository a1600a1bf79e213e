"""A user's own kind of task from outside: ordinal regression, named by ``package.module:NAME``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.nn import functional

from bilora.commands.evaluate import EVALUATE
from bilora.commands.export import EXPORT
from bilora.commands.predict import PREDICT
from bilora.commands.train import TRAIN
from bilora.data.rows import Row, Rows
from bilora.tasks.labels import LabelledFiles, in_order
from bilora.tasks.scoring import in_row_order, ordered_loader, predict
from bilora.tasks.task import Answers, EncodedRows, Evaluated, Inference
from bilora.tasks.text.task import TextTask

NAME = f"{__name__}:OrdinalTask"


@dataclass(frozen=True)
class OrdinalTask(TextTask):
    """Classes in an order: output k says whether the class is above class k (Frank and Hall 2001)."""

    metric: str = "mean_error"
    greater_is_better: bool = False

    @property
    def model_settings(self) -> Mapping[str, Any]:
        return {"num_labels": self.num_labels - 1, "problem_type": "multi_label_classification"}

    def encode(self, rows: Rows, tokenizer: Any, *, max_length: int) -> EncodedRows:
        plain = super().encode(rows, tokenizer, max_length=max_length).encoded
        above = [[float(row["labels"] > step) for step in range(self.num_labels - 1)] for row in plain]
        pairs = zip(plain, above, strict=True)
        return EncodedRows(rows, [{**row, "labels": of, "stratum": row["labels"]} for row, of in pairs])

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, labels.to(logits))

    def validate(self, inference: Inference, data: EncodedRows) -> Evaluated:
        logits, labels = predict(inference, ordered_loader(data.encoded, self.collator(inference.tokenizer)))
        error = ((logits > 0).sum(-1) - labels.sum(-1)).abs().mean()
        return Evaluated({"loss": float(self.loss(logits.double(), labels)), "mean_error": float(error)})

    def answers(self, inference: Inference, rows: Rows, *, max_length: int) -> Answers:
        data = self.encode(rows, inference.tokenizer, max_length=max_length)
        logits, _ = predict(inference, ordered_loader(data.encoded, self.collator(inference.tokenizer)))
        names = [{"prediction": self._named(above)} for above in (logits > 0).sum(-1).tolist()]
        return in_row_order(names, data.encoded), ()

    @classmethod
    def from_rows(cls, rows: Sequence[Row], files: LabelledFiles, task_type: str) -> OrdinalTask:
        names = tuple(in_order({str(row[files.label_field]) for row in rows}))
        return cls(files.name, files.text_columns, names, label_field=files.label_field, labels_from=files.train)


def test_it_goes_every_road(tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stars, rows, run = ["dull", "fair", "fine"], tmp_path / "films.csv", str(tmp_path / "run")
    rows.write_text("text,label\n" + "".join(f"a {stars[n % 3]} film,{n % 3 + 1}\n" for n in range(120)), "utf-8")
    words = ["--train-file", str(rows), "--task-type", NAME, "--model", str(tiny_encoder), "--validation-share", "0.2"]
    words += [
        "--method",
        "bilora",
        "--epochs",
        "20",
        "--max-length",
        "16",
        "--lower.learning-rate",
        "0.05",
        "--output",
        run,
    ]
    assert TRAIN.run(words) == 0
    assert json.loads((tmp_path / "run" / "all_results.json").read_text("utf-8"))["score"] < 0.2
    assert EXPORT.run([run, "--task-type", NAME, "--output", str(tmp_path / "lora")]) == 0
    assert EVALUATE.run([str(tmp_path / "lora"), "--task-type", NAME, "--data", str(rows)]) == 0
    assert EVALUATE.run([run, "--task-type", NAME]) == 0
    capsys.readouterr()
    assert PREDICT.run([run, "--file", str(rows), "--task-type", NAME]) == 0
    assert {json.loads(line)["prediction"] for line in capsys.readouterr().out.splitlines()} == {"1", "2", "3"}
    # The folder of an adapter never makes the library import code: the user names it at each call.
    assert PREDICT.run([run, "--file", str(rows)]) == 2
    assert f"its kind of task is '{NAME}', which is not of this library; give --task-type" in capsys.readouterr().err
