"""Metrics of generated text: the official scorers' numbers on real outputs, and values worked out by hand."""

import math
import os
import shutil
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bilora.errors import DataError, SettingsError
from bilora.files.formats import read_lines
from bilora.metrics.coco import Cider, RougeL, ptb_tokens
from bilora.metrics.metric import References, TextMetric, UndefinedMetricWarning
from bilora.metrics.nist import Nist, mteval_tokens
from bilora.metrics.texts import TEXT_METRICS, score_texts, text_metric
from bilora.tasks.generation.task import GenerationTask

JAR = "BILORA_METEOR_JAR"
OFFLINE = [name for name in TEXT_METRICS if name != "meteor"]
Items = tuple[list[str], list[list[str]]]


@pytest.fixture(scope="module")
def official(real_data: Path) -> Items:
    """The example of the official E2E scorer."""
    folder = real_data / "e2e_metrics"
    blocks = (folder / "references.txt").read_text(encoding="utf-8").strip().split("\n\n")
    return (folder / "outputs.txt").read_text(encoding="utf-8").splitlines(), [block.splitlines() for block in blocks]


@pytest.fixture(scope="module")
def people(real_data: Path) -> Items:
    """E2E's test set, the first reference of each item as if a system had written it."""
    items = [item["references"] for item in read_lines(real_data / "e2e" / "test.jsonl")]
    return [first for first, *others in items if others], [others for _, *others in items if others]


@pytest.mark.parametrize(
    ("name", "value", "tolerance"),
    [("bleu", 0.7203, 1e-3), ("nist", 7.7889, 1e-3), ("rouge_l", 0.7910, 2e-3), ("cider", 2.3039, 2e-3)],
)
def test_example_of_the_official_e2e_scorer(official: Items, name: str, value: float, tolerance: float) -> None:
    assert score_texts([text_metric(name)], *official)[name] == pytest.approx(value, abs=tolerance)


@pytest.mark.parametrize(("metric", "value"), [(Cider, 1.8572), (RougeL, 0.6381)])
def test_coco_tools_with_stanford_tokenizer_on_600_items(people: Items, metric: Any, value: float) -> None:
    """The values of pycocoevalcap 1.2, whose tokenizer is Stanford's own."""
    assert score_texts([metric()], *people)[metric.key] == pytest.approx(value, abs=2e-3)


def test_meteor_of_the_official_e2e_scorer(official: Items) -> None:
    if shutil.which("java") is None or JAR not in os.environ:
        pytest.skip(f"METEOR needs Java and {JAR}")
    assert score_texts([text_metric("meteor")], *official)["meteor"] == pytest.approx(0.4801, abs=1e-3)


def test_an_unknown_metric_and_what_meteor_misses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="metric 'bleau' is unknown.*Did you mean 'bleu'"):
        text_metric("bleau")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SettingsError, match=r"'meteor' needs Java.* leave it out"):
        text_metric("meteor")
    monkeypatch.setattr(shutil, "which", lambda name: "java")
    monkeypatch.setenv(JAR, str(tmp_path / "no.jar"))
    with pytest.raises(SettingsError, match=rf"{JAR} is .*no\.jar', where there is no file"):
        text_metric("meteor")


@pytest.mark.parametrize(
    ("metric", "output", "references", "value"),
    [
        # info(a) = log2(6/2), info(b) = log2(6/1), info(a b) = log2(2/1); two tokens of three keep half of the score.
        (Nist(order=2), "a b", ["a b c", "a d e"], 0.5 * ((math.log2(3) + math.log2(6)) / 2 + 1.0)),
        (Nist(order=1), "a b c x y z", ["a b c"], math.log2(3) / 2),  # three of six match; length has no other price
        (Nist(order=1), "a x x", ["a b c"], math.log2(3) / 3),
        (Nist(order=1), "a a a", ["a b c"], math.log2(3) / 3),  # clipped
        (RougeL(), "a b c d", ["a b", "a b c d e f g h"], 1.0),  # recall 1 of the first, precision 1 of the second
        (RougeL(), "a b x y", ["a b"], (1 + 1.44) * 0.5 / (1 + 1.44 * 0.5)),
    ],
)
def test_nist_and_rouge_l_by_hand(metric: TextMetric, output: str, references: list[str], value: float) -> None:
    assert score_texts([metric], [output], [references])[metric.key] == pytest.approx(value, abs=1e-12)


