"""``bilora train``: one adapter for one task, from rows to a folder that can be shipped."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from bilora.artifacts.adapter_files import read_about
from bilora.artifacts.model_card import push_to_hub
from bilora.artifacts.scored_on import UPPER, in_words, set_in_words, set_kind
from bilora.commands.train_config import TrainConfig
from bilora.commands.usual_names import FILES, aliases_of
from bilora.commands.verb import Verb
from bilora.data.sets import TaskRows
from bilora.engines.callbacks.trackers import ReportTo
from bilora.engines.training.levels import stage_steps
from bilora.errors import CheckpointError, DataError, InterruptedRun, SettingsError
from bilora.files.formats import read_yaml, write_json
from bilora.files.lock import locked
from bilora.metrics.monitor import Monitor
from bilora.processes.devices import choose_device
from bilora.processes.group import join_processes
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.runs.columns import Columns, find_columns
from bilora.runs.config import ROADS, Road
from bilora.runs.label_issues import FILE as LABEL_ISSUES
from bilora.runs.label_issues import class_names, find_issues, write_issues
from bilora.runs.out_of_sample import by_embeddings, folds_of, remove_parts
from bilora.runs.plan import RunPlan, plan_run, rows_of, rows_of_road
from bilora.runs.resume import check_folder, command_folder, keep_config, resumed_folder, words_of_then
from bilora.runs.road_choice import check_can_choose, choose_road
from bilora.runs.run import Prepared, prepare, run_once
from bilora.runs.self_check import SelfCheck, require_passed
from bilora.runs.table import print_table
from bilora.settings.lookup import TRUST, is_told, names_code
from bilora.settings.sections import resolved

# Settings that the command decides by the rows where they are null.
OPEN = ("steps", "refresh", "validate_every", "validation_share")

# The record of what was done, written last.
FINISHED = "finished.json"

# The road that was chosen, and why.
ROAD_FILE = "road.json"

# Parts of the doubtful rows, each judged by the others.
LABEL_FOLDS = 5

# Rows of a training file. A tenth of 20, held out, are two, and a fifth of the others, D2, are four.
FEWEST_ROWS = 20

# Trackers that write files, and send nothing away.
LOCAL_TRACKERS = ("tensorboard",)

# The settings of the command; config.yaml has those of the run, which say what the command left open.
TRAIN_FILE = "train.yaml"


def train(config: TrainConfig) -> Path:
    """Train, write the run's folder, check what was written, and return the folder."""
    check_words(config)
    # Of the processes that torchrun has started all train, and the first alone writes, checks and prints.
    processes = join_processes(device=config.device)
    # Everything that can fail for the user's words comes before the folder, which --overwrite empties.
    columns = find_columns(config)
    config, plan = columns.config, plan_of(columns, processes)
    prepared = prepare([plan])
    processes.first_only(lambda: print(*_lines(columns, plan, prepared), sep="\n", flush=True))
    folder = processes.first_only(lambda: command_folder(config, task=plan.task.name))
    # Until the last file is written: nobody else may go on in the folder of a run that is alive.
    with processes.entered_by_first(locked(folder)):
        if processes.first_only(lambda: is_finished(folder)):
            processes.first_only(lambda: print(f"run: {folder} (finished before)"))
            return folder
        rows = next(iter(prepared.validation.values())).encoded
        check = SelfCheck(plan.task, prepared.tokenizer, rows, device=config.device)
        # Before the first step, so that a run that is cut off at any moment can be resumed.
        processes.first_only(lambda: _begin(config, folder))
        if config.road == "auto":
            plan = _on_chosen_road(config, plan, prepared, folder)
            prepared = prepare([plan])
        row = _run(config, plan, prepared, folder, check)
        processes.first_only(lambda: _write_label_issues(plan, folder))
        processes.first_only(lambda: _finish(config, row, folder, check))
    return folder


def is_finished(folder: Path) -> bool:
    """Return whether a run has done all that was asked of it, the self-check and an upload among it."""
    path = folder / FINISHED
    # Runs of earlier versions have results, and no record of what came after them.
    return read_about(path).get("finished") is True if path.is_file() else (folder / "all_results.json").is_file()


def _begin(config: TrainConfig, folder: Path) -> None:
    # The settings first: with them alone a run can be gone on with.
    keep_config(folder / TRAIN_FILE, config)
    write_json(folder / FINISHED, {"finished": False})


def check_words(config: TrainConfig) -> None:
    """Refuse what can be refused before a row is read: no rows, what would be sent away, the device, the folder."""
    if config.task is None and config.train_file is None:
        raise SettingsError(
            "there is nothing to train on: give --train-file rows.csv, a file with texts and labels, or --task with a "
            "known data set (rotten_tomatoes is embedded); bilora train --help shows the common options"
        )
    refuse_sending(config)
    choose_device(config.device)
    check_folder(config)


