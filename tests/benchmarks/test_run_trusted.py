"""The study of trusted rows: what each line trains on, that all of them run, and that ours is the command's."""

import dataclasses
import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from programs import imported, write_study
from tracked_files import ROOT

from bilora.commands.train import TRAIN
from bilora.files.formats import read_lines

protocols, roads, runs, study_jobs, setfit, program = map(
    imported, ("trusted_protocol", "trusted_roads", "trusted_runs", "study_jobs", "trusted_setfit", "run_trusted")
)
study_runs, job_of = imported("study_runs"), imported("study_protocol").job_of
STUDY = ROOT / "benchmarks" / "configs" / "trusted.yaml"
LINES = [name for name in roads.TRUSTED_ROADS if name != "setfit"]

SMALL = """
main: default
unit: true_labels
run: {steps: 8, max_length: 16, device: cpu, unroll_steps: 2, lower: {learning_rate: 0.02, batch_size: 8}}
seeds: [0]
development_seeds: [5]
test_rows: 30
settings:
  reviews: {task: text/reviews, rows: 60, trusted: 8, flips_by_source: [0.0, 0.4], metrics: [accuracy], model: tiny}
methods:
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, review_file: Path, tiny_encoder: Path) -> list[str]:
    """The words of a study of one setting, on a model of one layer."""
    lines = "".join(f"  {name}: {{method: {name}}}\n" for name in roads.TRUSTED_ROADS)
    return write_study(tmp_path_factory.mktemp("study"), SMALL + lines, rows=review_file, model=tiny_encoder)


@pytest.fixture(scope="module")
def study(small: list[str]) -> Any:
    options = program.PROGRAM.parse(small)
    return runs.TrustedStudy(protocols.read_trusted(options.protocol), options.data_dir, dict(options.models))


@pytest.fixture
def planned(study: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the place of a job, whose plans are kept in place of being trained."""
    plans: list[Any] = []

    def fit(place: Any, plan: Any, variant: Any = None) -> Any:
        plans.append(plan)
        chances = torch.tensor([[3.0, 0.0]])
        return roads.Trained(lambda rows: chances.repeat(len(rows), 1).double())

    monkeypatch.setattr(roads.Place, "fit", fit)
    job = job_of("reviews", study.protocol.methods["default"], 0)
    return SimpleNamespace(place=study.place(job), plans=plans)


def test_the_committed_protocol_has_the_settings_seeds_rivals_and_margins_that_were_agreed() -> None:
    study = protocols.read_trusted(STUDY)
    assert len(study.settings) == 8 and study.seeds == [0, 1, 2]
    assert [study.settings[f"noisyag_{n}"].trusted for n in (5, 25, 100)] == [5, 25, 100]
    assert {method.method for method in study.methods.values()} == set(roads.TRUSTED_ROADS)
    assert len(study.of_role("rival")) == 11 and study.of_role("ceiling") == ["true_labels"]
    assert (study.wanted.below_best_mean, study.wanted.below_best_of_setting) == (0.5, 2.0)
    assert (study.wanted.p_value, study.wanted.two_levels_lead) == (0.01, 2.0)
    assert set(study.wanted.beats) == set(study.of_role("ours")) - {"default"}
    # Twelve lines everywhere, three in six settings, one in one, and three in two.
    assert len(study_jobs.jobs(study, {})) == 3 * (8 * 11 + 6 * 3 + 1 + 2 * 3)


def test_every_training_of_the_committed_protocol_has_a_config() -> None:
    study = protocols.read_trusted(STUDY)
    place = runs.TrustedStudy(study, Path("data"), {})
    rates = {}
    for setting in study.settings:
        config = place.config(job_of(setting, dataclasses.replace(study.methods["true_labels"], method="lora"), 0))
        rates[setting] = (config.lower.learning_rate, config.steps, config.upper.batch_size)
    assert rates.pop("banking77_sources") == (3e-3, 400, 16)
    assert set(rates.values()) == {(1e-3, 300, 16)}
    ours = dataclasses.replace(study.methods["default"], method="noisy_then_trusted")
    config = place.config(job_of("sst2_flips", ours, 0))
    assert (config.lower.learning_rate, config.lower.batch_size, config.upper.batch_size) == (3e-3, 16, 32)


