"""Class weights for the second stage, where D2 shows that the model of the first has forgotten a class."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bilora.errors import first_ten
from bilora.tasks.class_weights import resolve_class_weights

# A class is forgotten with fewer answers than this share of its rows ...
SELDOM = 0.25
# ... if chance leaves so few with a smaller probability than this.
UNLIKELY = 0.01


class ForgottenClasses(nn.Module):
    """What D2 was answered during the first stage, and the weights of classes that follow from it.

    A decay strong enough for the classes with many rows may leave those with few without an answer, and D2's mean loss
    hardly sees it. A class with fewer rows than the mean counts as forgotten where its answers, averaged over the end
    of the stage, are fewer than a quarter of its rows on D2, and a Poisson variable with the mean of those rows is as
    small in less than one case of a hundred. Then the rows of class c have the weight ``n / (k n_c)`` in the second
    stage, of k classes and n rows in all.

    Args:
        class_counts: Training rows of each class by its name.
        share: Share of the stage, its end, over which the answers are averaged.
        always: Weigh whatever D2 says, as a control.
    """

    def __init__(self, class_counts: Mapping[str, int], *, share: float, always: bool = False) -> None:
        super().__init__()
        self.names, self.class_counts = list(class_counts), dict(class_counts)
        self.share, self.always = share, always
        # Of D2's rows by upper step: (2, classes), how many there are of each class, and how many were answered so.
        self._path: list[Tensor] = []
        self.upper_rows = 0
        self.weights: Tensor | None = None

    def counted(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return how many rows of each class a batch has, and how many were answered so, ``(2, classes)``."""
        classes = len(self.class_counts)
        both = [torch.bincount(each, minlength=classes)[:classes] for each in (labels, logits.argmax(dim=-1))]
        return torch.stack(both).float()

    def note(self, counts: Tensor, *, upper_rows: int) -> None:
        """Add the counts of an upper step to the path."""
        self.upper_rows = upper_rows
        self._path.append(counts.detach().cpu())

    def answered(self) -> tuple[Tensor, Tensor]:
        """Return rows and answers of each class, over the end of the path, for as many rows as D2 has."""
        last = max(1, round(self.share * len(self._path)))
        rows, answers = torch.stack(self._path[-last:]).sum(0)
        return rows * (self.upper_rows / rows.sum()), answers * (self.upper_rows / rows.sum())

    def forgotten(self) -> list[int]:
        """Return the classes with few rows that have too few answers for chance."""
        if not self._path:
            return []
        rows, answers = self.answered()
        counts = torch.tensor(list(self.class_counts.values()), dtype=torch.float64)
        # Of a Poisson variable, by the incomplete gamma function.
        chance = torch.special.gammaincc(answers.floor() + 1, rows)
        found = (counts < counts.mean()) & (answers < SELDOM * rows) & (chance < UNLIKELY)
        return [int(c) for c in found.nonzero()]

    def settle(self) -> None:
        """Fix the weights for the second stage."""
        # A class without a row has no weight to have.
        if (self.always or self.forgotten()) and min(self.class_counts.values()) > 0:
            self.weights = torch.tensor(resolve_class_weights("auto", self.class_counts), dtype=torch.float64)

    def weighted(self, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss with ``sum_i w_i l_i / sum_i w_i`` in the place of the mean of l."""
        assert self.weights is not None  # asked before
        weights = self.weights.to(logits)
        # The difference, so that what a method has added to the model's loss stays.
        plain = functional.cross_entropy(logits, labels)
        return loss - plain + functional.cross_entropy(logits, labels, weight=weights)

    def learned(self) -> dict[str, Any]:
        """Return rows and answers of D2 by class, which classes are forgotten, and the weights, if there are any."""
        if not self._path:
            return {}
        rows, answers = (dict(zip(self.names, numbers.tolist(), strict=True)) for numbers in self.answered())
        forgotten = [self.names[c] for c in self.forgotten()]
        weights = None if self.weights is None else dict(zip(self.names, self.weights.tolist(), strict=True))
        return {"rows": rows, "answers": answers, "forgotten": forgotten, "weights": weights}

    def words(self) -> str:
        """Return what was learned, in words; nothing where nothing is weighed."""
        found = self.learned()
        if not found or found["weights"] is None:
            return ""
        seldom = first_ten(
            f"{name} ({found['answers'][name]:.0f} of {found['rows'][name]:.0f})" for name in found["forgotten"]
        )
        return "; classes weighed by their rows" + (f", since D2 was hardly answered with {seldom}" if seldom else "")

    def get_extra_state(self) -> dict[str, Any]:
        """Return the path, and the weights."""
        path = torch.stack(self._path) if self._path else torch.empty(0, 2, len(self.names))
        return {"path": path, "upper_rows": self.upper_rows, "weights": self.weights}

    def set_extra_state(self, state: Any) -> None:
        """Go on with a path and weights."""
        self._path, self.upper_rows, self.weights = list(state["path"]), state["upper_rows"], state["weights"]