def refuse_sending(config: TrainConfig) -> None:
    """Refuse what a file alone asks to send away: an upload, and trackers that are not files of this machine."""
    trackers = [name for name in config.report_to if name not in LOCAL_TRACKERS]
    for setting, wanted in (("push_to_hub", config.push_to_hub), ("report_to", bool(trackers))):
        option = "--" + setting.replace("_", "-")
        if wanted and not is_told(option):
            raise SettingsError(
                f"{setting} stands in a file, which may come from somebody else, and would send data away; give "
                f"{option} on the command line too, or {TRUST}"
            )


def plan_of(columns: Columns[TrainConfig], processes: Processes = ONE_PROCESS) -> RunPlan:
    """Return the plan of the command's run, checked."""
    config = columns.config
    rows = rows_of(columns)
    _refuse_few(config, rows)
    if config.road == "auto":
        check_can_choose(rows.task, processes)
    return _plan_on(config, rows, columns.texts, processes)


def _refuse_few(config: TrainConfig, rows: TaskRows) -> None:
    """Refuse a file of fewer rows than anything can be told by."""
    parts = (rows.train, *rows.validation.values(), *(() if rows.upper is None else (rows.upper,)))
    # What was taken out of the file for validation, or is trusted, is of it too.
    count = sum(len(part) for part in parts if part.source in (rows.train.source, config.trusted_file))
    if config.train_file is not None and count < FEWEST_ROWS:
        raise DataError(
            f"{config.train_file} has {count} rows, and {FEWEST_ROWS} are the fewest to train on: of fewer none can be "
            "held out to tell a step that has learned from one that has not; label more rows"
        )


def _on_chosen_road(config: TrainConfig, plan: RunPlan, prepared: Prepared, folder: Path) -> RunPlan:
    """Return the plan of the road that trials choose, or chose before the run was interrupted."""
    path = folder / ROAD_FILE
    if path.is_file():
        road = str(read_about(path).get("road"))
    else:
        rows = plan.rows.upper
        assert rows is not None  # read with a trusted_file or trusted_column
        alone = dataclasses.replace(config, road="trusted_only", method=ROADS["trusted_only"])
        choice = choose_road(plan, prepared, trusted_steps=alone.steps_for(len(rows)))
        print(f"road: {choice.words}", flush=True)
        write_json(path, choice.to_json())
        road = choice.road
    if road not in ROADS:
        raise CheckpointError(f"{path}: {road!r} is none of the roads {', '.join(ROADS)}; remove the file")
    if road == plan.config.road:
        return plan
    chosen = dataclasses.replace(config, road=cast(Road, road), method=ROADS[road])
    columns = None if plan.config.text_columns is None else tuple(plan.config.text_columns)
    return _plan_on(chosen, plan.rows, columns, plan.processes)


def _write_label_issues(plan: RunPlan, folder: Path) -> None:
    """Write which labels of the doubtful rows are likely wrong, where there are such rows of one class each."""
    rows, path = plan.rows.doubtful, folder / LABEL_ISSUES
    if rows is None or path.is_file():
        return
    parts = path.with_name(f"{path.name}.parts")
    try:
        folds = folds_of(rows, LABEL_FOLDS, names=class_names(plan.task), seed=plan.config.seed)
    except DataError as error:
        print(f"note: no {LABEL_ISSUES}: {error}")
        return
    chances = by_embeddings(plan.config, dataclasses.replace(plan.rows, train=rows), folds, parts=parts)
    issues = find_issues(rows, plan.task, chances)
    write_issues(path, issues)
    remove_parts(parts)
    print(f"{len(issues):,} of the {len(rows):,} doubtful labels are likely wrong: {path}")


def _plan_on(config: TrainConfig, rows: TaskRows, columns: tuple[str, ...] | None, processes: Processes) -> RunPlan:
    of_road = rows_of_road(config, rows)
    train = of_road.train
    count = len(train) if config.train_rows is None or config.road == "trusted_only" else config.train_rows
    upper = None if of_road.upper is None else len(of_road.upper)
    config, notices = config.for_rows(count, upper, processes=processes.count)
    rows = dataclasses.replace(rows, notices=(*rows.notices, *notices))
    steps = config.steps_for(count, processes=processes.count)
    # Where rows are trusted and none are given for validation, what is held out is doubtful, and chooses nothing.
    unwatched = rows.upper is not None and (not config.has_trusted or config.validation_file is None)
    # Where none are held out, D2 is watched; each process validates its share.
    validated = sum(map(len, rows.validation.values())) or round((1 - config.split_ratio) * count)
    validated = math.ceil(validated / processes.count)
    run = config.run_config(steps=steps, text_columns=columns, upper_given=unwatched, validated=validated)
    return plan_run(run, rows, processes=processes)


