"""A report of toy runs: what it shows, that all text is escaped, and that it asks nothing of the net."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from bilora.commands.report import REPORT
from bilora.errors import DataError, SettingsError
from bilora.report.read_run import read_run, read_runs
from bilora.report.report import ALL_MAPS, ReportConfig, draw, write_report

NASTY = '<script>alert("x")</script> & $a$'
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def step_line(step: int, *, upper: bool, metered: bool) -> dict[str, Any]:
    line: dict[str, Any] = {"stage": "bilevel", "step": step, "lower_loss": 2.0 / step, "lower_task_loss": 1.0 / step}
    line |= {"lower_gradient_norm": 1.0, "lower_learning_rates": [0.01 / step]}
    if upper:
        line |= {"upper_step": step // 2, "upper_loss": 1.5 / step, "upper_learning_rates": [0.1]}
        line |= {"hypergradient_norm": 0.5, "direct_norm": 0.25, "implicit_norm": 0.0}
        line |= {"meter_cosine": 0.75} if metered else {}
    return line


def toy_run(
    folder: Path,
    *,
    label: str | None = None,
    method: str = "bilora",
    seed: int = 0,
    steps: int = 8,
    metered: bool = False,
    predictions: list[dict[str, Any]] | None = None,
    ended: bool = True,
) -> Path:
    """Write the files of a run, as if it had been made."""
    folder.mkdir(parents=True)
    bilevel = method == "bilora"
    (folder / "config.yaml").write_text(yaml.safe_dump({"method": [method], "seeds": [seed], "task": "mrpc"}))
    lines = [step_line(step, upper=bilevel and step % 2 == 0, metered=metered) for step in range(1, steps + 1)]
    lines += [{"stage": "bilevel", "step": s, "validation": {"loss": 0.5, "accuracy": 0.5 + s / 100}} for s in (4, 8)]
    (folder / "metrics.jsonl").write_text(jsonl(lines))
    (folder / "times.jsonl").write_text(jsonl([{"step": s, "seconds": s / 2} for s in range(1, steps + 1)]))
    if bilevel:
        layers = {f"bert.encoder.layer.{index}.attention.self.query": [1.0, -0.5] for index in range(3)}
        (folder / "values.jsonl").write_text(jsonl([{"stage": "b", "step": s, "layers": layers} for s in (0, 4, 8)]))
        spectrum = [{"layer": name, "values": [2.0, 0.5], "kept": 1} for name in layers]
        (folder / "spectrum.json").write_text(json.dumps(spectrum))
    if label is not None:
        (folder / "comparison.json").write_text(json.dumps({"label": label, "purpose": "report"}))
    if predictions is not None:
        (folder / "predictions-validation.jsonl").write_text(jsonl(predictions))
    if ended:
        row = {"task": "mrpc", "method": method, "seed": seed, "metric": "accuracy", "score": 0.58, "train_loss": 0.25}
        row |= {"validation_loss": 0.5, "seconds": 4.0, "peak_memory_mb": 100.0, "trainable_parameters": 10}
        row |= {"versions": {"torch": "2"}, "command": f"python run {NASTY}", "config_sha256": "abc"}
        (folder / "all_results.json").write_text(json.dumps(row))
    return folder


def answers(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"id": index, "label": label, "prediction": given} for index, (label, given) in enumerate(pairs)]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Four runs of two methods, one with a nasty label and nasty class names."""
    given = answers((NASTY, NASTY), (NASTY, "no"), ("no", "no"))
    for seed in (0, 1):
        toy_run(tmp_path / "c" / "runs" / f"a{seed}", label=NASTY, seed=seed, metered=True, predictions=given)
        toy_run(tmp_path / "c" / "runs" / f"b{seed}", label="lora", method="lora", seed=seed, predictions=given)
    return tmp_path / "c"


