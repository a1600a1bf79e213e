"""A report of toy runs: what it shows, that all text is escaped, and that it asks nothing of the net."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from toy_runs import CLASS_TASK, NASTY, answers, class_answers, jsonl, toy_run

from bilora.commands.report import REPORT
from bilora.errors import DataError, SettingsError
from bilora.report import report
from bilora.report.read_run import ReadRun, read_run, read_runs, without_texts
from bilora.report.report import ALL_MAPS, ReportConfig, draw, write_report
from bilora.report.style import COLOURS, Drawing
from bilora.runs.label_issues import LabelIssue, write_issues

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def cells(page: str) -> list[list[str]]:
    """Return the texts of the cells of all rows of tables."""
    rows = re.findall(r"<tr.*?</tr>", page, flags=re.DOTALL)
    return [
        [html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows
    ]


def drawings(folder: Path) -> dict[str, Figure]:
    return {drawing.name: drawing.figure for drawing in draw(read_runs([folder]))}


def numbers(line: Any) -> Any:
    return line.get_xydata().tolist()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs of two methods, one with a nasty label and nasty class names."""
    folder = tmp_path_factory.mktemp("comparison")
    rows = [{**row, "line": 2, "text": NASTY, "confidence": 0.9} for row in answers((NASTY, NASTY), (NASTY, "no"))]
    learned = {"words": f"{NASTY}: decay 16.1", "decays": {NASTY: 16.1, "head": 3.0}}
    for seed in (0, 1):
        toy_run(folder / "runs" / f"a{seed}", label=NASTY, seed=seed, predictions=rows, learned=learned)
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
    curves = ("losses", "score", "gap", "hypergradient", "cosine", "learning-rates")
    maps = (f"{kind}-{nasty}-seed{seed}.png" for kind in ("values", "spectrum", "learned") for seed in (0, 1))
    of_answers = ("costs", "confusion", "reliability")
    assert {path.name for path in pictures} == {*(f"{name}.png" for name in (*curves, *of_answers)), *maps}
    assert page.read_text(encoding="utf-8").count("<svg") == len(pictures)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_the_same_runs_give_the_same_bytes(runs: Path, page: Path, tmp_path: Path) -> None:
    again = write_report(ReportConfig([str(runs)], output=str(tmp_path / "report.html")))
    assert again.read_bytes() == page.read_bytes()


def test_a_single_level_run_has_no_figures_of_an_upper_level(tmp_path: Path) -> None:
    names = list(drawings(toy_run(tmp_path / "a", method="lora")))
    # The gap is in the picture of the losses, and time and memory are in the table of scores.
    assert names == ["score", "losses", "learning-rates"]


def test_a_run_that_has_not_ended_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    (toy_run(tmp_path / "a") / "all_results.json").unlink()
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "bilevel", "step": 9, "lower_lo')
    (tmp_path / "a" / "times.jsonl").unlink()
    target = write_report(ReportConfig([str(tmp_path / "a")], output=str(tmp_path / "b" / "page.html")))
    assert "not kept: the run has not ended" in target.read_text(encoding="utf-8")
    assert "No run has ended yet" in target.read_text(encoding="utf-8")
    assert (tmp_path / "b" / "page-figures" / "losses.png").is_file()
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
    toy_run(tmp_path / "a")
    toy_run(tmp_path / "b", method="lora")
    figures = drawings(tmp_path)
    lower, _, validation = figures["losses"].axes[0].lines
    assert numbers(validation) == [[4.0, 0.5], [8.0, 0.5]]
    # The first point of a running mean is the first loss, without its penalty.
    assert numbers(lower)[0] == [1.0, 1.0]
    (gap,) = figures["gap"].axes
    training = sum(1.0 / step for step in range(1, 9)) / 8
    assert numbers(gap.lines[0])[-1] == pytest.approx([8.0, 0.5 - training], abs=1e-12)
    over_steps, over_seconds = figures["score"].axes
    assert numbers(over_steps.lines[0])[-1] == pytest.approx([8.0, 0.58])
    assert numbers(over_seconds.lines[0])[-1] == pytest.approx([4.0, 0.58])


def test_no_curve_is_drawn_twice(tmp_path: Path) -> None:
    """Of one run, over one axis, and neither as a gap nor over seconds too."""
    drawn = [
        numbers(line)
        for name, figure in drawings(toy_run(tmp_path / "a")).items()
        for axes in figure.axes
        for line in axes.lines
        if name != "cosine"  # whose line at one is no curve
    ]
    assert len(drawn) == len({json.dumps(line) for line in drawn}) > 5


