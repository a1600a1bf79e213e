"""The study: which trainings it needs, that none is made twice, and that they are those of the command."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from programs import imported, write_study
from sklearn.metrics import f1_score
from tracked_files import ROOT

from bilora.errors import SettingsError
from bilora.files.formats import read_lines
from bilora.models.embedded import embedded_reviews
from bilora.runs.config_hash import config_hash
from bilora.runs.plan import plan_run
from bilora.runs.run import prepare, run_once

protocols, runs, study_jobs, results, program = map(
    imported, ("study_protocol", "study_runs", "study_jobs", "study_results", "run_study")
)
STUDY = ROOT / "benchmarks" / "configs" / "study.yaml"

SMALL = """
main: learned_decay
run: {steps: 4, max_length: 16, device: cpu, lower: {learning_rate: 0.02, batch_size: 8}, upper: {batch_size: 8}}
seeds: [0, 1]
development_seeds: [5]
test_rows: 30
settings:
  reviews: {task: text/reviews, rows: 48, metrics: [macro_f1, accuracy], classes: [positive], model: tiny}
grid: {cells: [[0.02, 0], [0.02, 5], [0.0, 0]], sizes: [1, 2, 3], random_cells: 2}
methods:
  lora: {method: lora, run: {lower.learning_rate: 0.02, lower.weight_decay: 0}}
  learned_decay: {method: learned_decay}
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, review_file: Path, tiny_encoder: Path) -> list[str]:
    """The words of a study of one setting, on a model of one layer."""
    return write_study(tmp_path_factory.mktemp("study"), SMALL, rows=review_file, model=tiny_encoder)


def study_of(words: list[str]) -> Any:
    options = program.PROGRAM.parse(words)
    return runs.Study(protocols.read_protocol(options.protocol), options.data_dir, dict(options.models))


def test_the_committed_study_has_the_settings_the_grid_and_the_seeds_that_were_agreed() -> None:
    study = protocols.read_protocol(STUDY)
    of_minilm = [name for name, setting in study.settings.items() if setting.model is None]
    assert (len(of_minilm), study.seeds, study.seeds_of("mpnet_sst2_flips")) == (11, [0, 1, 2, 3, 4], [0, 1, 2])
    assert sorted(study.grid.cells) == [(rate, decay) for rate in (3e-4, 1e-3, 3e-3, 1e-2) for decay in (0, 5, 15)]
    assert study.for_development().seeds == [5, 6, 7, 8, 9]
    # 12 cells, two untuned, one stopped and ours; the cells of LoRA untuned on all rows are no cells on D1.
    first = [job for job in study_jobs.jobs(study, {}) if job.seed == 0 and job.setting == "mrpc"]
    assert [job.method for job in first].count("lora_d1") == 12
    assert len({job.name for job in first}) == len(first)


def test_the_second_study_differs_from_the_first_in_what_is_ours() -> None:
    first, second = (protocols.read_protocol(STUDY.with_name(name)) for name in ("study.yaml", "study_2.yaml"))
    as_first = {"main": first.main, "methods": first.methods, "sha256": first.sha256, "name": first.name}
    assert dataclasses.replace(second, follows=None, **as_first) == first
    assert {name: row for name, row in second.methods.items() if name != second.main} == first.methods
    place = runs.Study(second, Path("data"), {})
    config = place.config(protocols.job_of("emotion", second.methods[second.main], 0))
    assert (config.variant_settings.rate, config.variant_settings.classes) == ("learned", "measured")
    assert (config.upper.batch_size, config.upper.accumulation) == (8, 4)


@pytest.mark.parametrize(("name", "count"), [("study_ablations", 16), ("study_rate", 2), ("study_recipe", 16)])
def test_every_line_differs_from_the_first_in_one_thing(name: str, count: int) -> None:
    study = protocols.read_protocol(STUDY.with_name(f"{name}.yaml"))
    place = runs.Study(study, Path("data"), {})
    first, *others = [
        config_hash(place.config(protocols.job_of("sst2_flips", row, 0))) for row in study.methods.values()
    ]
    assert len({first, *others}) == count


def test_what_is_wrong_in_a_protocol_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(SMALL.replace("rows: 48", "row: 48"), encoding="utf-8")
    with pytest.raises(SettingsError, match="settings: reviews has no setting 'row'.*Did you mean 'rows'"):
        protocols.read_protocol(path)


def line(upper: float, test: float, loss: float = 1.0) -> dict[str, Any]:
    return {
        "failed": None,
        "upper": {"metrics": {"accuracy": upper}, "loss": loss},
        "test": {"metrics": {"accuracy": test}, "loss": loss},
    }


