"""Which rows a setting of the study of trusted rows draws, and how their labels go wrong."""

import dataclasses
from collections import Counter
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from programs import imported
from tracked_files import ROOT

from bilora.data.rows import Rows
from bilora.errors import SettingsError

protocol, trusted_rows = imported("trusted_protocol"), imported("trusted_rows")
NAMES = ("a", "b", "c")


class Task(SimpleNamespace):
    """As much of a task as is asked for."""

    model_settings = {"label2id": {name: index for index, name in enumerate(NAMES)}}

    def text_of(self, row: Any) -> Any:
        return row["text"]

    def class_counts(self, rows: Any) -> dict[str, int]:
        return dict.fromkeys(NAMES, 0)


def rows_of(count: int, *, wrong: int = 0) -> Rows:
    """Return rows of three classes, the first ``wrong`` of them under the next class, and every text twice."""
    rows = [
        {"text": str(index // 6 * 3 + index % 3), "label": (index + (index < wrong)) % 3, "true": NAMES[index % 3]}
        for index in range(count)
    ]
    numbers = tuple(range(count))
    return Rows(tuple(map(MappingProxyType, rows)), "file", tuple(number + 1 for number in numbers), numbers)


def drawn(of: Rows, seed: int = 0, **setting: Any) -> Any:
    return trusted_rows.draw(protocol.TrustedSetting("text/x", ["accuracy"], **setting), Task(), of, seed=seed)


def test_trusted_rows_are_drawn_by_their_true_labels_and_share_no_text_with_doubtful_ones() -> None:
    found = drawn(rows_of(600, wrong=300), rows=300, trusted=7, true_column="true")
    assert Counter(found.trusted.labels) == {0: 7, 1: 7, 2: 7}
    assert all(NAMES[row["label"]] == row["true"] for row in found.trusted)
    assert not {row["text"] for row in found.trusted} & {row["text"] for row in found.doubtful}
    assert len(found.doubtful) == len(found.true) == 300 and found.doubtful.ids == found.true.ids
    given = [row["label"] for row in found.doubtful]
    assert given == [(index % 3 + (index < 300)) % 3 for index in found.doubtful.ids]
    assert found.wrong == sum(index < 300 for index in found.doubtful.ids) / 300
    assert drawn(rows_of(600), rows=300, trusted=7, flips=0.0, seed=1).doubtful.ids != found.doubtful.ids


@pytest.mark.parametrize(("kind", "steps"), [("flips", {1, 2}), ("flips_to_next", {1})])
def test_flips_hit_their_share_and_the_classes_that_they_should(kind: str, steps: set[int]) -> None:
    found = drawn(rows_of(6000), rows=3000, trusted=1, **{kind: 0.4})
    pairs = zip(found.true.labels, found.doubtful.labels, strict=True)
    moves = Counter((given - true) % 3 for true, given in pairs)
    assert set(moves) - {0} == steps
    # Of 3,000 rows the standard error is 0.009.
    assert found.wrong == pytest.approx(0.4, abs=0.03)
    assert 1 - moves[0] / 3000 == found.wrong


def test_each_source_has_its_share_of_rows_and_of_wrong_labels() -> None:
    shares = [0.0, 0.3, 0.6]
    found = drawn(rows_of(6000), rows_per_class=1000, trusted=1, flips_by_source=shares)
    assert Counter(found.true.labels) == {0: 1000, 1: 1000, 2: 1000}
    pairs = list(zip(found.doubtful, found.true, strict=True))
    for place, share in enumerate(shares):
        of_source = [given["label"] != true["label"] for given, true in pairs if given["source"] == f"source {place}"]
        assert len(of_source) == 1000
        assert sum(of_source) / 1000 == pytest.approx(share, abs=0.05)
    assert "source" not in found.trusted[0]


def test_rare_classes_are_as_rare_as_was_asked() -> None:
    assert trusted_rows.long_tail(600, 50, classes=4) == [600, 163, 44, 12]
    found = drawn(rows_of(6000), rows=600, trusted=20, imbalance=50, frequent_first=["c", "a", "b"])
    assert Counter(found.doubtful.labels) == {2: 600, 0: round(600 / 50**0.5), 1: 12}
    assert found.wrong == 0.0


def test_joined_rows_come_in_order_with_copies_behind() -> None:
    first, second = rows_of(6).select([0, 1]), rows_of(6).select([5])
    assert trusted_rows.joined(first, second, copies=3).ids == (0, 1, 5, 5, 5)


def test_a_setting_has_one_kind_of_noise() -> None:
    with pytest.raises(SettingsError, match="given: none"):
        protocol.TrustedSetting("text/x", ["accuracy"])
    with pytest.raises(SettingsError, match="given: flips, frequent_first"):
        protocol.TrustedSetting("text/x", ["accuracy"], flips=0.1, frequent_first=["a"])


def test_the_protocol_names_its_own_lines() -> None:
    study = protocol.read_trusted(ROOT / "benchmarks" / "configs" / "trusted.yaml")
    with pytest.raises(SettingsError, match="'defualt'"):
        dataclasses.replace(study, main="defualt")
