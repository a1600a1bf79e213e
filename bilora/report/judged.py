"""What a run answered, decision by decision, each with what is right and how sure the model was."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from bilora.metrics.classes import class_table
from bilora.metrics.tokens import entity_table

# Tokens shown before and behind one that was answered wrongly.
AROUND = 8

COLUMNS = ["key", "line", "text", "label", "prediction", "confidence"]
Answers = Sequence[Mapping[str, Any]]


def kind_of_answers(answers: Answers) -> str | None:
    """Return ``classes``, ``numbers``, ``labels`` or ``tokens``; None for texts, and for what is none of these."""
    if answers and {"tokens", "tags", "predicted"} <= set(answers[0]):
        return "tokens"
    kinds = {type(row.get(side)) for row in answers for side in ("label", "prediction")}
    if kinds == {str}:
        return "classes"
    if kinds == {list}:
        return "labels"
    return "numbers" if kinds and kinds <= {int, float} else None


def judged(answers: Answers) -> pandas.DataFrame:
    """Return a row per decision: its key, line and text, the label, the answer, and its confidence where one was kept.

    A decision is the class or the number of a row, whether a row has a label, or the tag of a token.
    """
    make = {"classes": _whole, "numbers": _whole, "labels": _by_label, "tokens": _by_token}
    kind = kind_of_answers(answers)
    rows = [] if kind is None else [decision for row in answers for decision in make[kind](row)]
    # Objects, so that a line number stays whole beside one that is missing.
    return pandas.DataFrame(rows, columns=COLUMNS, dtype=object).astype({"confidence": float})


def _whole(row: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    place = (row.get("id"), row.get("line"), row.get("text"))
    return [(*place, row["label"], row["prediction"], row.get("confidence"))]


def _by_label(row: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    chances = row.get("probabilities", {})
    decisions = []
    for name in chances or sorted({*row["label"], *row["prediction"]}):
        given, chance = name in row["prediction"], chances.get(name)
        sides = [name if name in row[side] else f"not {name}" for side in ("label", "prediction")]
        sure = chance if given or chance is None else 1.0 - chance
        decisions.append((f"{row.get('id')} {name}", row.get("line"), row.get("text"), *sides, sure))
    return decisions


def _by_token(row: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    tokens = row["tokens"]
    sure = row.get("confidence") or [None] * len(tokens)
    decisions = []
    for place, sides in enumerate(zip(tokens, row["tags"], row["predicted"], sure, strict=True)):
        token, *rest = sides
        before, behind = tokens[max(0, place - AROUND) : place], tokens[place + 1 : place + 1 + AROUND]
        text = " ".join([*before, f"[{token}]", *behind])
        decisions.append((f"{row.get('row')} {place}", row.get("line"), text, *rest))
    return decisions


def table_by_class(answers: Answers) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and support of every class, or type of entity, by name; else nothing."""
    kind = kind_of_answers(answers)
    if kind == "tokens":
        return entity_table([row["predicted"] for row in answers], [row["tags"] for row in answers])
    if kind == "classes":
        return class_table([row["prediction"] for row in answers], [row["label"] for row in answers])
    return []


def confident_errors(frames: Sequence[pandas.DataFrame], *, most: int) -> list[dict[str, Any]]:
    """Return the decisions that contradict their label with the most confidence: candidates for wrong labels.

    Args:
        frames: What :func:`judged` gives of some runs on the same rows.
        most: How many are returned.

    Returns:
        The surest first: by the mean confidence over the runs, where a run that agrees with the label counts as zero.
    """
    kept = [frame for frame in frames if frame["confidence"].notna().any()]
    if not kept:
        return []
    decisions = pandas.concat(kept, ignore_index=True)
    wrong = decisions[(decisions["label"] != decisions["prediction"]) & decisions["confidence"].notna()]
    by_key = wrong.sort_values("confidence", ascending=False, kind="stable").groupby("key", sort=False)
    sums = by_key["confidence"].agg(["sum", "size"]).sort_values("sum", ascending=False, kind="stable").head(most)
    # Of several runs, with the answer of the surest one.
    surest = by_key.head(1).set_index("key").loc[sums.index].to_dict("records")
    found = []
    for entry, total, runs in zip(surest, sums["sum"], sums["size"], strict=True):
        row = {"row": entry["line"], "text": entry["text"], "label": entry["label"], "answer": entry["prediction"]}
        row["confidence"] = float(total) / len(kept)
        found.append(row | ({"runs": f"{runs} of {len(kept)}"} if len(kept) > 1 else {}))
    return found


def largest_errors(frames: Sequence[pandas.DataFrame], *, most: int) -> list[dict[str, Any]]:
    """Return the rows whose numbers are furthest from their label in the mean over runs on the same rows."""
    decisions = pandas.concat(frames, ignore_index=True).astype({"label": float, "prediction": float})
    by_row = decisions.groupby("key", sort=False).agg(
        line=("line", "first"), text=("text", "first"), label=("label", "first"), answer=("prediction", "mean")
    )
    by_row["off"] = (by_row["answer"] - by_row["label"]).abs()
    furthest = by_row.sort_values("off", ascending=False, kind="stable").head(most)
    names = {"line": "row", "off": "off by"}
    return [{names.get(str(key), str(key)): value for key, value in row.items()} for row in furthest.to_dict("records")]
