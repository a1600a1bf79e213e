"""The plan of a run: its rows, its first split, and what is refused before a model is read."""

from pathlib import Path

from bilora.runs.config import RunConfig
from bilora.runs.plan import load_run_rows


def test_a_file_in_place_of_a_task(tmp_path: Path) -> None:
    path = tmp_path / "mail.tsv"
    path.write_text("body\tkind\n" + "win\tspam\nsee you\tham\n" * 10, encoding="utf-8")
    config = RunConfig(train_file=str(path), text_columns=["body"], label_column="kind", validation_share=0.2)
    rows = load_run_rows(config)
    assert (rows.task.name, len(rows.train), len(rows.validation["validation"])) == ("mail", 16, 4)


def test_the_embedded_task_is_the_default() -> None:
    assert load_run_rows(RunConfig()).task.name == "rotten_tomatoes"
