"""A report of toy runs: what it shows, that all text is escaped, and that it asks nothing of the net."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from bilora.commands.report import REPORT
from bilora.errors import DataError, SettingsError
from bilora.report import report
from bilora.report.read_run import read_run, read_runs
from bilora.report.report import ALL_MAPS, ReportConfig, draw, write_report
from bilora.report.style import COLOURS
from bilora.runs.label_issues import LabelIssue, write_issues

NASTY = '<script>alert("x")</script> & $a$'
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


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
        (folder / "learned.json").write_text(json.dumps({"words": f"{NASTY}: decay 16.1"}))
    if label is not None:
        (folder / "comparison.json").write_text(json.dumps({"label": label, "purpose": "report"}))
    if predictions:
        (folder / "predictions-validation.jsonl").write_text(jsonl(predictions))
    row = {"task": "mrpc", "method": method, "seed": seed, "metric": "accuracy", "score": 0.58, "train_loss": 0.25}
    row |= {"validation_loss": 0.5, "seconds": 4.0, "peak_memory_mb": 100.0, "trainable_parameters": 10}
    row |= {"versions": {"torch": "2"}, "command": f"python run {NASTY}", "config_sha256": "abc"}
    (folder / "all_results.json").write_text(json.dumps(row))
    return folder


def answers(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"id": index, "label": label, "prediction": answer} for index, (label, answer) in enumerate(pairs)]


def drawings(folder: Path) -> dict[str, Figure]:
    return {drawing.name: drawing.figure for drawing in draw(read_runs([folder]))}


def numbers(line: Any) -> Any:
    return line.get_xydata().tolist()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs of two methods, one with a nasty label and nasty class names."""
    folder = tmp_path_factory.mktemp("comparison")
    rows = answers((NASTY, NASTY), (NASTY, "no"), ("no", "no"))
    for seed in (0, 1):
        toy_run(folder / "runs" / f"a{seed}", label=NASTY, seed=seed, predictions=rows)
        toy_run(folder / "runs" / f"b{seed}", label="lora", method="lora", seed=seed, predictions=rows)
    return folder


@pytest.fixture(scope="module")
def page(runs: Path) -> Path:
    """Their report."""
    return write_report(ReportConfig([str(runs)]))


