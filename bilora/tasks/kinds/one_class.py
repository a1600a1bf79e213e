"""A word when a model gives the same answer to everything."""

from __future__ import annotations

from collections.abc import Iterable


def one_class(predicted: Iterable[str], wanted: Iterable[str], *, of: str) -> tuple[str, ...]:
    """Return a warning where all predictions are of one class and the labels of several; else nothing.

    Args:
        predicted: The name of the class that each item got.
        wanted: The name of its own class.
        of: What the items are, such as ``"rows"``.

    Example:
        >>> one_class(["no", "no"], ["no", "yes"], of="rows")[0].split(";")[0]
        "all 2 rows are predicted as 'no', and they are of 2 classes"
        >>> one_class(["no", "yes"], ["no", "yes"], of="rows"), one_class(["no", "no"], ["no", "no"], of="rows")
        ((), ())
    """
    answers, classes = list(predicted), set(wanted)
    if len(set(answers)) != 1 or len(classes) < 2:
        return ()
    return (
        f"all {len(answers):,} {of} are predicted as {answers[0]!r}, and they are of {len(classes)} classes; the model "
        "tells nothing apart yet: train longer, take another learning rate, or --class-weights auto where most "
        f"{of} are of one class",
    )