def _finish(config: TrainConfig, row: dict[str, Any], folder: Path, check: SelfCheck) -> None:
    print_table([row], title=f"{row['task']}: {in_words({row['scored_on']})}")
    print(f"run: {folder}")
    done: dict[str, Any] = {"finished": True}
    if config.self_check:
        verdicts = check.verdicts(folder)
        require_passed(verdicts)
        done["self_check"] = {verdict.adapter.name: verdict.difference for verdict in verdicts}
    if config.push_to_hub:
        assert config.hub_model_id is not None  # the config has checked it
        done["uploaded"] = push_to_hub(folder / "adapter", repository=config.hub_model_id)
        print(f"uploaded: {done['uploaded']}")
    # The last file of all: whatever fails before it is done again by --resume.
    write_json(folder / FINISHED, done)


def _run(config: TrainConfig, plan: RunPlan, prepared: Prepared, folder: Path, check: SelfCheck) -> dict[str, Any]:
    kind = set_kind(next(iter(prepared.validation)))
    trackers = (ReportTo(name, folder, resolved(plan.config), scored_on=kind) for name in config.report_to)
    callbacks = (*trackers, *((check,) if config.self_check else ()))
    # Without one, run_once looks at the score of the task.
    monitor = Monitor("loss", greater_is_better=False) if config.watch == "loss" else None
    try:
        return run_once(plan, prepared, folder=folder, callbacks=callbacks, monitor=monitor, log_every=config.log_every)
    except InterruptedRun as error:
        # What is named on this command line stands in the folder's config from now on.
        trust = f" {TRUST}" if names_code(plan.config) or set(config.report_to) - {*LOCAL_TRACKERS} else ""
        message = f"{error}; go on with bilora train --resume {folder}{trust}"
        raise InterruptedRun(message, number=error.number) from error


def resumed_words(argv: Sequence[str]) -> Sequence[str]:
    """Return the words that read the settings of the run that ``--resume`` names; none where it names none."""
    if (folder := resumed_folder(argv)) is None:
        return ()
    # A folder of benchmarks/ has a config.yaml too, but of several runs.
    if not (folder / TRAIN_FILE).is_file():
        raise SettingsError(f"resume: {folder} is no run of bilora train (no {TRAIN_FILE} in it)")
    # Earlier versions wrote -1 for what is left open.
    settings = read_yaml(folder / TRAIN_FILE)
    left_open = (f"--{name}=null" for name, value in settings.items() if name in OPEN and value == -1)
    return ("--config", str(folder / TRAIN_FILE), *left_open, *words_of_then(settings))


def _lines(columns: Columns[TrainConfig], plan: RunPlan, prepared: Prepared) -> Iterator[str]:
    """Yield what is printed before the training: the rows, what was decided for the user, and the steps."""
    config, run, task, rows = columns.config, plan.config, plan.task, plan.rows
    sets = ", ".join(f"{len(part):,} {set_in_words(name)}" for name, part in rows.validation.items())
    trusted = f", {len(rows.upper):,} trusted ones" if run.has_trusted and rows.upper is not None else ""
    yield f"task {task.name}: {len(rows.train):,} training rows{trusted}, {sets}; score: {task.metric}"
    for notice in (*columns.found, *rows.notices, *prepared.notices):
        yield f"note: {notice}"
    looked, looks = ("D2 looked at", "looks") if UPPER in prepared.validation else ("validated", "validations")
    stop = f", ended early after {run.early_stopping} {looks} without gain" if run.early_stopping else ""
    yield f"{run.method}: {_steps(plan)} on {prepared.tokenizer.place}, {looked} every {run.validate_every}{stop}"
    if config.road == "auto":
        yield "road: first, trials on folds of the trusted rows; --road names one instead"
    if run.warmup_steps:
        # By this name transformers means what is --warmup-ratio here.
        yield (
            f"note: the upper level begins after {run.warmup_steps} warm-up steps; for those of the learning rate give "
            "--warmup-ratio"
        )
    # Who sets refresh may not know that this changes which rows the run is judged by.
    if config.refresh and dataclasses.replace(config, refresh=0).watches_upper:
        yield f"note: refresh is {config.refresh}: no D2 stays to be watched, so rows are held out"


def _steps(plan: RunPlan) -> str:
    """Return how many steps each stage makes, and what it is for."""
    made = [(stage_steps(stage, plan.settings), stage.title) for stage in plan.stages]
    parts = [f"{steps} steps {title}".rstrip() for steps, title in made if steps]
    return ", then ".join(parts) + ("," if made[-1][1] else "")


TRAIN = Verb(
    "train",
    "Train an adapter on labelled rows, keep the best, and check that it can be loaded.",
    TrainConfig,
    train,
    aliases=aliases_of(TrainConfig, **FILES),
    before=resumed_words,
    together=True,
)