def test_cider_by_hand() -> None:
    """Of two items each with one reference every idf is ln 2; "a b" against "a c": one word of two is shared."""
    cider = Cider().compute(predictions=["a b", "x"], references=[["a c"], ["x y"]])["cider"]
    # An unseen n-gram counts as if one item had it; "a": cos = 1/2, "a b": none. Second: "x" of "x y", a bigram short.
    first = 10 * 0.5 / 4
    second = 10 * (1 / math.sqrt(2)) / 4 * math.exp(-1 / 72)
    assert cider == pytest.approx((first + second) / 2, abs=1e-12)


def test_tokens() -> None:
    tokens = ptb_tokens("It isn't family-friendly: Alimentum's £20, 5 out of 5.")
    assert tokens == ["it", "is", "n't", "family-friendly", "alimentum", "'s", "£", "20", "5", "out", "of", "5"]
    tokens = mteval_tokens("It's £1,000. Family-friendly!")
    assert tokens == ["it's", "£1,000", ".", "family-friendly", "!"]


@pytest.mark.parametrize("name", OFFLINE)
def test_references_may_differ_in_number_and_order_and_their_words_not(official: Items, name: str) -> None:
    outputs, references = official
    ragged = [texts[: 1 + index % 3] for index, texts in enumerate(references)]
    turned = [list(reversed(texts)) for texts in ragged]
    metric = text_metric(name)
    value = score_texts([metric], outputs, ragged)[name]
    assert score_texts([metric], outputs, turned)[name] == pytest.approx(value, abs=1e-9)
    assert score_texts([metric], outputs, references)[name] != pytest.approx(value, abs=1e-6)
    right: Any = score_texts([metric], [first for first, *_ in references], references)[name]
    sorted_words = [" ".join(sorted(first.split())) for first, *_ in references]
    assert (right > score_texts([metric], sorted_words, references)[name]) == metric.greater_is_better


@pytest.mark.parametrize("name", OFFLINE)
def test_batches_of_the_evaluate_library_add_up(official: Items, name: str) -> None:
    outputs, references = official
    metric = text_metric(name)
    for start in range(0, len(outputs), 3):
        metric.add_batch(predictions=outputs[start : start + 3], references=references[start : start + 3])
    assert metric.compute() == score_texts([text_metric(name)], outputs, references)


@pytest.mark.parametrize("name", OFFLINE)
def test_empty_outputs_score_and_do_not_crash(name: str) -> None:
    metric = text_metric(name)
    if name == "nist":
        with pytest.warns(UndefinedMetricWarning, match="nist of the texts is undefined: there is no word"):
            assert score_texts([metric], ["", ""], [["a b"], ["c"]]) == {"nist": None}
    else:
        worst = 1.0 if name == "ter" else 0.0
        assert score_texts([metric], ["", ""], [["a b"], ["c"]])[name] == pytest.approx(worst, abs=1e-9)


def test_a_metric_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(TextMetric):
        key = "wrong"
        greater_is_better = False

        def score(self, predictions: Sequence[str], references: References) -> float:
            return sum(text not in texts for text, texts in zip(predictions, references, strict=True))

    module = types.ModuleType("my_metrics")
    module.Wrong = Wrong  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_metrics", module)
    task = GenerationTask("menus").with_settings({"metrics": ["my_metrics:Wrong"]})
    assert not task.greater_is_better
    assert score_texts([text_metric(task.metric)], ["a", "b"], [["a"], ["c"]]) == {task.metric: 1}


@pytest.mark.parametrize(
    ("outputs", "references", "text"),
    [
        (["a"], [["a"], ["b"]], "1 outputs for 2 items"),
        ([], [], "0 outputs for 0 items"),
        (["a", "b"], [["a"], []], "item 2 of the references has none"),
    ],
)
def test_bad_items_are_refused(outputs: list[str], references: list[list[str]], text: str) -> None:
    with pytest.raises(DataError, match=text):
        score_texts([text_metric("bleu")], outputs, references)
