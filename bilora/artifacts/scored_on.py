"""Which rows the numbers of a run are of, and the same numbers in the form that transformers' Trainer writes."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

# Numbers on rows that nothing has seen and numbers on D2, which the upper level was trained on, must never be taken for
# each other. So they have two keys in metrics.jsonl: this one, whatever the validation set is called,
VALIDATION = "validation"
# and this one where no row is held out and D2 is watched; it is also the name of that set in all files.
UPPER = "d2"
WHOLE_D2 = "D2, the part of the training rows that the upper level was trained on too"


def set_kind(name: str) -> str:
    """Return ``VALIDATION`` or ``UPPER``, whichever the set of a name is, such as ``validation_matched``."""
    return UPPER if name == UPPER else VALIDATION


def set_in_words(name: str) -> str:
    """Return what a number of rows is in a list such as ``1,000 training rows, 200 of them D2``."""
    return "of them D2" if name == UPPER else name


def in_words(kinds: Collection[str]) -> str:
    """Return which rows gave the numbers of some runs."""
    if UPPER not in kinds:
        return "the validation rows"
    return WHOLE_D2 if VALIDATION not in kinds else f"the validation rows, or, where none were held out, {WHOLE_D2}"


def numbers_in(line: Mapping[str, Any]) -> Mapping[str, float | None] | None:
    """Return the numbers in a line of ``metrics.jsonl``, or None for the line of a step."""
    numbers: Mapping[str, float | None] | None = line.get(VALIDATION, line.get(UPPER))
    return numbers


def loss_by_name(loss: float | None, kind: str) -> dict[str, Any]:
    """Return the loss as a row of results has it; that of D2 has another name, and is no validation loss."""
    if kind == VALIDATION:
        return {"scored_on": kind, "validation_loss": loss}
    return {"scored_on": kind, "validation_loss": None, f"{kind}_loss": loss}


def trainer_state(lines: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``trainer_state.json`` from the lines of ``metrics.jsonl`` and ``all_results.json``."""
    return {
        "best_global_step": results["best_step"],
        "best_metric": results["score"],
        "best_model_checkpoint": None,
        "global_step": results["steps"],
        # Tools that plot Trainer runs take these keys as given; the file is written by the first process alone.
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": [_entry(line) for line in lines],
        "max_steps": results["steps"],
        "metric_for_best_model": results["metric"],
    }


def _entry(line: Mapping[str, Any]) -> dict[str, Any]:
    numbers = numbers_in(line)
    if numbers is not None:
        # Trainer knows `eval_` alone; D2 keeps its name, since it is no evaluation.
        prefix = UPPER if UPPER in line else "eval"
        return {"step": line["step"], **{f"{prefix}_{name}": value for name, value in numbers.items()}}
    entry = {
        "step": line["step"],
        "loss": line["lower_loss"],
        "grad_norm": line["lower_gradient_norm"],
        "learning_rate": max(line["lower_learning_rates"]),
    }
    if "upper_loss" in line:
        entry |= {"upper_loss": line["upper_loss"], "hypergradient_norm": line["hypergradient_norm"]}
    return entry
