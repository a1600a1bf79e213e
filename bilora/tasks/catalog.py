"""The tasks the library knows by name; each is one row of a table."""

import functools

from bilora.errors import SettingsError
from bilora.settings.lookup import find
from bilora.tasks.generation.task import GenerationTask
from bilora.tasks.task import AnyTask
from bilora.tasks.text.task import TextTask
from bilora.tasks.tokens.task import TokenTask

Task = TextTask
"""The name under which ``bilora.tasks`` exports the class."""

_SENTENCES = ("sentence1", "sentence2")
_MNLI_LABELS = ("entailment", "neutral", "contradiction")
_MNLI_SPLITS = ("validation_matched", "validation_mismatched")
_glue = functools.partial(TextTask, hub="nyu-mll/glue")

# Field and label names are those of the hub's GLUE; the headline metrics are those of the tables in
# the LoRA paper (arXiv:2106.09685, Table 2), beside which results of this method are read.
_TEXT_TASKS = (
    _glue("cola", ("sentence",), ("unacceptable", "acceptable"), metric="matthews_correlation"),
    _glue("sst2", ("sentence",), ("negative", "positive")),
    _glue("mrpc", _SENTENCES, ("not_equivalent", "equivalent"), other_metrics=("f1",)),
    _glue("stsb", _SENTENCES, None, metric="pearson", other_metrics=("spearmanr",), label_range=(0.0, 5.0)),
    _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), other_metrics=("f1",)),
    _glue("mnli", ("premise", "hypothesis"), _MNLI_LABELS, validation_splits=_MNLI_SPLITS),
    _glue("qnli", ("question", "sentence"), ("entailment", "not_entailment")),
    _glue("rte", _SENTENCES, ("entailment", "not_entailment")),
    _glue("wnli", _SENTENCES, ("not_entailment", "entailment")),
    TextTask("rotten_tomatoes", ("text",), ("negative", "positive")),
)
TASKS = {task.name: task for task in _TEXT_TASKS}

# The NCBI disease corpus (Dogan, Leaman and Lu 2014): one type of entity in abstracts of PubMed.
TOKEN_TASKS = {"ncbi_disease": TokenTask("ncbi_disease", ("O", "B-Disease", "I-Disease"))}

# The metrics are those of the LoRA paper's tables (arXiv:2106.09685), chrF beside, and TER without METEOR, which needs
# Java and is asked for by name. The length penalties are those of its appendix; the authors' script for E2E
# (https://github.com/microsoft/LoRA, examples/NLG/README.md) has 0.8. The hub's ids were not tried.
_triples = functools.partial(GenerationTask, other_metrics=("ter", "chrf"), length_penalty=0.8)
_E2E_METRICS = ("nist", "rouge_l", "cider", "chrf", "ter")
_GENERATION_TASKS = (
    GenerationTask("e2e", other_metrics=_E2E_METRICS, length_penalty=0.9, hub="tuetschek/e2e_nlg"),
    _triples("webnlg", hub="webnlg-challenge/web_nlg", hub_config="webnlg_challenge_2017"),
    _triples("dart", lowercase_properties=True, hub="Yale-LILY/dart"),
)
GENERATION_TASKS = {task.name: task for task in _GENERATION_TASKS}

ALL_TASKS: dict[str, AnyTask] = {**TASKS, **TOKEN_TASKS, **GENERATION_TASKS}
"""Every task by name, of all kinds."""


def find_task(name: str) -> AnyTask:
    """Return the task called ``name``, or a user's own at ``package.module:NAME``.

    Args:
        name: A key of ``ALL_TASKS``, or a dotted path, a colon and the name of a ``Task`` or a task of another kind.

    Returns:
        The task.

    Raises:
        SettingsError: There is no such task, or the path leads to something else than a task.

    Example:
        >>> find_task("qnli").text_fields
        ('question', 'sentence')
    """
    task: object = find(ALL_TASKS, name, kind="task")
    if isinstance(task, AnyTask):
        return task
    cure = "it must be a bilora.tasks.Task, or have the members of bilora.tasks.task.AnyTask"
    raise SettingsError(f"task {name!r} is a {type(task).__name__}; {cure}")
