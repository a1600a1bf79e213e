"""The example of a variant of one's own runs, and the page that explains it says what it holds."""

import ast
import inspect
import math
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from programs import run_glue
from torch import nn
from torch.nn import functional
from tracked_files import ROOT, code_blocks

from bilora.data.row_marks import TrainingRows
from bilora.engines import Callback
from bilora.errors import SettingsError
from bilora.files.formats import load_json
from bilora.problems import Companion, LowerProblem, UpperProblem, find_variant
from bilora.runs.config import RunConfig

EXAMPLE = ROOT / "examples" / "my_variant.py"
PAGE = (ROOT / "docs" / "write-your-own-variant.md").read_text(encoding="utf-8")
NAME = "examples.my_variant:VARIANT"


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a script: where it is run from is no place that Python looks in, and nothing is imported before."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if Path(path).resolve() != ROOT])
    for name in ("examples", "examples.my_variant"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 80


def test_the_page_shows_the_code_of_the_example() -> None:
    """And, where it starts from scratch, that of a variant of the library."""
    code = EXAMPLE.read_text(encoding="utf-8") + (ROOT / "problems/variants/bidora.py").read_text(encoding="utf-8")
    assert len(code_blocks(PAGE, "python")) == 6
    assert [block for block in code_blocks(PAGE, "python") if block not in code] == []


def subclasses(kind: type) -> Iterator[type]:
    for below in kind.__subclasses__():
        yield from (below, *subclasses(below))


def does_nothing(method: object) -> bool:
    """Whether a method of the library has a docstring alone."""
    if not inspect.isfunction(method) or not method.__module__.startswith("bilora."):
        return False
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(method))).body
    assert isinstance(function, ast.FunctionDef)
    return len(function.body) == 1


@pytest.mark.parametrize("base", [LowerProblem, UpperProblem, Companion, Callback])
def test_the_page_names_every_hook(base: type) -> None:
    """Every method that is there to be overridden, and every one that a variant of the library does override."""
    variants = [kind for kind in subclasses(base) if kind.__module__.startswith("bilora.problems.variants.")]
    overridden = {name for kind in variants for name in vars(kind) if callable(getattr(base, name, None))}
    empty = {name for name in dir(base) if does_nothing(getattr(base, name))}
    hooks = {name for name in overridden | empty if not name.startswith("_")}
    assert len(hooks) >= 2
    assert [name for name in sorted(hooks) if f"`{name}" not in PAGE] == []


def test_the_settings_of_the_page_load() -> None:
    for block in code_blocks(PAGE, "yaml"):
        config = RunConfig(**yaml.safe_load(block))
        assert (config.settings_of(NAME).rank, config.settings_of(NAME).shrinkage) == (4, 0.05)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="adapter: shrinkage is -1.0, it must not be negative"):
        find_variant(NAME).settings(shrinkage=-1.0)


def test_the_loss_is_that_of_weighted_classes_and_the_penalty_a_mean_square() -> None:
    variant = find_variant(NAME)
    settings = variant.settings(shrinkage=2.0)
    assert variant.upper is not None
    assert variant.companion is not None
    weights: Any = variant.companion(nn.Linear(1, 1), settings, TrainingRows(4, (3, 1)))
    with torch.no_grad():
        weights.raw.copy_(torch.tensor([0.0, 3.0]).log1p())  # softmax 1/5 and 4/5
    logits, labels = torch.tensor([[1.0, -1.0], [0.5, 0.0]]), torch.tensor([0, 1])
    plain = functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(weights.row_losses(logits, {"labels": labels}), plain * torch.tensor([0.4, 1.6]))
    upper: Any = variant.upper("upper", module=nn.Linear(1, 1), extra_config=settings)
    upper.companion = weights
    assert upper.penalty().item() == pytest.approx(math.log(4) ** 2)


def test_it_runs_beside_lora(tiny_encoder: Path, review_file: Path, tmp_path: Path) -> None:
    """In the real program, which finds it from the checkout."""
    data = f"--train-file {review_file} --text-columns text --model {tiny_encoder} --max-length 16 --device cpu"
    small = "--steps 8 --unroll-steps 2 --seeds 0 --validate-every 8 --lower.learning-rate 0.003"
    words = f"--method {NAME} lora {data} {small} --upper.learning-rate 0.1 --output {tmp_path}/out"
    ended = run_glue(*words.split())
    assert ended.code == 0, ended.err
    folder = tmp_path / "out" / f"{NAME.replace(':', '-')}-seed0"
    stages = load_json(folder / "all_results.json")["stages"]
    assert [stage["name"] for stage in stages] == ["bilevel", "retrain"]
    learned = load_json(folder / "learned.json")
    assert sum(learned["weights"].values()) == pytest.approx(len(learned["weights"]), rel=1e-5)
    assert learned["words"].startswith("weight by class: ")