def test_training_losses_are_trailing_means(tmp_path: Path) -> None:
    """Of 20 steps, penalties left out; a loss that was not finite leaves a hole."""
    folder = toy_run(tmp_path / "a", method="lora", steps=30)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(jsonl([{"step": 31, "lower_loss": None}, {"step": 32, "validation": {"loss": None}}]))
    training, validation = drawings(folder)["losses"].axes[0].lines
    means = [sum(1.0 / step for step in range(max(1, last - 19), last + 1)) / min(last, 20) for last in range(1, 31)]
    assert numbers(training) == [pytest.approx([step, mean]) for step, mean in enumerate(means, start=1)]
    assert numbers(validation) == [[4.0, 0.5], [8.0, 0.5]]


def test_means_end_where_a_seed_stopped(tmp_path: Path) -> None:
    for seed, steps in enumerate((4, 8)):
        lines = [{"step": step, "validation": {"loss": 0.5, "accuracy": 0.5 + seed / 10}} for step in (4, 8)]
        (toy_run(tmp_path / f"a{seed}", seed=seed) / "metrics.jsonl").write_text(jsonl(lines[: steps // 4]))
    toy_run(tmp_path / "lora", method="lora")
    over_steps, over_seconds = drawings(tmp_path)["score"].axes
    assert numbers(over_steps.lines[0]) == [pytest.approx([4.0, 0.55])]
    assert numbers(over_seconds.lines[0]) == [pytest.approx([2.0, 0.55])]


def test_a_run_that_was_made_twice_is_no_further_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        toy_run(tmp_path / name, method="lora")
    runs = read_runs([tmp_path])
    assert [run.label for run in runs] == ["lora (copy 1)", "lora (copy 2)"]
    assert [len(axes.lines) for axes in drawings(tmp_path)["losses"].axes] == [2, 2]
    assert [row[:2] for row in cells(report.page(runs, drawings=[]))[1:3]] == [
        ["lora (copy 1)", "1"],
        ["lora (copy 2)", "1"],
    ]


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
    rows = cells(report.page([one, two, other], drawings=[]))[1:3]
    assert [row[:2] for row in rows] == [[one.label, "2"], [other.label, "1"]]


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
    toy_run(tmp_path / "c", method="dora")
    figures = drawings(tmp_path)
    _, bar = figures["costs"].axes[0].patches
    line = figures["score"].axes[0].lines[2]
    assert to_hex(bar.get_facecolor()) == to_hex(line.get_color()) == COLOURS[2].lower()


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
    table = cells(text[text.index("Numbers per class") :])
    assert table[:3] == [["label", "rows", "f1"], ["<b>", "3", "0.250"], ["none", "0", "undefined"]]


def test_likely_wrong_labels_are_a_table_of_fifty_and_the_road_is_told(tmp_path: Path) -> None:
    folder = toy_run(tmp_path / "a")
    write_issues(folder / "label_issues.csv", [LabelIssue(row, "<b>", "no", "yes", 0.75) for row in range(2, 62)])
    (folder / "road.json").write_text(json.dumps({"road": "trusted_only", "words": "trusted_only, since it is best"}))
    text = report.page(read_runs([folder]), drawings=[])
    table = cells(text[text.index("Labels that are likely wrong") : text.index("<h2>Training")])
    assert table[1] == ["2", "<b>", "no", "yes", "0.750"]
    assert len(table) == 1 + 50
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


# Words of rows that must not be told.
SECRET = "the patient in bed seven"


def kinds_of_runs(folder: Path) -> list[Path]:
    """Write a run of every kind of task, whose rows all hold the secret."""
    row = {"id": 0, "line": 2, "text": SECRET}
    of_kind: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
        "text": ("accuracy", CLASS_TASK, class_answers(seed=0, right=0.8, count=30, texts=[SECRET])),
        "number": (
            "pearson",
            {"label_names": None, "metric": "pearson"},
            [{**row, "id": at, "label": float(at), "prediction": at + 0.5} for at in range(3)],
        ),
        "multilabel": (
            "micro_f1",
            {"label_names": ["a", "b"]},
            [{**row, "label": ["a"], "prediction": ["b"], "probabilities": {"a": 0.1, "b": 0.95}}],
        ),
        "tokens": (
            "entity_f1",
            {"label_names": ["O", "B-x"]},
            [{"row": 0, "line": 2, "tokens": SECRET.split(), "tags": ["O"] * 5, "predicted": ["B-x", *["O"] * 4]}],
        ),
        "generation": ("bleu", {}, [{**row, "source": SECRET, "output": SECRET, "references": [SECRET]}]),
        # Of one's own, whose labels may be texts of rows too.
        "mine:Task": ("exact", {}, [{**row, "label": SECRET, "prediction": "no"}]),
    }
    of_kind["tokens"][2][0]["confidence"] = [0.95, *[0.5] * 4]
    runs = []
    for kind, (metric, task, rows) in of_kind.items():
        run = toy_run(folder / kind.replace(":", "-"), method="lora", predictions=rows, metric=metric, task=task)
        about = run / "adapter" / "bilora_task.json"
        content = json.loads(about.read_text())
        content["kind"] = {"number": "text"}.get(kind, kind)
        if kind in ("tokens", "generation"):
            content["task"] = {"name": "e2e"} if kind == "generation" else {"name": "toy", **task}
        about.write_text(json.dumps(content))
        write_issues(run / "label_issues.csv", [LabelIssue(2, SECRET, "no", "yes", 0.75)])
        runs.append(run)
    return runs


def test_every_kind_of_task_has_a_report_and_with_no_texts_no_text_of_a_row_in_it(tmp_path: Path) -> None:
    for folder in kinds_of_runs(tmp_path):
        runs = read_runs([folder])
        text = report.page(runs, drawings=[])
        assert 'class="verdict">lora reaches' in text, folder.name
        listed = text[text.index("Scores and cost") : text.index("Labels that are likely wrong")]
        # Tokens are shown with the one in brackets that was answered wrongly.
        shown = SECRET.replace("the", "[the]") if folder.name == "tokens" else SECRET
        assert (shown in listed) is (folder.name != "generation"), folder.name
        bare = report.page([without_texts(run) for run in runs], drawings=[])
        assert "bed seven" not in bare and "bed" not in bare.split("<body>")[1].split()
        assert '<td class="" data-name="row"><span>2</span></td>' in bare, "row numbers stay"


def test_no_texts_is_an_option_of_the_verb(tmp_path: Path) -> None:
    rows = [{**row, "confidence": 0.9, "line": 2, "text": SECRET} for row in answers(("yes", "no"))]
    folder = toy_run(tmp_path / "a", method="lora", predictions=rows, task={"label_names": ["no", "yes"]})
    assert REPORT.run([str(folder)]) == 0
    assert SECRET in (folder / "report.html").read_text(encoding="utf-8")
    assert REPORT.run([str(folder), "--no-texts"]) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert SECRET not in page and "Most confident errors" in page


def test_a_run_of_an_earlier_version_has_a_report(tmp_path: Path) -> None:
    """It kept neither probabilities nor texts nor lines, and says of which task it is."""
    rows = answers(*[("no", "no"), ("yes", "yes"), ("no", "yes")] * 10)
    folder = toy_run(tmp_path / "a", method="lora", predictions=rows, task={"label_names": ["no", "yes"]}, score=2 / 3)
    text = report.page(read_runs([folder]), drawings=[])
    assert "lora reaches accuracy 0.667 (95% interval 0." in text
    assert "Class by class" in text and "Most confident errors" not in text


LONG = "a label that goes on and on, as those that people give to their own methods do now and then"


@pytest.fixture(scope="module")
def long_labels(tmp_path_factory: pytest.TempPathFactory) -> list[ReadRun]:
    """Runs of two methods, one with a long label, and classes with long names."""
    folder = tmp_path_factory.mktemp("long")
    rows = class_answers(seed=0, right=0.8, texts=["short", "a letter of many words " * 40, "x" * 400])
    names = {name: f"{name} {LONG}" for name in ("bill", "complaint", "praise")}
    rows = [{**row, "label": names[row["label"]], "prediction": names[row["prediction"]]} for row in rows]
    task = {**CLASS_TASK, "label_names": list(names.values())}
    learned = {
        "words": LONG,
        "decays": {LONG: 3.0, "head": 0.5},
        "noise": {"a": {"a": 0.9, "b": 0.1}},
        "rows": [1.0, 2],
    }
    for label, method in ((LONG, "bilora"), ("lora", "lora")):
        toy_run(folder / method, method=method, label=label, predictions=rows, task=task, learned=learned)
    return read_runs([folder])


@pytest.fixture(scope="module")
def long_drawings(long_labels: list[ReadRun]) -> list[Drawing]:
    """Their figures."""
    return draw(long_labels)


def texts_of(axes: Axes) -> list[Text]:
    """Return the texts that are drawn."""
    texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text for text in texts if text.get_visible() and text.get_text()]


def test_nothing_is_cut_off_in_a_figure(long_drawings: list[Drawing]) -> None:
    for drawing in long_drawings:
        drawing.svg()
        figure = drawing.figure
        whole = figure.bbox.expanded(1.01, 1.01)
        for part in (*figure.legends, *(text for axes in figure.axes for text in texts_of(axes))):
            extent = part.get_window_extent()
            assert whole.x0 <= extent.x0 and extent.x1 <= whole.x1, (drawing.name, part)
            assert whole.y0 <= extent.y0 and extent.y1 <= whole.y1, (drawing.name, part)


WIDTHS = (390, 1200)

# Of a page in a frame: whether it can be moved sideways, and what stands out of it that cannot be moved by itself.
LOOK = """
const found = {};
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, width = frame.clientWidth, out = [];
  for (const part of page.body.querySelectorAll("*")) {
    const box = part.getBoundingClientRect();
    if ((box.right > width + 1 || box.left < -1) && !part.closest(".wide > table, .whole svg, pre, details"))
      out.push(part.tagName + "." + part.className + " " + box.left + " to " + box.right);
  }
  const letters = [...page.querySelectorAll("figure:not(.whole) svg")].map(
    (drawn) => drawn.getBoundingClientRect().width / drawn.viewBox.baseVal.width);
  const tables = [...page.querySelectorAll(".cards")];
  const moved = tables.filter((table) => table.scrollWidth > table.parentNode.clientWidth);
  found[frame.id] = {sideways: page.documentElement.scrollWidth - width, out: out.slice(0, 5), cards: moved.length,
                     scale: Math.min(...letters)};
}
const told = document.createElement("pre");
told.id = "found";
told.textContent = JSON.stringify(found);
document.body.append(told);
"""


def browse(*words: str) -> str:
    """Run Chromium without a net and return what it prints."""
    offline = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    ended = subprocess.run([str(CHROMIUM), *offline, *words], capture_output=True, text=True, timeout=60, check=True)
    assert "Refused to" not in ended.stderr
    return ended.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_renders_on_a_desk_on_a_phone_and_in_print_without_network(
    long_labels: list[ReadRun], long_drawings: list[Drawing], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text(report.page(long_labels, long_drawings), encoding="utf-8")
    # In frames, since a window is never as narrow as a phone; the page's own policy holds in them.
    source = html.escape(page.read_text(encoding="utf-8"))
    frames = [
        f'<iframe id="w{width}" style="width:{width}px;height:2000px;border:0" srcdoc="{source}"></iframe>'
        for width in WIDTHS
    ]
    host = tmp_path / "host.html"
    host.write_text(f"<meta charset=utf-8><body>{''.join(frames)}<script>onload = () => {{{LOOK}}}</script>")
    picture, printed = tmp_path / "page.png", tmp_path / "page.pdf"
    both = (f"--screenshot={picture}", "--window-size=1650,2050", "--dump-dom", "--virtual-time-budget=5000")
    seen = browse(*both, host.as_uri())
    found = json.loads(html.unescape(re.findall(r"<pre id=\"found\">(.*?)</pre>", seen)[0]))
    for width in WIDTHS:
        assert (found[f"w{width}"]["sideways"], found[f"w{width}"]["out"]) == (0, []), width
    phone = found["w390"]
    assert phone["cards"] == 0, "each row of a table is a card as narrow as the phone"
    assert phone["scale"] >= 1.0, "letters of nine points are letters of nine pixels"
    browse(f"--print-to-pdf={printed}", page.as_uri())
    assert printed.read_bytes().startswith(b"%PDF")
    # Both pages are seen: letters and lines are dark on white, at the left of each.
    seen_pixels = image.imread(picture)[:, :, :3].min(axis=2) < 0.5
    assert seen_pixels[:, :390].mean() > 0.01 and seen_pixels[:, 400:1590].mean() > 0.01
