"""Trusted rows beside doubtful ones: who is which, what is refused, and what is left out with a notice."""

from typing import Any

import pytest

from bilora.data.rows import Rows, check_rows
from bilora.data.trusted_rows import check_trusted, check_weights, divided_by_column, row_weight
from bilora.errors import DataError
from bilora.tasks.text.task import TextTask

TASK = TextTask("toy", ("text",), ("no", "yes"))


def rows(name: str, cells: list[Any], *, column: str = "checked", labels: Any = None, start: int = 0) -> Rows:
    given = [
        {"text": f"text {start + index}", "label": index % 2 if labels is None else labels[index], column: cell}
        for index, cell in enumerate(cells)
    ]
    return check_rows(enumerate(given, start=1), TASK, source=name, split="train")


def test_a_column_divides_the_rows() -> None:
    cells = ["true", "TRUE ", True, 1, "1", "Yes", "false", "0", 0, False, "no", "", None]
    doubtful, trusted = divided_by_column(rows("many", cells), "checked")
    assert trusted.ids == (0, 1, 2, 3, 4, 5)
    assert doubtful.ids == (6, 7, 8, 9, 10, 11, 12)


def test_other_words_are_named_by_line() -> None:
    with pytest.raises(DataError, match=r"many:2 field 'checked': is 'maybe'; a column that marks trusted rows holds"):
        divided_by_column(rows("many", ["yes", "maybe"]), "checked")


@pytest.mark.parametrize(("cells", "many"), [(["yes", "yes"], "every row"), (["no", "no"], "no row")])
def test_a_column_that_divides_nothing(cells: list[str], many: str) -> None:
    with pytest.raises(DataError, match=f"many: {many} is trusted by the column 'checked'; some must be"):
        divided_by_column(rows("many", cells), "checked")


def test_the_same_text_in_both_stays_trusted() -> None:
    trusted = rows("few", [None] * 12)
    doubtful = rows("many", [None] * 20, start=9, labels=[1, 1, 0, *[1] * 17])  # texts 9 to 28; few has 0 to 11
    kept, [notice] = check_trusted(TASK, doubtful, trusted)
    assert kept.ids == tuple(range(3, 20))
    # Text 9 is a 1 in both, 10 a 0 and a 1, 11 a 1 and a 0.
    assert notice.startswith("3 of the doubtful rows have the text of a trusted row, 2 of them with another label")
    assert notice.endswith("many, lines 1, 2, 3")
    assert check_trusted(TASK, rows("many", [None] * 5, start=50), trusted)[1] == []


@pytest.mark.parametrize(
    ("trusted", "message"),
    [
        (rows("few", [None] * 9), "few: 9 trusted rows are too few to judge by; give 10 or more"),
        (rows("few", [None] * 10, labels=[1] * 10), "few: no trusted row has the class no; give at least one of each"),
        (rows("few", [None] * 30), "few: every row of many has the text of a trusted row"),
    ],
)
def test_trusted_rows_that_are_no_use(trusted: Rows, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_trusted(TASK, rows("many", [None] * 20), trusted)


@pytest.mark.parametrize(
    ("cell", "weight"),
    [(1, 1.0), ("0.5", 0.5), (0, 0.0), ("1e400", None), (-1, None), ("nan", None), (True, None), (None, None)],
)
def test_what_a_cell_weighs(cell: Any, weight: float | None) -> None:
    assert row_weight(cell) == weight


def test_weights_are_refused_by_line() -> None:
    check_weights(rows("many", [1, "2"], column="w"), "w")
    with pytest.raises(DataError, match="many:2 field 'w': is 'much'; the weight of a row is a number, 0 or above"):
        check_weights(rows("many", [1, "much"], column="w"), "w")
    with pytest.raises(DataError, match="many: every weight in 'w' is 0"):
        check_weights(rows("many", [0, 0], column="w"), "w")
