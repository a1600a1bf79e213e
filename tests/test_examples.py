"""The example of a variant of one's own runs, and the page that explains it says what it holds."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from programs import run_glue
from tracked_files import ROOT, code_blocks
from transformers import BertConfig, BertForSequenceClassification

from bilora import magnitudes
from bilora.errors import SettingsError
from bilora.files.formats import load_json
from bilora.problems import find_variant
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
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 60


def test_the_page_shows_the_code_of_the_example() -> None:
    code = EXAMPLE.read_text(encoding="utf-8")
    assert len(code_blocks(PAGE, "python")) == 3
    assert [block for block in code_blocks(PAGE, "python") if block not in code] == []


def test_the_settings_of_the_page_load() -> None:
    for block in code_blocks(PAGE, "yaml"):
        config = RunConfig(**yaml.safe_load(block))
        assert (config.settings_of(NAME).rank, config.settings_of(NAME).sparsity) == (4, 0.05)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="adapter: sparsity is -1.0, it must not be negative"):
        find_variant(NAME).settings(sparsity=-1.0)


def test_the_penalty_is_the_mean_absolute_value() -> None:
    variant = find_variant(NAME)
    settings = variant.settings(rank=3, sparsity=2.0, start_value=-0.5)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    base = BertForSequenceClassification(BertConfig(vocab_size=30, **size))
    model = variant.adapt(base, settings, task_type="SEQ_CLS", steps=1)
    assert variant.upper is not None
    penalty = variant.upper("upper", module=model, extra_config=settings).penalty()
    assert penalty is not None
    torch.testing.assert_close(penalty.item(), 1.0)
    assert all(values.shape == (3,) for values in magnitudes(model).values())


def test_it_runs_beside_bilora(tiny_encoder: Path, review_file: Path, tmp_path: Path) -> None:
    """In the real program, which finds it from the checkout."""
    data = f"--train-file {review_file} --text-columns text --model {tiny_encoder} --max-length 16 --device cpu"
    small = "--steps 8 --unroll-steps 2 --seeds 0 --validate-every 8 --lower.learning-rate 0.003"
    words = f"--method {NAME} bilora {data} {small} --upper.learning-rate 0.1 --output {tmp_path}/out"
    ended = run_glue(*words.split())
    assert ended.code == 0, ended.err
    folder = tmp_path / "out" / f"{NAME.replace(':', '-')}-seed0"
    stages = load_json(folder / "all_results.json")["stages"]
    assert [stage["name"] for stage in stages] == ["bilevel", "prune"]
    kept = {layer["layer"]: layer["kept"] for layer in load_json(folder / "spectrum.json")}
    ranks = load_json(folder / "adapter" / "adapter_config.json")["rank_pattern"]
    assert {pattern.replace("\\", "").removeprefix("^"): rank for pattern, rank in ranks.items()} == {
        layer: max(1, rank) for layer, rank in kept.items() if max(1, rank) != 8
    }
    assert ranks, "nothing was cut"
    assert "layer" in ended.out and "magnitudes" in ended.out
