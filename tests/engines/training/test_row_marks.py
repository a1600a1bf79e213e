"""Row ids and sources on their way from the rows of a fit to the levels of a variant that asks for them."""

from typing import Any

import pytest
import torch
from tiny_models import tiny_bert
from torch import Tensor, nn

from bilora.data.row_marks import TrainingRows
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import fit
from bilora.errors import SettingsError
from bilora.problems.levels.betty_problem import Companion
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.variant import Variant
from bilora.problems.variants import bilora
from bilora.problems.variants.bilora import BiloraLower, BiloraSettings, BiloraUpper


class Seen(Companion):
    """The rows that were described, and (row id, label, source) of every row of every batch, by level."""

    def __init__(self, rows: TrainingRows) -> None:
        super().__init__()
        self.rows = rows
        self.batches: dict[str, set[tuple[int, ...]]] = {"lower": set(), "upper": set()}

    def learned(self) -> dict[str, Any]:
        return {"rows": self.rows, "batches": self.batches}


def note(level: Any, batch: dict[str, Tensor]) -> None:
    names = [name for name in ("row_ids", "labels", "sources") if name in batch]
    level.companion.batches[level.name] |= set(zip(*(batch[name].tolist() for name in names), strict=True))


class NotingLower(BiloraLower):
    """Takes the marks off by itself."""

    def training_step(self, batch: Any) -> Any:
        note(self, batch)
        for name in ("row_ids", "sources"):
            batch.pop(name, None)
        return self.forward(**batch).loss


class NotingUpper(BiloraUpper):
    """Leaves them to the level's own step."""

    def training_step(self, batch: Any) -> Any:
        note(self, batch)
        return super().training_step(batch)


def companion(model: nn.Module, settings: Any, rows: TrainingRows) -> Seen:
    return Seen(rows)


def variant(**changes: Any) -> Variant:
    parts: dict[str, Any] = {"companion": companion, "row_marks": ("row_ids", "sources"), **changes}
    return Variant("noting", NotingLower, NotingUpper, BiloraSettings, bilora.adapt, **parts)


def rows_of(count: int, *, first: int = 0, sources: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"input_ids": [1 + index, 2, 3], "labels": index % 2} for index in range(count)]
    return [{**row, "source": sources[index % len(sources)]} if sources else row for index, row in enumerate(rows)]


def collate(rows: Any) -> dict[str, Tensor]:
    assert all(set(row) == {"input_ids", "labels"} for row in rows)
    return {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}


def learned(method: Variant, rows: Any, **more: Any) -> dict[str, Any]:
    adapter = BiloraSettings(rank=2)
    torch.manual_seed(0)
    base: Any = tiny_bert(0.0)
    model = method.adapt(base, adapter, task_type="SEQ_CLS", steps=24)
    batches = LevelSettings(batch_size=4)
    settings = FitSettings(steps=24, unroll_steps=2, lower=batches, upper=batches, device="cpu")
    return fit(
        model, rows, collate=collate, variant=method, variant_settings=adapter, settings=settings, **more
    ).learned


def test_each_row_has_its_position_in_both_levels() -> None:
    result = learned(variant(), rows_of(20, sources=("web", "experts", "web")))
    below, above = result["batches"]["lower"], result["batches"]["upper"]
    assert result["rows"] == TrainingRows(20, (10, 10), ("experts", "web"))
    assert sorted(row[0] for row in (*below, *above)) == list(range(20))
    assert all(row == (row[0], row[0] % 2, int(row[0] % 3 != 1)) for row in (*below, *above))


def test_rows_of_a_given_upper_set_come_behind() -> None:
    result = learned(variant(), rows_of(12), upper_rows=rows_of(6))
    assert {row[0] for row in result["batches"]["lower"]} == set(range(12))
    assert {row[0] for row in result["batches"]["upper"]} == set(range(12, 18))
    assert all(row[1] == row[0] % 2 for row in result["batches"]["upper"])
    assert result["rows"] == TrainingRows(18, (9, 9), first_upper=12)


def test_nothing_is_marked_unless_a_variant_asks() -> None:
    result = learned(variant(row_marks=()), rows_of(20))
    assert all(len(row) == 1 for row in (*result["batches"]["lower"], *result["batches"]["upper"]))  # labels alone


def test_a_mark_that_is_not_known() -> None:
    with pytest.raises(SettingsError, match="variant 'v': row_marks has 'row_id'; known: row_ids, sources"):
        Variant("v", LowerProblem, None, BiloraSettings, bilora.adapt, row_marks=("row_id",))