def test_each_line_trains_on_the_rows_that_are_its_own(planned: Any) -> None:
    rows = planned.place.rows
    doubtful, trusted = rows.doubtful.ids, rows.trusted.ids
    both = doubtful + trusted
    expected: dict[str, tuple[tuple[int, ...], Any]] = {
        "trusted_only": (trusted, None),
        "noisy_stopped": (doubtful, trusted),
        # 60 doubtful rows are as much as four times 16 trusted ones.
        "mixed": (both, None),
        "noisy_then_trusted": (doubtful, trusted),
        "label_smoothing": (both, None),
        "generalized_cross_entropy": (both, None),
        "inverse_frequency": (both, None),
        "logit_adjustment": (both, None),
        "true_labels": (both, None),
        **{name: (doubtful, trusted) for name in LINES if name.startswith("learned")},
    }
    for name, (train, upper) in expected.items():
        planned.plans.clear()
        roads.TRUSTED_ROADS[name](planned.place)
        (plan,) = planned.plans
        assert plan.train.ids == train, name
        assert (None if plan.rows.upper is None else plan.rows.upper.ids) == upper, name
        labels = rows.true.labels if name == "true_labels" else rows.doubtful.labels
        if train[: len(doubtful)] == doubtful:
            assert plan.train.labels[: len(doubtful)] == labels, name
    assert rows.true.labels != rows.doubtful.labels


def test_few_trusted_rows_are_copied_until_they_are_a_quarter_of_the_doubtful_ones(planned: Any) -> None:
    place = planned.place
    few = dataclasses.replace(place.rows, trusted=place.rows.trusted.select([0, 8, 9]))
    roads.mixed(dataclasses.replace(place, rows=few))
    assert planned.plans[0].train.ids == few.doubtful.ids + few.trusted.ids * 5


def test_class_weights_are_one_over_the_frequency(planned: Any) -> None:
    roads.inverse_frequency(planned.place)
    (plan,) = planned.plans
    counts = [plan.train.labels.count(label) for label in (0, 1)]
    assert plan.class_weights() == pytest.approx([76 / (2 * count) for count in counts])


