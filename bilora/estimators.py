"""The trainings of this library as estimators of scikit-learn: ``fit`` on texts and labels, and ``predict``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from bilora.artifacts.adapter_files import save_adapter
from bilora.commands.train_config import TrainConfig
from bilora.compare.config import with_values
from bilora.data.rows import check_rows
from bilora.data.sets import TaskRows
from bilora.errors import SHORT, DataError
from bilora.models.pretrained import quiet_transformers
from bilora.runs.config import RunConfig
from bilora.runs.plan import plan_run
from bilora.runs.run import adapted, fit_adapted, prepare
from bilora.runs.trained import Trained, open_trained
from bilora.tasks.kinds import write_task
from bilora.tasks.text.task import TextTask

# What errors call the rows, as scikit-learn does.
SOURCE = "X"


class _TextEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """What classifier and regressor have in common: texts in, a trained adapter behind it."""

    def __init__(
        self,
        *,
        model: str | None = None,
        method: str = "self_tuned",
        epochs: float | None = None,
        steps: int | None = None,
        max_length: int = 128,
        precision: str = "auto",
        device: str = "auto",
        random_state: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        # Nothing is looked at here: clone() and set_params() set what fit() checks.
        self.model = model
        self.method = method
        self.epochs = epochs
        self.steps = steps
        self.max_length = max_length
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.settings = settings

    def _fit(
        self, rows: list[dict[str, Any]], labels: Sequence[Any], *, names: tuple[str, ...] | None, metric: str
    ) -> None:
        quiet_transformers()
        if len(rows) != len(labels):
            raise DataError(f"X has {len(rows):,} texts and y {len(labels):,} labels; give one label a text")
        fields = tuple(rows[0])
        task = TextTask(SOURCE, fields, names, metric=metric, labels_from=None if names is None else "y")
        labelled = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
        train = check_rows(enumerate(labelled, start=1), task, source=SOURCE, split="train")
        config = self._config(len(train))
        # The training rows in the place of validation rows, at which nothing looks: a run has at least one set.
        plan = plan_run(config, TaskRows(task, train, {"train": train}))
        prepared = prepare([plan])
        model, _ = adapted(plan, prepared)
        encoded = task.encode(plan.train, prepared.tokenizer.own, max_length=config.max_length)
        self.result_ = fit_adapted(model, encoded, plan, prepared)
        self.trained_ = Trained(Path(), task, prepared.tokenizer, model.eval(), config.max_length)
        self.n_features_in_ = len(fields)

    def _config(self, rows: int) -> RunConfig:
        given = TrainConfig(
            method=self.method,
            model=self.model,
            max_length=self.max_length,
            precision=self.precision,  # type: ignore[arg-type]  # looked at there
            device=self.device,
            seed=self.random_state,
            steps=self.steps,
            epochs=self.epochs,
            # No row is held out.
            validate_every=0,
            early_stopping=0,
            keep_best=False,
            refresh=0,
        )
        config = with_values(given, dict(self.settings or {}), method=self.method, label="settings")
        assert isinstance(config, TrainConfig)  # as given
        return config.run_config(steps=config.steps_for(rows))

    def _answers(self, texts: Any) -> list[dict[str, Any]]:
        check_is_fitted(self)
        return self.trained_.answers(_texts(texts, columns=self.n_features_in_))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if (trained := state.pop("trained_", None)) is not None:
            # The files of the adapter: the base model is where it was, and would make every pickle as large as it is.
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                save_adapter(trained.model, folder)
                write_task(folder, trained.task, max_length=trained.max_length)
                state["adapter"] = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
                state["base"] = trained.tokenizer.place
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files, base = state.pop("adapter", None), state.pop("base", None)
        super().__setstate__(state)
        if files is None:
            return
        folder = Path(tempfile.mkdtemp())
        try:
            for name, content in files.items():
                (folder / name).write_bytes(content)
            self.trained_ = open_trained(folder, model=base, device=self.device)
        finally:
            shutil.rmtree(folder)


class BiloraClassifier(ClassifierMixin, _TextEstimator):  # type: ignore[misc]  # as above
    """A classifier of texts, or of pairs of texts, as scikit-learn has them.

    Args:
        model: Hub id or folder of a pre-trained model; None is the embedded MiniLM.
        method: Name of the variant, or ``package.module:NAME``.
        epochs: Passes of the lower level over its rows, where ``steps`` is None; None is ten, and at least 40 steps.
        steps: Lower optimizer steps.
        max_length: Largest number of tokens of a text.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``auto``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        random_state: Seed of the split, the data order and the dropout masks.
        settings: Other settings of :class:`~bilora.runs.config.RunConfig` by name, of a level or of the adapter with a
            dot: ``{"lower.learning_rate": 1e-3, "settings.rank": 4}``.

    Attributes:
        classes_: The labels there are, in order.
        result_: What the training gave, a :class:`~bilora.engines.training.result.FitResult`.
        trained_: Model, tokenizer and task.

    Raises:
        SettingsError, DataError: In ``fit``, where a setting or a row cannot be used.

    Example:
        >>> classifier = BiloraClassifier(method="lora", steps=2, settings={"lower.batch_size": 4})
        >>> classifier.fit(["good", "bad", "fine", "poor"], ["yes", "no", "yes", "no"]).classes_.tolist()
        ['no', 'yes']
        >>> classifier.predict_proba(["good", "bad", "so so"]).shape
        (3, 2)
    """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803  # scikit-learn's name
        """Train on texts ``X`` (strings, or rows of two) and their labels ``y``, of any type that can be sorted."""
        rows, labels = _texts(X), numpy.asarray(y)
        if type_of_target(labels) not in ("binary", "multiclass"):
            raise DataError(f"y is {SHORT.repr(y)}; a classifier takes one class a text, BiloraRegressor numbers")
        self.classes_, indices = numpy.unique(labels, return_inverse=True)
        names = tuple(map(str, self.classes_.tolist()))
        if len(names) < 2:
            raise DataError(f"y has one class, {names[0]!r}; a classifier needs two")
        self._fit(rows, [names[index] for index in indices], names=names, metric="accuracy")
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Return the class of each text, ``(texts,)``."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """Return the probability of each class, ``(texts, classes)``, in the order of ``classes_``."""
        return numpy.array([list(answer["probabilities"].values()) for answer in self._answers(X)])


class BiloraRegressor(RegressorMixin, _TextEstimator):  # type: ignore[misc]  # as above
    """A regression on texts, or on pairs of texts, as scikit-learn has it; it takes what BiloraClassifier takes.

    Example:
        >>> regressor = BiloraRegressor(method="lora", steps=2, settings={"lower.batch_size": 4})
        >>> regressor.fit(["good", "bad", "fine", "poor"], [4.0, 1.0, 3.5, 1.5]).predict(["so so"]).shape
        (1,)
    """

    metric: ClassVar[str] = "pearson"

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Train on texts ``X`` (strings, or rows of two) and numbers ``y``."""
        self._fit(_texts(X), numpy.asarray(y, dtype=float).tolist(), names=None, metric=self.metric)
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Return a number for each text, ``(texts,)``."""
        return numpy.array([answer["prediction"] for answer in self._answers(X)])


def _texts(given: Any, *, columns: int | None = None) -> list[dict[str, Any]]:
    """Return texts, or pairs of texts, as rows; tables of one or two columns are taken too."""
    if isinstance(given, str) or not hasattr(given, "__len__") or len(given) == 0:
        raise DataError(f"X is {SHORT.repr(given)}; give a list of texts, or of pairs of texts")
    rows = numpy.asarray(given, dtype=object)
    if rows.ndim == 1:
        rows = rows[:, None]
    if rows.ndim != 2 or rows.shape[1] not in (1, 2):
        raise DataError(f"X has the shape {numpy.shape(given)}; give a list of texts, or of pairs of texts")
    if columns not in (None, rows.shape[1]):
        raise DataError(f"X has {rows.shape[1]} texts a row, and the estimator was fitted with {columns}")
    fields = ("text",) if rows.shape[1] == 1 else ("text1", "text2")
    return [dict(zip(fields, row, strict=True)) for row in rows.tolist()]
