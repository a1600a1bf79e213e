"""The data-to-text tasks of the LoRA paper: each is one row of a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bilora.data.faults import Fault
from bilora.errors import SettingsError
from bilora.tasks.generation.layouts import read_references, read_source


@dataclass(frozen=True)
class GenerationTask:
    """What a task reads whose answer is a text.

    Args:
        name: Folder name under a data directory.
        metric: Key of the headline metric, the one used as score.
        other_metrics: Keys of the metrics reported beside it.
        greater_is_better: Whether a larger value of ``metric`` is better.
        length_penalty: Exponent of the length by which beam search divides a text's log-probability.
        lowercase_properties: Whether the properties of triples are put in lower case.
        validation_splits: Names of the sets that are scored.
        upper_split: Name of the set that is D2; None draws D2 from the training set.
        hub: Id of the hub data set; None if it is on no hub.
        hub_config: Its configuration on the hub.

    Raises:
        SettingsError: A metric is named twice.

    Example:
        >>> task = GenerationTask("menus", metric="chrf")
        >>> task.check_row({"source": "dish : soup", "references": ["There is soup."]})[0]["references"]
        ['There is soup.']
    """

    kind: ClassVar[str] = "generation"

    name: str
    metric: str = "bleu"
    other_metrics: tuple[str, ...] = ()
    greater_is_better: bool = True
    length_penalty: float = 1.0
    lowercase_properties: bool = False
    validation_splits: tuple[str, ...] = ("test",)
    upper_split: str | None = "validation"
    hub: str | None = None
    hub_config: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked."""
        if len(set(self.metric_keys)) < len(self.metric_keys):
            raise SettingsError(f"task {self.name!r}: metrics {self.metric_keys} name one more than once")

    @property
    def metric_keys(self) -> tuple[str, ...]:
        """Keys of all the metrics, the headline one first.

        Example:
            >>> GENERATION_TASKS["dart"].metric_keys
            ('bleu', 'ter', 'chrf')
        """
        return (self.metric, *self.other_metrics)

    def with_metrics(self, keys: tuple[str, ...]) -> GenerationTask:
        """Return the task with these metrics, the first as the headline one.

        Example:
            >>> GENERATION_TASKS["e2e"].with_metrics(("chrf",)).metric
            'chrf'
        """
        # Of those that come with the library only the edit rate falls as texts get better.
        return dataclasses.replace(self, metric=keys[0], other_metrics=keys[1:], greater_is_better=keys[0] != "ter")

    def check_row(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
        """Return input, references (blank ones are counted and left out) and id, and everything wrong with the row.

        Example:
            >>> GENERATION_TASKS["e2e"].check_row({"mr": "name[Zizzi", "ref": "Zizzi is a pub."})[1][0].field
            'mr'
        """
        source, faults = read_source(row, lowercase_properties=self.lowercase_properties)
        references, more = read_references(row)
        kept = [each for each in references if each]
        blank = len(references) - len(kept)
        checked = {"id": row.get("id"), "source": source, "references": kept, "blank": blank, "label": None}
        return checked, [*faults, *more]

    def text_of(self, row: Mapping[str, Any]) -> Hashable:
        """Return the input of a row.

        Example:
            >>> GENERATION_TASKS["e2e"].text_of({"source": "name : Zizzi"})
            'name : Zizzi'
        """
        source: str = row["source"]
        return source


# The metrics are those of the LoRA paper's tables (arXiv:2106.09685), chrF beside, and TER without METEOR, which needs
# Java and is asked for by name. The length penalties are those of its appendix; the authors' script for E2E
# (https://github.com/microsoft/LoRA, examples/NLG/README.md) has 0.8. The hub's ids were not tried.
GENERATION_TASKS: dict[str, GenerationTask] = {
    task.name: task
    for task in (
        GenerationTask(
            "e2e",
            other_metrics=("nist", "rouge_l", "cider", "chrf", "ter"),
            length_penalty=0.9,
            hub="tuetschek/e2e_nlg",
        ),
        GenerationTask(
            "webnlg",
            other_metrics=("ter", "chrf"),
            length_penalty=0.8,
            hub="webnlg-challenge/web_nlg",
            hub_config="webnlg_challenge_2017",
        ),
        GenerationTask(
            "dart",
            other_metrics=("ter", "chrf"),
            length_penalty=0.8,
            lowercase_properties=True,
            hub="Yale-LILY/dart",
        ),
    )
}