class Checker(HTMLParser):
    """Gathers tags and everything that would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_is_whole_and_asks_nothing_of_the_net(runs: Path) -> None:
    target = write_report(ReportConfig([str(runs)]))
    text = target.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    assert "script" not in checker.tags
    assert {"link", "iframe", "object", "embed"}.isdisjoint(checker.tags)
    assert checker.handlers == []
    assert all(each.startswith(("#", "data:image/png;base64,")) for each in checker.addresses)
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    assert "<!DOCTYPE svg" not in text
    # Names of XML vocabularies are no addresses that anything is loaded from.
    assert set(re.findall(r"https?://[^\"'\s<>]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
        "http://creativecommons.org/ns#",
        "http://purl.org/dc/elements/1.1/",
        "http://purl.org/dc/dcmitype/StillImage",
    }


def test_texts_are_escaped_and_shown_as_they_are(runs: Path) -> None:
    checker = Checker()
    text = write_report(ReportConfig([str(runs)])).read_text(encoding="utf-8")
    checker.feed(text)
    assert "<script" not in text
    assert f"{NASTY}, seed 1" in checker.texts
    assert any(f"python run {NASTY}" in each for each in checker.texts)


def test_every_figure_is_in_the_page_and_a_picture(runs: Path) -> None:
    target = write_report(ReportConfig([str(runs)]))
    names = {path.stem for path in (runs / "report-figures").glob("*.png")}
    own = "-script-alert--x----script-----a-"
    assert names == {
        "losses-over-steps",
        "losses-over-seconds",
        "score",
        "gap",
        "hypergradient",
        "cosine",
        "learning-rates",
        "costs",
        "confusion",
        *(f"{what}-{own}-seed{seed}" for what in ("values", "spectrum") for seed in (0, 1)),
    }
    assert target.read_text(encoding="utf-8").count("<svg") == len(names)
    for path in (runs / "report-figures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_same_runs_give_the_same_bytes(runs: Path) -> None:
    first = write_report(ReportConfig([str(runs)])).read_bytes()
    assert write_report(ReportConfig([str(runs)])).read_bytes() == first


def test_a_single_level_run_has_no_figures_of_an_upper_level(tmp_path: Path) -> None:
    toy_run(tmp_path / "a", method="lora")
    names = [each.name for each in draw(read_runs([tmp_path / "a"]))]
    assert names == ["losses-over-steps", "losses-over-seconds", "score", "gap", "learning-rates", "costs"]


def test_a_run_that_has_not_ended_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    toy_run(tmp_path / "a", ended=False)
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "bilevel", "step": 9, "lower_lo')
    (tmp_path / "a" / "times.jsonl").unlink()
    target = write_report(ReportConfig([str(tmp_path / "a")], output=str(tmp_path / "b" / "page.html")))
    assert "not kept: the run has not ended" in target.read_text(encoding="utf-8")
    assert (tmp_path / "b" / "page-figures" / "losses-over-steps.png").is_file()
    assert not (tmp_path / "b" / "page-figures" / "losses-over-seconds.png").exists()


def test_numbers_of_a_regression_are_a_scatter_plot(tmp_path: Path) -> None:
    toy_run(tmp_path / "a", predictions=answers((1.0, 1.5), (2.0, 2.5)))
    drawings = {each.name: each for each in draw(read_runs([tmp_path / "a"]))}
    (axes,) = drawings["scatter"].figure.axes
    assert axes.lines[0].get_xydata().tolist() == [[1.0, 1.5], [2.0, 2.5]]  # type: ignore[union-attr]


def test_curves_hold_the_numbers_of_the_files(tmp_path: Path) -> None:
    toy_run(tmp_path / "a")
    drawings = {each.name: each for each in draw(read_runs([tmp_path / "a"]))}
    curves = {line.get_label(): line for line in drawings["losses-over-seconds"].figure.axes[0].lines}
    assert curves["validation loss"].get_xydata().tolist() == [[2.0, 0.5], [4.0, 0.5]]
    # The first point of a running mean is the first loss, without its penalty.
    assert curves["lower loss (D1)"].get_xydata().tolist()[0] == [0.5, 1.0]
    left, right = drawings["gap"].figure.axes
    training = sum(1.0 / step for step in range(1, 9)) / 8
    assert left.lines[0].get_xydata().tolist()[-1] == pytest.approx([8.0, 0.5 - training], abs=1e-12)
    assert right.lines[0].get_xydata().tolist()[-1] == pytest.approx([4.0, 0.5 - training], abs=1e-12)


def test_of_many_runs_the_singular_values_of_one_seed_a_method_are_drawn(tmp_path: Path) -> None:
    for seed in range(ALL_MAPS + 1):
        toy_run(tmp_path / f"bilora-seed{seed}", seed=seed)
    names = [each.name for each in draw(read_runs([tmp_path]))]
    assert [name for name in names if name.startswith(("values", "spectrum"))] == [
        "values-bilora-seed0",
        "spectrum-bilora-seed0",
    ]


def test_ranks_that_were_cut_in_between_leave_rows_empty(tmp_path: Path) -> None:
    toy_run(tmp_path / "a")
    readings = [{"step": 0, "layers": {"q": [1.0, 2.0, 3.0]}}, {"step": 4, "layers": {"q": [1.0]}}]
    (tmp_path / "a" / "values.jsonl").write_text(jsonl(readings))
    (found,) = [each for each in draw(read_runs([tmp_path / "a"])) if each.name.startswith("values")]
    (mesh,) = found.figure.axes[0].collections
    assert mesh.get_array().mask.tolist() == [[False, False], [False, True], [False, True]]  # type: ignore[union-attr]


def test_trials_of_a_comparison_are_left_out_and_methods_stand_in_its_order(runs: Path) -> None:
    trial = toy_run(runs / "runs" / "trial", label="lora")
    (trial / "comparison.json").write_text(json.dumps({"label": "lora", "purpose": "choose"}))
    rows = [{"label": "lora"}, {"label": NASTY}]
    (runs / "results.jsonl").write_text(jsonl(rows))
    found = read_runs([runs])
    assert [(run.label, run.seed) for run in found] == [("lora", 0), ("lora", 1), (NASTY, 0), (NASTY, 1)]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no run"),
        ({"metrics.jsonl": ""}, "is not the folder of a run: it has no config.yaml"),
        ({"metrics.jsonl": "{\n", "config.yaml": "method: [a]\nseeds: [0]\n"}, r"metrics.jsonl:1: is not JSON"),
    ],
)
def test_a_folder_without_a_run_is_refused(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        read_runs([tmp_path])


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        read_runs([tmp_path / "a"])


@pytest.mark.parametrize(
    ("runs", "output", "said"), [([], None, "no folder is given"), (["a"], "a.htm", "end in .html")]
)
def test_settings_are_checked(runs: list[str], output: str | None, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        ReportConfig(runs, output)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_run(tmp_path / "a", method="lora")
    assert REPORT.run([str(tmp_path / "a"), "--output", str(tmp_path / "own.html")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'own.html'}\n"
    assert REPORT.run([str(tmp_path / "b")]) == 2
    assert "bilora report: error: there is no folder" in capsys.readouterr().err


def test_reads_the_label_of_a_run_outside_a_comparison(tmp_path: Path) -> None:
    assert read_run(toy_run(tmp_path / "a", method="lora", seed=3)).name == "lora, seed 3"


def test_renders_in_a_browser_without_network(runs: Path, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    target = write_report(ReportConfig([str(runs)]))
    picture = tmp_path / "page.png"
    offline = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    words = [str(CHROMIUM), *offline, f"--screenshot={picture}", "--window-size=1200,6000", target.as_uri()]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert picture.stat().st_size > 20_000
    assert "Refused to" not in ended.stderr
