"""The accounting: nothing of transformers' Trainer is left out, and what is said of it is so."""

import dataclasses
from pathlib import Path

import pytest
from tracked_files import ROOT, loaded
from transformers import Trainer, TrainingArguments

from bilora.engines import BilevelTrainer, BilevelTrainingArguments
from bilora.engines.trainer.accounting import METHODS, METHODS_THAT_WORK, NOT_THERE, Row, argument_rows, method_rows
from bilora.engines.trainer.refused import NOT_CALLED, refuse_trainer
from bilora.errors import SettingsError

writer = loaded(ROOT / ".ci" / "write_trainer_table.py")

# Names that the page has for other versions of transformers than the one at hand, and of its subclasses.
ELSEWHERE = {"sortish_sampler"}


def test_every_argument_is_accounted_for_once() -> None:
    names = [row.name for row in argument_rows() if row.name not in ELSEWHERE]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(TrainingArguments))


def test_every_public_name_of_the_trainer_is_accounted_for_once() -> None:
    names = [row.name for row in method_rows()]
    assert sorted(names) == sorted(name for name in dir(Trainer) if not name.startswith("_"))


def test_every_row_but_those_that_work_says_why() -> None:
    for row in argument_rows() + method_rows():
        assert bool(row.words) == (row.answer != "works"), row


@pytest.mark.parametrize("row", [row for row in argument_rows() if row.answer == "refused"], ids=lambda row: row.name)
def test_an_argument_that_is_refused_is(row: Row) -> None:
    if row.name in ELSEWHERE:
        return
    with pytest.raises(SettingsError, match=f"arguments: .*{row.name} is "):
        BilevelTrainingArguments("out", use_cpu=True, **{row.name: "other"})


@pytest.mark.parametrize("name", sorted(NOT_CALLED))
def test_a_method_that_is_not_called_cannot_be_overridden(name: str) -> None:
    own = type("Own", (BilevelTrainer,), {name: lambda self, *given: None})
    with pytest.raises(SettingsError, match=f"Own overrides {name}, which is not called on two levels: "):
        refuse_trainer(own, {})


def test_what_works_is_transformers_own() -> None:
    """Overridden here are those alone that the table says something about, and those that add to a sum."""
    changed = {name for name in vars(BilevelTrainer) if hasattr(Trainer, name) and not name.startswith("_")}
    assert changed - set(METHODS) - set(NOT_THERE) == {"prediction_step"}
    assert "prediction_step" in METHODS_THAT_WORK


def test_the_page_is_what_the_data_says() -> None:
    """Run ``make help-texts`` after a change."""
    page = Path(writer.PAGE).read_text(encoding="utf-8")
    assert page == writer.filled(page)