def test_the_filter_leaves_out_what_the_judge_doubts_and_no_trusted_row(
    planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubtful = planned.place.rows.doubtful
    labels = numpy.array(doubtful.labels)
    chances = numpy.full((60, 2), 0.05)
    chances[numpy.arange(60), labels] = 0.95
    # Against the labels of four rows, two of each class.
    bad = [*numpy.flatnonzero(labels == 0)[:2], *numpy.flatnonzero(labels == 1)[:2]]
    chances[bad] = chances[bad][:, ::-1]
    monkeypatch.setattr(roads, "by_embeddings", lambda *words, parts: chances)
    trained = roads.cleanlab_filter(planned.place)
    kept = tuple(name for index, name in enumerate(doubtful.ids) if index not in bad)
    assert planned.plans[0].train.ids == kept + planned.place.rows.trusted.ids
    assert trained.learned == {"left_out": 4}


def test_rows_of_a_class_that_is_too_rare_to_be_judged_stay(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place, seen = planned.place, []

    def judge(config: Any, rows: Any, folds: Any, *, parts: Path) -> Any:
        seen.append((rows.train.labels, len(folds)))
        # Against every label: all that are judged are doubted.
        return numpy.eye(2)[1 - numpy.array(rows.train.labels)]

    monkeypatch.setattr(roads, "by_embeddings", judge)
    monkeypatch.setattr(roads, "find_issues", lambda rows, task, chances: [SimpleNamespace(row=rows.lines[0])])
    labels = place.rows.doubtful.labels
    rare = [labels.index(1), *[index for index, label in enumerate(labels) if label == 0][:20]]
    few = dataclasses.replace(place.rows, doubtful=place.rows.doubtful.select(sorted(rare)))
    roads.cleanlab_filter(dataclasses.replace(place, rows=few))
    assert seen == [((0,) * 20, 5)]
    expected = set(few.doubtful.ids) - {few.doubtful.ids[few.doubtful.labels.index(0)]}
    assert set(planned.plans[0].train.ids) == expected | set(few.trusted.ids)


def test_the_correction_is_estimated_by_a_model_of_doubtful_rows_and_used_on_all(planned: Any) -> None:
    trained = roads.gold_correction(planned.place)
    rows = planned.place.rows
    assert [plan.train.ids for plan in planned.plans] == [rows.doubtful.ids, rows.doubtful.ids + rows.trusted.ids]
    row = torch.tensor([3.0, 0.0], dtype=torch.float64).softmax(0).tolist()
    assert trained.learned["matrix"] == [pytest.approx(row), pytest.approx(row)]


def test_all_lines_run_once_in_two_calls_and_those_that_lack_a_package_are_said(
    small: list[str], study: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(setfit, "lack", lambda: "its package is not there")
    output = Path(small[-1])
    assert program.PROGRAM.main([*small, "--methods", "trusted_only", "gold_correction"]) == 0
    first = output.read_bytes()
    assert program.PROGRAM.main(small) == 0
    assert output.read_bytes().startswith(first), "what was done stays"
    assert "setfit is left out: its package is not there" in capsys.readouterr().out
    lines = {line["method"]: line for line in read_lines(output)}
    assert list(lines) == [
        "trusted_only",
        "gold_correction",
        *[n for n in study_order(study) if n not in ("trusted_only", "gold_correction")],
    ]
    labels = numpy.array(study.sets("reviews")[0].validation["test"].labels)
    for line in lines.values():
        assert line["failed"] is None and line["protocol"] == study.protocol.sha256
        assert (line["rows"], line["trusted"]) == (60, 16)
        answers = study_runs.unpack(line["test"]["answers"])
        assert line["test"]["metrics"]["accuracy"] == (answers == labels).mean()
        draws = numpy.random.default_rng(0).integers(len(labels), size=(200, len(labels)))
        resampled = 100 * (answers == labels)[draws].mean(axis=1)
        numpy.testing.assert_allclose(study_runs.unpack(line["test"]["resampled"]), resampled, atol=0.005)
    assert "labels_of" not in output.read_text(encoding="utf-8"), "labels must not go to others"
    # What is learned, of each kind.
    assert set(lines["learned_sources"]["learned"]["sources"]) == {"source 0", "source 1", "trusted"}
    assert len(lines["learned_rows"]["learned"]["row_weights"]) == 76
    assert numpy.sum(lines["gold_correction"]["learned"]["matrix"], axis=1) == pytest.approx([1.0, 1.0])
    assert lines["default"]["learned"]["road"]["folds"] > 1
    # Two trainings of eight steps; a quarter more; eight to learn and eight anew.
    steps = {name: lines[name]["steps"] for name in ("gold_correction", "noisy_then_trusted", "learned_noise")}
    assert steps == {"gold_correction": 16, "noisy_then_trusted": 10, "learned_noise": 16}
    document = tmp_path / "page.md"
    document.write_text("# Page\n", encoding="utf-8")
    assert program.PROGRAM.main([*small, "--report", "--document", str(document)]) == 0
    text = document.read_text(encoding="utf-8")
    assert text.startswith("# Page\n") and "1 of 18 trainings are missing: setfit 1; 0 diverged." in text
    assert program.PROGRAM.main([*small, "--report", "--document", str(document)]) == 0
    assert document.read_text(encoding="utf-8") == text, "in place of the section of before"


def study_order(study: Any) -> list[str]:
    return [name for name in study.protocol.methods if name != "setfit"]


def test_the_default_is_what_the_command_does_with_the_same_rows(
    study: Any, small: list[str], tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of("reviews", study.protocol.methods["default"], 0)
    rows, sets = study.place(job).rows, study.sets("reviews")[0]
    names = study_runs.names_of(sets.task)
    for part, some in (("many", rows.doubtful), ("few", rows.trusted), ("test", sets.validation["test"])):
        lines = [json.dumps({"text": row["text"], "label": names[row["label"]]}) + "\n" for row in some]
        (tmp_path / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    files = {"train": "many", "trusted": "few", "validation": "test"}
    words = [word for kind, name in files.items() for word in (f"--{kind}-file", str(tmp_path / f"{name}.jsonl"))]
    words += ["--model", str(tiny_encoder), "--output", str(tmp_path / "run"), "--max-length", "16", "--device", "cpu"]
    words += ["--lower.learning-rate", "0.02", "--lower.batch-size", "8", "--self-check", "false", "--steps", "8"]
    words += ["--validate-every", "0", "--early-stopping", "0", "--keep-best", "false", "--unroll-steps", "2"]
    assert TRAIN.run(words) == 0, capsys.readouterr().err
    found = study.run(job)
    row = json.loads((tmp_path / "run" / "all_results.json").read_text(encoding="utf-8"))
    road = json.loads((tmp_path / "run" / "road.json").read_text(encoding="utf-8"))
    assert found["test"]["metrics"]["accuracy"] == row["metrics"]["accuracy"]
    assert found["test"]["loss"] == pytest.approx(row["metrics"]["loss"], rel=1e-9)
    chosen = found["learned"]["road"]
    assert (chosen["road"], chosen["right"]) == (road["road"], road["right"])


@pytest.mark.parametrize("name", ["run_study", "run_trusted"])
def test_helpers_of_a_call_get_the_whole_program(name: str) -> None:
    whole = imported(name).PROGRAM
    assert pickle.loads(pickle.dumps(whole)) == whole


def test_setfit_is_given_the_trusted_rows_and_its_probabilities_are_the_answers(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    class Model:
        def __init__(self) -> None:
            self.model_body = SimpleNamespace(max_seq_length=512)

        @classmethod
        def from_pretrained(cls, place: str, **settings: Any) -> Any:
            seen.update(place=place, model=cls())
            return seen["model"]

        def predict_proba(self, texts: list[str], *, as_numpy: bool) -> Any:
            return numpy.array([[0.25, 0.75]] * len(texts))

    class Trainer:
        def __init__(self, *, model: Any, args: Any, train_dataset: Any) -> None:
            seen.update(rows=train_dataset.to_list(), settings=args)

        def train(self) -> None:
            seen["trained"] = True

    fake = SimpleNamespace(SetFitModel=Model, Trainer=Trainer, TrainingArguments=lambda **words: words)
    monkeypatch.setitem(sys.modules, "setfit", fake)  # type: ignore[arg-type]
    place = study.place(job_of("reviews", study.protocol.methods["setfit"], 0))
    answer = roads.setfit(place).answer(place.rows.trusted)
    assert seen["rows"] == [{"text": row["text"], "label": row["label"]} for row in place.rows.trusted]
    assert seen["trained"] and seen["place"] == str(study.models["tiny"])
    assert (seen["settings"]["num_iterations"], seen["settings"]["seed"]) == (20, 0)
    assert seen["model"].model_body.max_seq_length == 16
    torch.testing.assert_close(answer.softmax(1), torch.tensor([[0.25, 0.75]] * 16).double())


def test_what_setfit_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install setfit" in roads.lack_of("setfit")
    assert roads.lack_of("mixed") is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert roads.lack_of("setfit") is None
