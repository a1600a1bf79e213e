"""Trainings as estimators of scikit-learn, held against its contract; and a run opened in one line."""

import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score

import bilora
from bilora import BiloraClassifier, BiloraRegressor, DataError, SettingsError

TEXTS = ["a good film", "a bad film", "fine acting", "poor acting", "well done", "badly done", "great", "awful"]
LABELS = ["yes", "no"] * 4


@pytest.fixture(scope="module")
def small(tiny_encoder: Path) -> dict[str, Any]:
    """Parameters of a quick estimator."""
    settings = {"lower.batch_size": 2, "settings.rank": 2}
    return dict(
        model=str(tiny_encoder),
        method="lora",
        steps=3,
        max_length=16,
        device="cpu",
        precision="fp32",
        settings=settings,
    )


@pytest.fixture(scope="module")
def fitted(small: dict[str, Any]) -> BiloraClassifier:
    return BiloraClassifier(**small).fit(TEXTS, LABELS)


def test_parameters_are_those_of_scikit_learn(small: dict[str, Any], fitted: BiloraClassifier) -> None:
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params() == BiloraClassifier(**small).get_params()
    assert copy.set_params(steps=5).steps == 5
    with pytest.raises(ValueError, match="Invalid parameter 'rank'"):
        copy.set_params(rank=3)
    with pytest.raises(NotFittedError):
        copy.predict(TEXTS)


def test_a_classifier(fitted: BiloraClassifier) -> None:
    chances = fitted.predict_proba(TEXTS)
    assert fitted.classes_.tolist() == ["no", "yes"]
    numpy.testing.assert_allclose(chances.sum(axis=1), 1)
    right = [("no", "yes")[row.argmax()] == label for row, label in zip(chances, LABELS, strict=True)]
    assert fitted.predict(TEXTS).tolist() == [("no", "yes")[row.argmax()] for row in chances]
    assert fitted.score(TEXTS, LABELS) == sum(right) / len(right)
    # Held against the model itself, called by hand.
    tokens = fitted.trained_.tokenizer.own(TEXTS[:1], return_tensors="pt")
    with torch.no_grad():
        logits = fitted.trained_.model(**tokens).logits[0].double()
    numpy.testing.assert_allclose(chances[0], logits.softmax(dim=-1), atol=1e-6)


@pytest.mark.parametrize(
    "labels", [[0, 1] * 4, [True, False] * 4, [10, 2, 10, 2, 7, 7, 10, 2], numpy.array(["b", "a"] * 4)]
)
def test_labels_keep_their_type_and_order(small: dict[str, Any], labels: Any) -> None:
    classifier = BiloraClassifier(**small).fit(TEXTS, labels)
    assert classifier.classes_.tolist() == sorted(set(numpy.asarray(labels).tolist()))
    assert classifier.predict(TEXTS).dtype == numpy.asarray(labels).dtype


def test_equal_seeds_give_equal_estimators_and_others_do_not(small: dict[str, Any], fitted: BiloraClassifier) -> None:
    again = clone(fitted).fit(TEXTS, LABELS)
    other = clone(fitted).set_params(random_state=1).fit(TEXTS, LABELS)
    assert (again.predict_proba(TEXTS) == fitted.predict_proba(TEXTS)).all()
    assert (other.predict_proba(TEXTS) != fitted.predict_proba(TEXTS)).any()


def test_a_pickle_answers_as_before_and_holds_no_base(small: dict[str, Any], fitted: BiloraClassifier) -> None:
    content = pickle.dumps(fitted)
    assert (pickle.loads(content).predict_proba(TEXTS) == fitted.predict_proba(TEXTS)).all()
    weights = sum(path.stat().st_size for path in Path(small["model"]).glob("*.safetensors"))
    assert len(content) < weights
    assert pickle.loads(pickle.dumps(clone(fitted))).get_params() == fitted.get_params()