def test_the_grid_chooses_by_d2_the_oracle_by_the_test_rows_and_ties_go_to_the_smaller_loss() -> None:
    study = protocols.read_protocol(STUDY)
    cells = study.grid.cells
    done = {study_jobs.cell_job("sst2", cell, 0).name: line(0.5, 0.5) for cell in cells}

    def put(cell: int, **values: float) -> None:
        done[study_jobs.cell_job("sst2", cells[cell], 0).name] = line(**values)

    put(3, upper=0.8, test=0.6, loss=0.9)
    put(5, upper=0.8, test=0.6, loss=0.7)
    put(7, upper=0.7, test=0.9)
    best = {part: study_jobs.best_cell(study, "sst2", cells, done, part=part) for part in ("upper", "test")}
    assert best == {"upper": cells[5], "test": cells[7]}
    assert study_jobs.best_cell(study, "sst2", cells[:4], done, part="upper") == cells[3]
    named = {job.name for job in study_jobs.jobs(study, done)}
    for cell in (cells[5], cells[7], cells[3]):
        assert all(protocols.job_of("sst2", protocols.lora(cell), seed).name in named for seed in range(5))
    del done[study_jobs.cell_job("sst2", cells[0], 0).name]
    assert study_jobs.best_cell(study, "sst2", cells, done, part="upper") is None, "not all are there"


def test_a_random_search_draws_different_cells_by_setting_and_seed_alone() -> None:
    grid = protocols.read_protocol(STUDY).grid
    drawn = [study_jobs.random_cells(grid, "sst2", seed) for seed in range(20)]
    assert drawn == [study_jobs.random_cells(grid, "sst2", seed) for seed in range(20)]
    assert all(len(set(cells)) == 3 for cells in drawn)
    # Sixty draws of twelve: that one is never drawn has a probability below 1e-2 in all, and not for this key.
    assert {cell for cells in drawn for cell in cells} == set(grid.cells)


def in_child(action: Any) -> int:
    """Return what a forked process that does something exits with."""
    child = os.fork()
    if child == 0:
        os._exit(int(action()))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_job_is_held_by_one_process_until_it_ends_or_gives_it_up(tmp_path: Path) -> None:
    study = protocols.read_protocol(STUDY)
    job, other = (protocols.Job("sst2", "lora", seed) for seed in (0, 1))
    path = tmp_path / "r.jsonl"
    mine = results.Results(path, study)
    assert mine.claim(job)
    assert in_child(lambda: results.Results(path, study).claim(job)) == 0
    assert in_child(lambda: results.Results(path, study).claim(other)) == 1
    # The child that had it is gone.
    assert mine.claim(other)
    mine.release(job)
    assert in_child(lambda: results.Results(path, study).claim(job)) == 1


def test_half_a_line_goes_and_lines_of_another_protocol_are_refused(tmp_path: Path) -> None:
    study = protocols.read_protocol(STUDY)
    path = tmp_path / "r.jsonl"
    file = results.Results(path, study)
    file.append({"job": "a"})
    with path.open("a", encoding="utf-8") as torn:
        torn.write('{"job": "b", "sc')
    assert list(file.by_job()) == ["a"]
    file.append({"job": "c", "loss": float("nan")})
    assert [json.loads(text)["job"] for text in path.read_text(encoding="utf-8").splitlines()] == ["a", "c"]
    with pytest.raises(SettingsError, match="name another --output"):
        results.Results(path, protocols.read_protocol(STUDY.with_name("study_ablations.yaml"))).lines()


