"""Options by the names that people know from transformers, PEFT and other trainers, and the twenty that most need."""

import dataclasses
import difflib
import textwrap
from collections.abc import Iterable, Sequence

from bilora.errors import SettingsError

RENAMED = {
    "output_dir": "output",
    "model_name_or_path": "model",
    "max_seq_length": "max_length",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "eval_steps": "validate_every",
    "save_steps": "save_every",
    "logging_steps": "log_every",
    "resume_from_checkpoint": "resume",
    "lr": "lower.learning_rate",
    "learning_rate": "lower.learning_rate",
    "batch_size": "lower.batch_size",
    "per_device_train_batch_size": "lower.batch_size",
    "weight_decay": "lower.weight_decay",
    "gradient_accumulation_steps": "lower.accumulation",
    "max_grad_norm": "lower.gradient_clipping",
    "warmup_ratio": "lower.warmup",
    "lr_scheduler_type": "lower.schedule",
    "lora_r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target_modules": "target_modules",
    "model_revision": "revision",
    "text_column": "text_columns",
    "text_column_name": "text_columns",
    "text_column_names": "text_columns",
    "label_column_name": "label_column",
    "label_columns": "label_column",
    "lora_rank": "rank",
    "cutoff_len": "max_length",
    "r": "rank",
    "num_epochs": "epochs",
    "random_state": "seed",
    "random_seed": "seed",
    "early_stopping_patience": "early_stopping",
    "patience": "early_stopping",
    "load_best_model_at_end": "keep_best",
    "lr_scheduler": "lower.schedule",
    "grad_clip": "lower.gradient_clipping",
    "val_size": "validation_share",
    "val_split": "validation_share",
    "test_size": "validation_share",
    "class_weight": "class_weights",
}
"""The setting of a run by each of its usual names; those of the optimizer are of the lower level, which trains the
adapter."""

FILES = {
    **dict.fromkeys(("data", "file", "train_data", "dataset", "dataset_name"), "train_file"),
    **dict.fromkeys(("eval_file", "dev_file", "validation_data"), "validation_file"),
}
"""The two files of rows of a training by their other names."""

ROWS = ("train_file", "data", "file", "dataset", "dataset_name", "test_file", "validation_file", "eval_file")
"""What people call a file of rows; where a verb has one file, each of them is it."""


def aliases_of(config: type, *, rows: str | None = None, **more: str) -> dict[str, str]:
    """Return the other names of a config's settings, among them those of the one file of ``rows`` that it has."""
    known = {field.name for field in dataclasses.fields(config)}
    usual = {name: ours for name, ours in RENAMED.items() if ours.partition(".")[0] in known}
    files = {name: rows for name in ROWS} if rows else {}
    return {name: ours for name, ours in {**usual, **files, **more}.items() if name not in known}


# Options of others that have none here, though one is called nearly so.
FOREIGN = frozenset(
    ("per_device_eval_batch_size", "eval_batch_size", "eval_accumulation_steps", "eval_split", "num_warmup_steps")
    + ("optim_target_modules", "hub_revision", "length_column_name", "local_rank", "lora")
)

# How near a word must be to an option that it may stand for: a slip of a letter or two, no other word.
SLIP = 0.8


def near_option(asked: str, known: Iterable[str]) -> str:
    """Return `` Did you mean '--x'?`` where an option is a misspelt one, or an empty string."""
    name = asked.removeprefix("--").replace("-", "_")
    if name in FOREIGN:
        return ""
    near = difflib.get_close_matches(name, [option.removeprefix("--") for option in known], n=1, cutoff=SLIP)
    return f" Did you mean '--{near[0]}'?" if near else ""


PRECISIONS = ("bf16", "fp16")
"""Values of ``precision`` that are switches elsewhere."""

# Switches that some write with a value.
TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")

# Where the words of the help begin.
COLUMN = 27

COMMON = {
    "The rows": {
        "--train-file FILE": "labelled rows (csv, tsv, json, jsonl, parquet, xlsx), a folder of "
        "such files, or a hub id",
        "--validation-file FILE": "rows to validate on; a part of the others without it",
        "--text-columns NAME [NAME]": "the one or two columns of text, where their names do not say so",
        "--label-column NAME": "the column of labels, where its name does not say so",
        "--group-column NAME": "rows with the same value there are on one side of every split",
        "--task NAME": "a known data set instead of a file, such as sst2 or rotten_tomatoes",
    },
    "The model and its adapter": {
        "--model MODEL": "hub id or folder; without it a small one that is embedded",
        "--revision NAME": "branch, tag or commit of a hub id, which pins it",
        "--method NAME": "how it is trained; what is left out needs no tuning",
        "--rank N": "rank of the adapter, 8",
        "--alpha X": "the update is scaled by alpha / rank, 16",
        "--dropout X": "dropout before the adapter, 0",
        "--target-modules NAME ...": "layers to adapt, or all-linear",
        "--max-length N": "tokens of a row, 128",
    },
    "The training": {
        "--epochs X": "passes over the rows; without it ten, and at least 40 steps",
        "--steps N": "optimizer steps, in place of epochs",
        "--learning-rate X": "of the adapter, 0.003",
        "--batch-size N": "rows of a step, 16",
        "--gradient-accumulation-steps N": "batches of a step, 1",
        "--bf16": "compute in bfloat16; --precision auto does where it is fast",
        "--seed N": "of split, order and dropout, 0",
        "--device NAME": "auto, cpu, cuda, cuda:N or mps",
    },
    "What is kept": {
        "--output-dir FOLDER": "folder of the run; without it the next free one below runs/",
        "--resume FOLDER": "go on with a run that was interrupted",
        "--push-to-hub": "upload the adapter at the end, with --hub-model-id",
    },
}
"""Groups of the options of ``bilora train`` that its help shows first, each with a few words."""


def with_precision(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with switches such as ``--bf16`` as ``--precision=bf16``."""
    given, ours = list(words), []
    while given:
        word = given.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in PRECISIONS:
            ours.append(word)
            continue
        if not equals and given and given[0].lower() in (*TRUE, *FALSE):
            value = given.pop(0)
        if equals and value.lower() not in (*TRUE, *FALSE):
            raise SettingsError(f"--{name} is {value!r}, allowed: {', '.join((*TRUE, *FALSE))}; alone it means true")
        ours += [] if value.lower() in FALSE else [f"--precision={name}"]
    return ours


def common_help(*, width: int = 80) -> str:
    """Return the first help of ``bilora train``: the common options, in groups."""
    lines = ["usage: bilora train --train-file FILE [options]", ""]
    lines += textwrap.wrap("Train an adapter on labelled rows, keep the best, and check that it can be loaded.", width)
    for title, options in COMMON.items():
        lines += ["", f"{title}:"]
        for option, text in options.items():
            # As argparse has it: what is too long for the first column stands on a line of its own.
            first, *rest = textwrap.wrap(text, width - COLUMN)
            fits = len(option) < COLUMN - 2
            lines += [f"  {option:{COLUMN - 2}}{first}"] if fits else [f"  {option}", " " * COLUMN + first]
            lines += [" " * COLUMN + line for line in rest]
    return "\n".join([*lines, "", "bilora train --help all shows every option.", ""])