def test_searches_of_scikit_learn(small: dict[str, Any]) -> None:
    estimator = BiloraClassifier(**small)
    assert cross_val_score(estimator, TEXTS, LABELS, cv=2).shape == (2,)
    search = GridSearchCV(estimator, {"steps": [2, 3]}, cv=2).fit(TEXTS, LABELS)
    assert search.best_params_["steps"] in (2, 3)
    assert search.predict(TEXTS[:2]).shape == (2,)


def test_the_default_method_learns_two_levels(small: dict[str, Any]) -> None:
    settings = {**small["settings"], "upper.batch_size": 2}
    texts, labels = TEXTS * 12, LABELS * 12
    classifier = BiloraClassifier(**{**small, "method": "self_tuned", "settings": settings}).fit(texts, labels)
    assert classifier.result_.upper_steps > 0
    assert set(classifier.result_.learned["decays"]) == {"adapters", "head"}


def test_pairs_of_texts_and_numbers(small: dict[str, Any]) -> None:
    pairs = [[text, other] for text, other in zip(TEXTS, reversed(TEXTS), strict=True)]
    numbers = numpy.linspace(-3, 5, len(pairs))
    regressor = BiloraRegressor(**small).fit(pairs, numbers)
    assert regressor.predict(pairs).shape == numbers.shape
    assert regressor.score(pairs, numbers) <= 1
    with pytest.raises(DataError, match="X has 1 texts a row, and the estimator was fitted with 2"):
        regressor.predict(TEXTS)
    # The scale of the labels is in the weights that are saved, and beside them in those that were trained.
    again = pickle.loads(pickle.dumps(regressor)).predict(pairs)
    numpy.testing.assert_allclose(again, regressor.predict(pairs), rtol=1e-5)


@pytest.mark.parametrize(
    ("texts", "labels", "error", "message"),
    [
        ("one text", ["a"], DataError, "X is 'one text'; give a list of texts"),
        ([], [], DataError, r"X is \[\]; give a list"),
        (TEXTS, LABELS[1:], DataError, "X has 8 texts and y 7 labels"),
        (TEXTS, ["yes"] * 8, DataError, "y has one class, 'yes'; a classifier needs two"),
        (TEXTS, numpy.linspace(0, 1, 8), DataError, "a classifier takes one class a text"),
        ([*TEXTS[:7], ""], LABELS, DataError, "X:8 field 'text': is empty; every row needs text"),
        ([*TEXTS[:7], 3], LABELS, DataError, r"X:8 field 'text': is 3 \(int\); text is needed"),
        ([["a", "b", "c"]] * 8, LABELS, DataError, r"X has the shape \(8, 3\)"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    small: dict[str, Any], texts: Any, labels: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        BiloraClassifier(**small).fit(texts, labels)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "lorra"}, "lorra"),
        ({"steps": 0}, "steps is 0"),
        ({"epochs": -1.0, "steps": None}, "epochs is -1.0"),
        ({"settings": {"lower.lr": 1.0}}, "lr"),
        ({"settings": {"settings.rank": 0}}, "rank is 0"),
    ],
)
def test_settings_are_looked_at_by_fit(small: dict[str, Any], changed: dict[str, Any], message: str) -> None:
    estimator = BiloraClassifier(**{**small, **changed})
    with pytest.raises(SettingsError, match=message):
        estimator.fit(TEXTS, LABELS)


def test_a_run_in_one_line(command_run: Any) -> None:
    run = bilora.load(command_run.folder)
    predictions, answers = run.predict(TEXTS), run.answers([{"text": text} for text in TEXTS])
    assert predictions == [answer["prediction"] for answer in answers]
    assert set(predictions) <= set(run.task.label_names)
    for wrong, message in (
        ("a text", "give a list of texts"),
        ([], "give a list"),
        ([""], "texts:1 field 'text': is empty"),
    ):
        with pytest.raises(DataError, match=message):
            run.predict(wrong)