# Four steps may teach one class only, of which no correlation is defined.
@pytest.mark.filterwarnings("ignore:.* is undefined")
@pytest.mark.parametrize("method", ["lora", "learned_decay"])
def test_a_job_has_the_numbers_of_the_command_for_the_same_config(
    small: list[str], method: str, tmp_path: Path
) -> None:
    study = study_of(small)
    job = protocols.job_of("reviews", study.protocol.methods[method], 1)
    found = study.run(job)
    rows, _ = study.sets("reviews")
    plan = plan_run(study.config(job), rows)
    row = run_once(plan, prepare([plan]), folder=tmp_path / "run")
    assert found["test"]["metrics"]["accuracy"] == row["metrics"]["accuracy"]
    # The mean of the same losses, in the order of the rows.
    assert found["test"]["loss"] == pytest.approx(row["metrics"]["loss"], rel=1e-12)
    assert found["steps"] == row["steps"]
    names = study.labels("reviews")["names"]
    written = read_lines(tmp_path / "run" / "predictions-test.jsonl")
    assert [names[answer] for answer in runs.unpack(found["test"]["answers"])] == [row["prediction"] for row in written]
    assert [names[label] for label in runs.unpack(study.labels("reviews")["labels"])] == [
        row["label"] for row in written
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--settings", "reviewz"], "--settings: small has no reviewz; it has reviews"),
        (["--models", "tinny=."], "--models: small has no tinny; it has tiny"),
        (["--seeds", "0", "7"], "--seeds: small has no 7; it has 0, 1"),
    ],
)
def test_what_a_protocol_does_not_have_is_refused(
    small: list[str], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # The last of an option counts.
    assert program.PROGRAM.main([*small, *words]) == 2
    assert message in capsys.readouterr().err


def test_all_jobs_are_run_once_and_nothing_is_left_to_go_on_with(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(small[-1])
    assert program.PROGRAM.main([*small, "--methods", "lora_d1"]) == 0
    first = output.read_bytes()
    assert program.PROGRAM.main(small) == 0
    lines = read_lines(output)
    assert output.read_bytes().startswith(first), "what was done stays"
    jobs = [each["job"] for each in lines if "job" in each]
    assert len(set(jobs)) == len(jobs)
    done = {each["job"]: each for each in lines if "job" in each}
    study = protocols.read_protocol(Path(small[1]))
    assert {job.name for job in study_jobs.jobs(study, done)} == set(jobs)
    assert [each["labels_of"] for each in lines if "job" not in each] == ["reviews"]
    cells = [each for each in lines if each.get("method") == "lora_d1"]
    assert {each["seed"] for each in cells} == {0, 1}
    for each in cells:
        # A fifth of 48 rows.
        assert len(runs.unpack(each["upper"]["answers"])) == 10
        assert each["cpu"]["whole"] > each["cpu"]["fit"] > 0.0
    before = output.read_bytes()
    assert program.PROGRAM.main(small) == 0
    assert output.read_bytes() == before
    # A checkout may not hold the labels: a report asks for the data, and adds what they say.
    kept = [line for line in before.decode().splitlines(keepends=True) if "labels_of" not in json.loads(line)]
    output.write_text("".join(kept), encoding="utf-8")
    data, reports = small.index("--data-dir"), dataclasses.replace(program.PROGRAM, report=lambda *_: None)
    assert reports.main([*small[:data], *small[data + 2 :], "--report"]) == 2
    assert "lacks the labels of the test rows of reviews; give --data-dir DIR" in capsys.readouterr().err
    assert reports.main([*small, "--report"]) == 0
    assert sorted(output.read_text(encoding="utf-8").splitlines()) == sorted(before.decode().splitlines())


def test_a_study_that_follows_another_runs_its_own_methods_and_reads_the_other_trainings(small: list[str]) -> None:
    protocol, output = Path(small[1]), Path(small[-1])
    assert program.PROGRAM.main(small) == 0
    second = protocol.with_name("second.yaml")
    method = "{method: learned_decay, run: {settings.decay_start: 1.0}}"
    second.write_text(f"follows: small.yaml\nmain: second\nmethods: {{second: {method}}}\n", encoding="utf-8")
    words = ["--protocol", str(second), *small[2:-1], str(output.with_name("second.jsonl"))]
    before = output.read_bytes()
    assert program.PROGRAM.main(words) == 0
    assert output.read_bytes() == before
    study = protocols.read_protocol(second)
    assert (study.main, list(study.methods)) == ("second", ["lora", "learned_decay", "second"])
    assert (study.seeds, study.follows) == ([0, 1], protocols.read_protocol(protocol))
    own = [line["job"] for line in read_lines(output.with_name("second.jsonl")) if "job" in line]
    assert own == [f"reviews learned_decay seed={seed} settings.decay_start=1" for seed in (0, 1)]
    both = results.Results(output.with_name("second.jsonl"), study)
    assert set(both.by_job()) == {*own, *(line["job"] for line in read_lines(output) if "job" in line)}
    # Another first study makes another second one.
    protocol.write_text(protocol.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert protocols.read_protocol(second).sha256 != study.sha256


def test_calibration_error_of_known_bins() -> None:
    chances = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 1])
    # Bins of 0.9 (half of two right), of 0.6 (wrong) and of 1 (right).
    assert runs.calibration_error(chances, labels) == pytest.approx((2 * abs(0.5 - 0.9) + 0.6 + 0.0) / 4)


def test_the_f1_of_named_classes_and_an_undefined_correlation() -> None:
    random = numpy.random.default_rng(0)
    answers, labels = random.integers(3, size=(2, 50))
    one_against_rest = [f1_score(labels == name, answers == name) for name in (0, 2)]
    assert runs.measure(answers, labels, "macro_f1", [0, 2]) == pytest.approx(sum(one_against_rest) / 2)
    assert runs.measure(numpy.zeros(9, int), labels[:9] % 2, "matthews_correlation") == 0.0


def test_packed_numbers_come_back() -> None:
    assert runs.unpack(runs.pack([0, 76, 3])).tolist() == [0, 76, 3]
    assert runs.unpack(runs.pack([0.0, -1.239, 4.8])).tolist() == [0.0, -1.24, 4.8]
    assert sys.getsizeof(runs.pack([1, 0] * 500)) < 200


def test_each_class_gives_as_many_rows() -> None:
    drawn = runs.per_class(embedded_reviews(), 5, seed=1)
    assert sorted(drawn.labels) == [0] * 5 + [1] * 5
    assert drawn.ids != runs.per_class(embedded_reviews(), 5, seed=2).ids