class Checker(HTMLParser):
    """Gathers tags, attributes and texts."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags, self.attributes, self.texts = set[str](), list[tuple[str, str | None]](), list[str]()
        self.handle_data = self.texts.append  # type: ignore[method-assign]
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs


def test_the_page_is_whole_and_asks_nothing_of_the_net(page: Path) -> None:
    text, checker = page.read_text(encoding="utf-8"), Checker(page)
    assert {"script", "link", "iframe", "object", "embed"}.isdisjoint(checker.tags)
    assert not any(name.startswith("on") for name, _ in checker.attributes)
    addresses = [str(value) for name, value in checker.attributes if name in ("src", "href", "xlink:href", "data")]
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert not re.findall(r"url\((?!#)|@import|<!DOCTYPE svg", text)
    # Names of XML vocabularies are no addresses that anything is loaded from.
    vocabularies = r"http://(www\.w3\.org/(2000/svg|1999/)|purl\.org/dc/|creativecommons\.org/ns#)"
    assert not re.findall(rf"(?!{vocabularies})https?://", text)


def test_texts_are_escaped_and_shown_as_they_are(page: Path) -> None:
    checker = Checker(page)
    assert "<script" not in page.read_text(encoding="utf-8")
    assert f"{NASTY}, seed 1" in checker.texts
    assert any(f"python run {NASTY}" in shown for shown in checker.texts)
    assert any(f"learned: {NASTY}: decay 16.1" in shown for shown in checker.texts)


def test_every_figure_is_in_the_page_and_a_picture(page: Path) -> None:
    pictures = list(page.with_name("report-figures").iterdir())
    nasty = "-script-alert--x----script-----a-"
    curves = ("losses-over-steps", "losses-over-seconds", "score", "gap", "hypergradient", "cosine", "learning-rates")
    maps = (f"{kind}-{nasty}-seed{seed}.png" for kind in ("values", "spectrum") for seed in (0, 1))
    assert {path.name for path in pictures} == {*(f"{name}.png" for name in (*curves, "costs", "confusion")), *maps}
    assert page.read_text(encoding="utf-8").count("<svg") == len(pictures)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_the_same_runs_give_the_same_bytes(runs: Path, page: Path, tmp_path: Path) -> None:
    again = write_report(ReportConfig([str(runs)], output=str(tmp_path / "report.html")))
    assert again.read_bytes() == page.read_bytes()


def test_a_single_level_run_has_no_figures_of_an_upper_level(tmp_path: Path) -> None:
    names = list(drawings(toy_run(tmp_path / "a", method="lora")))
    assert names == ["losses-over-steps", "losses-over-seconds", "score", "gap", "learning-rates", "costs"]


def test_a_run_that_has_not_ended_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    (toy_run(tmp_path / "a") / "all_results.json").unlink()
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "bilevel", "step": 9, "lower_lo')
    (tmp_path / "a" / "times.jsonl").unlink()
    target = write_report(ReportConfig([str(tmp_path / "a")], output=str(tmp_path / "b" / "page.html")))
    assert "not kept: the run has not ended" in target.read_text(encoding="utf-8")
    assert (tmp_path / "b" / "page-figures" / "losses-over-steps.png").is_file()
    assert not (tmp_path / "b" / "page-figures" / "losses-over-seconds.png").exists()
    (tmp_path / "a" / "metrics.jsonl").write_text("")
    assert write_report(ReportConfig([str(tmp_path / "a")])).is_file(), "also before the first step"


def test_numbers_of_a_regression_are_a_scatter_plot(tmp_path: Path) -> None:
    (axes,) = drawings(toy_run(tmp_path / "a", predictions=answers((1.0, 1.5), (2.0, 2.5))))["scatter"].axes
    assert axes.collections[0].get_offsets().tolist() == [[1.0, 1.5], [2.0, 2.5]]


def test_confusion_matrices_are_shares_of_each_class(tmp_path: Path) -> None:
    rows = answers(("a", "a"), ("a", "b"), ("a", "b"), ("a", "b"), ("b", "c"))
    (axes,) = drawings(toy_run(tmp_path / "a", predictions=rows))["confusion"].axes
    shares = ["0.25", "0.75", "0.00", "0.00", "0.00", "1.00", "0.00", "0.00", "0.00"]
    assert [text.get_text() for text in axes.texts] == shares


@pytest.mark.parametrize("pair", [(["a", "b"], ["a"]), (None, "text")])
def test_other_answers_are_not_drawn(tmp_path: Path, pair: tuple[Any, Any]) -> None:
    assert {"confusion", "scatter"}.isdisjoint(drawings(toy_run(tmp_path / "a", predictions=answers(pair))))


def test_curves_hold_the_numbers_of_the_files(tmp_path: Path) -> None:
    figures = drawings(toy_run(tmp_path / "a"))
    lower, _, validation = figures["losses-over-seconds"].axes[0].lines
    assert numbers(validation) == [[2.0, 0.5], [4.0, 0.5]]
    # The first point of a running mean is the first loss, without its penalty.
    assert numbers(lower)[0] == [0.5, 1.0]
    left, right = figures["gap"].axes
    training = sum(1.0 / step for step in range(1, 9)) / 8
    assert numbers(left.lines[0])[-1] == pytest.approx([8.0, 0.5 - training], abs=1e-12)
    assert numbers(right.lines[0])[-1] == pytest.approx([4.0, 0.5 - training], abs=1e-12)


def test_training_losses_are_trailing_means(tmp_path: Path) -> None:
    """Of 20 steps, penalties left out; a loss that was not finite leaves a hole."""
    folder = toy_run(tmp_path / "a", method="lora", steps=30)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(jsonl([{"step": 31, "lower_loss": None}, {"step": 32, "validation": {"loss": None}}]))
    training, validation = drawings(folder)["losses-over-steps"].axes[0].lines
    means = [sum(1.0 / step for step in range(max(1, last - 19), last + 1)) / min(last, 20) for last in range(1, 31)]
    assert numbers(training) == [pytest.approx([step, mean]) for step, mean in enumerate(means, start=1)]
    assert numbers(validation) == [[4.0, 0.5], [8.0, 0.5]]


def test_means_end_where_a_seed_stopped(tmp_path: Path) -> None:
    for seed, steps in enumerate((4, 8)):
        lines = [{"step": step, "validation": {"loss": 0.5, "accuracy": 0.5 + seed / 10}} for step in (4, 8)]
        (toy_run(tmp_path / f"a{seed}", seed=seed) / "metrics.jsonl").write_text(jsonl(lines[: steps // 4]))
    left, right = drawings(tmp_path)["score"].axes
    assert numbers(left.lines[0]) == [pytest.approx([4.0, 0.55])]
    assert numbers(right.lines[0]) == [pytest.approx([2.0, 0.55])]


def test_a_run_that_was_made_twice_is_no_further_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        toy_run(tmp_path / name, method="lora")
    runs = read_runs([tmp_path])
    assert [run.label for run in runs] == ["lora (copy 1)", "lora (copy 2)"]
    assert [len(axes.lines) for axes in drawings(tmp_path)["losses-over-steps"].axes] == [2, 2]
    assert report.page(runs, drawings=[]).count("<td>1</td>") == 2


OTHER_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"steps": 9}, "steps 9"),
    ({"lower": {"learning_rate": 0.5, "batch_size": 4}}, "lower.learning_rate 0.5"),
    ({"train_file": "other.csv"}, "train_file other.csv"),
    ({"model": "other/base"}, "model other/base"),
    ({"task": "rte"}, "task rte"),
]


@pytest.mark.parametrize(("changed", "words"), OTHER_SETTINGS)
def test_runs_of_other_settings_are_no_seeds_of_one_row(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    common = {"method": "lora", "steps": 8, "lower": {"learning_rate": 0.1, "batch_size": 4}, "task": "mrpc"}
    for seed, config in enumerate((common, common | {"output": "b", "save_every": 4}, common | changed)):
        folder = toy_run(tmp_path / f"a{seed}", method="lora", seed=seed)
        (folder / "config.yaml").write_text(yaml.safe_dump(config | {"seed": seed}))
    one, two, other = read_runs([tmp_path / f"a{seed}" for seed in range(3)])
    # Where it writes, and when it saves, makes no other run.
    assert one.label == two.label != other.label == f"lora ({words})"
    assert set(other.metrics["label"]) == {other.label}
    rows = re.findall(r"<td>(lora [^<]*)</td><td>(\d)</td>", report.page([one, two, other], drawings=[]))
    assert rows == [(one.label, "2"), (other.label, "1")]


def test_labels_of_many_settings_are_cut_and_stay_apart(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        config = {"method": "bilora", "seed": seed, **dict.fromkeys(map(str, range(40)), 9), "task": name}
        config |= {"lower": {"schedule": 200 * "x" + name}}
        (toy_run(tmp_path / name, seed=seed) / "config.yaml").write_text(yaml.safe_dump(config))
    write_report(ReportConfig([str(tmp_path)]))
    assert len(list((tmp_path / "report-figures").glob("spectrum-*.png"))) == 2
    one, other = read_runs([tmp_path])
    assert one.label != other.label
    assert max(len(one.label), len(other.label)) < 100


def test_a_method_has_one_colour_in_all_figures(tmp_path: Path) -> None:
    (toy_run(tmp_path / "a", method="adalora") / "all_results.json").unlink()
    toy_run(tmp_path / "b", method="lora")
    figures = drawings(tmp_path)
    (bar,) = figures["costs"].axes[0].patches
    line = figures["score"].axes[0].lines[1]
    assert to_hex(bar.get_facecolor()) == to_hex(line.get_color()) == COLOURS[1].lower()


def test_of_many_runs_the_singular_values_of_one_seed_per_method_are_drawn(tmp_path: Path) -> None:
    for seed in range(ALL_MAPS + 1):
        toy_run(tmp_path / f"bilora-seed{seed}", seed=seed)
    maps = [name for name in drawings(tmp_path) if name.startswith(("values", "spectrum"))]
    assert maps == ["values-bilora-seed0", "spectrum-bilora-seed0"]


def test_ranks_that_were_cut_in_between_leave_rows_empty(tmp_path: Path) -> None:
    folder = toy_run(tmp_path / "a")
    # Of two lines of one step the later one counts: a run that was cut off repeats steps.
    readings = [{"step": 4, "layers": {"q": [9.0] * 3}}, {"step": 0, "layers": {"q": [1.0, 2.0, 3.0]}}]
    readings += [{"step": 4, "layers": {"q": [4.0]}}]
    (folder / "values.jsonl").write_text(jsonl(readings))
    mesh = drawings(folder)["values-bilora-seed0"].axes[0].collections[0]
    assert mesh.get_array().tolist() == [[1.0, 4.0], [2.0, None], [3.0, None]]


def test_numbers_per_class_are_a_table(tmp_path: Path) -> None:
    rows = [{"label": "<b>", "rows": 3, "f1": 0.25}, {"label": "none", "rows": 0, "f1": None}]
    (toy_run(tmp_path / "a") / "labels.json").write_text(json.dumps(rows))
    text = report.page(read_runs([tmp_path / "a"]), drawings=[])
    assert "<tr><th>label</th><th>rows</th><th>f1</th></tr>" in text
    assert "<tr><td>&lt;b&gt;</td><td>3</td><td>0.250</td></tr>" in text
    assert "<td>undefined</td></tr>" in text


def test_likely_wrong_labels_are_a_table_of_fifty_and_the_road_is_told(tmp_path: Path) -> None:
    folder = toy_run(tmp_path / "a")
    write_issues(folder / "label_issues.csv", [LabelIssue(row, "<b>", "no", "yes", 0.75) for row in range(2, 62)])
    (folder / "road.json").write_text(json.dumps({"road": "trusted_only", "words": "trusted_only, since it is best"}))
    text = report.page(read_runs([folder]), drawings=[])
    assert "<tr><td>2</td><td>&lt;b&gt;</td><td>no</td><td>yes</td><td>0.750</td></tr>" in text
    assert text.count("<td>&lt;b&gt;</td>") == 50
    assert "road: trusted_only, since it is best" in text


def test_trials_of_a_comparison_are_left_out_and_methods_stand_in_its_order(runs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs, tmp_path / "c"))
    trial = toy_run(folder / "runs" / "trial") / "comparison.json"
    trial.write_text(json.dumps({"label": "lora", "purpose": "choose"}))
    (folder / "results.jsonl").write_text(jsonl([{"label": "lora"}, {"label": NASTY}]))
    assert [(run.label, run.seed) for run in read_runs([folder])] == [("lora", 0), ("lora", 1), (NASTY, 0), (NASTY, 1)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no run"),
        ({"metrics.jsonl": ""}, "is not the folder of a run: it has no config.yaml"),
        ({"metrics.jsonl": "{\n", "config.yaml": "method: a\nseed: 0\n"}, r"metrics.jsonl:1: is not JSON"),
        ({"metrics.jsonl": "3\n", "config.yaml": "method: a\nseed: 0\n"}, r"metrics.jsonl:1: holds int"),
        ({"metrics.jsonl": "{}\n", "config.yaml": "method: a\nseed: 0\n"}, "metrics.jsonl cannot be read: .*step"),
        ({"metrics.jsonl": "", "config.yaml": "method: [\n"}, "config.yaml cannot be read: ValueError: while parsing"),
        ({"metrics.jsonl": "", "config.yaml": "seeds: [0]\n"}, "config.yaml cannot be read: .*method"),
    ],
)
def test_a_folder_without_a_run_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_runs([tmp_path])
    assert len(str(caught.value).splitlines()) == 1


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_run(tmp_path / "a, b", method="lora")
    assert REPORT.run([str(tmp_path / "a, b"), "--output", str(tmp_path / "own.html")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'own.html'}\n"


@pytest.mark.parametrize(
    ("words", "error"), [(["none"], "there is no folder"), (["a", "--output", "a.htm"], "it must end in .html")]
)
def test_the_verb_refuses(words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert REPORT.run(words) == 2
    assert error in capsys.readouterr().err
    with pytest.raises(SettingsError, match="no folder is given"):
        ReportConfig([])


@pytest.mark.parametrize("config", ["method: [lora]\nseeds: [3]\n", "method: lora\nseed: 3\n"])
def test_reads_the_label_of_a_run_outside_a_comparison(tmp_path: Path, config: str) -> None:
    (toy_run(tmp_path / "a") / "config.yaml").write_text(config)
    assert read_run(tmp_path / "a").name == "lora, seed 3"


def test_renders_in_a_browser_without_network(page: Path, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    picture = tmp_path / "page.png"
    offline = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    words = [str(CHROMIUM), *offline, f"--screenshot={picture}", "--window-size=1200,6000", page.as_uri()]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert picture.stat().st_size > 20_000
    assert "Refused to" not in ended.stderr
