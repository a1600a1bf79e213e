"""Exported adapters against the model they came from, here and by stock PEFT in a process that never imports bilora."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from bilora.adapter.config import BiloraConfig
from bilora.adapter.export import check_folder, export_lora, write_export
from bilora.adapter.layer import BiloraLinear
from bilora.errors import SettingsError
from bilora.files.whole_folders import UNFINISHED, sha256_of

QUERY = "bert.encoder.layer.0.attention.self.query"
VALUE = "bert.encoder.layer.0.attention.self.value"


@pytest.fixture
def trained(tiny: Any) -> PeftModel:
    """A tiny BERT with a trained adapter of real values, so that single ones can be set to zero."""
    return tiny.trained(formulation="real")


def _layer(model: PeftModel, name: str) -> BiloraLinear:
    layer = model.get_base_model().get_submodule(name)
    assert isinstance(layer, BiloraLinear)
    return layer


def _kill(model: PeftModel, name: str, count: int) -> None:
    with torch.no_grad():
        _layer(model, name).bilora_E["default"][:count] = 0.0


def _settings(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "adapter_config.json").read_text()))


def _bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_dead_ranks_and_layers_are_dropped(tiny: Any, trained: PeftModel, tmp_path: Path) -> None:
    _kill(trained, QUERY, 3)
    _kill(trained, VALUE, 4)
    export = export_lora(trained, tmp_path)
    assert export.folder == tmp_path
    assert export.ranks[QUERY] == 1 and export.dropped[QUERY] == 3
    assert export.ranks[VALUE] == 0 and export.dropped[VALUE] == 4
    assert sorted(export.ranks.values()) == [0, 1, 4, 4]
    settings = _settings(tmp_path)
    assert VALUE not in settings["target_modules"] and len(settings["target_modules"]) == 3
    assert settings["rank_pattern"] == settings["alpha_pattern"] == {"^" + QUERY.replace(".", r"\."): 1}
    assert settings["r"] == settings["lora_alpha"] == 4
    # Stock PEFT reads past weights that it does not know: without a word they would go along for ever.
    assert not any("bilora" in key for key in load_file(tmp_path / "adapter_model.safetensors"))
    torch.testing.assert_close(tiny.logits(tiny.loaded(tmp_path)), tiny.logits(trained), rtol=0, atol=1e-5)


def test_uniform_rank_needs_no_patterns(tiny: Any, trained: PeftModel, tmp_path: Path) -> None:
    _kill(trained, QUERY, 3)
    export = export_lora(trained, tmp_path, uniform_rank=True)
    assert export.ranks[QUERY] == 1
    settings, tensors = _settings(tmp_path), load_file(tmp_path / "adapter_model.safetensors")
    assert settings["rank_pattern"] == settings["alpha_pattern"] == {}
    assert {tensor.shape[0] for key, tensor in tensors.items() if "lora_A" in key} == {4}
    torch.testing.assert_close(tiny.logits(tiny.loaded(tmp_path)), tiny.logits(trained), rtol=0, atol=1e-5)


def test_a_larger_tolerance_drops_more_and_says_so(trained: PeftModel, tmp_path: Path) -> None:
    exact = export_lora(trained, tmp_path / "exact")
    rough = export_lora(trained, tmp_path / "rough", tolerance=0.5)
    assert sum(exact.dropped.values()) == 0 < sum(rough.dropped.values())
    for name, kept in rough.ranks.items():
        sigma = torch.linalg.svdvals(_layer(trained, name).get_delta_weight("default").detach())
        assert kept == int((sigma > 0.5 * sigma[0]).sum())
    report = json.loads((tmp_path / "rough" / "bilora_export.json").read_text())
    digest = sha256_of(tmp_path / "rough" / "adapter_model.safetensors")
    assert report == {"ranks": rough.ranks, "dropped": rough.dropped, "weights_sha256": digest}


def test_a_rule_keeps_the_largest_part_of_the_update(trained: PeftModel, tmp_path: Path) -> None:
    export = export_lora(trained, tmp_path, ranks=lambda sizes: {name: 1 + (name == QUERY) for name in sizes})
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    for name, rank in export.ranks.items():
        assert rank == 1 + (name == QUERY)
        U, sigma, Vh = torch.linalg.svd(_layer(trained, name).get_delta_weight("default").detach(), full_matrices=False)
        A, B = (tensors[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
        torch.testing.assert_close(B @ A, U[:, :rank] * sigma[:rank] @ Vh[:rank], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("base", "written"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_factors_are_not_rounded(base: torch.dtype, written: torch.dtype, tmp_path: Path) -> None:
    config = BiloraConfig(r=2, alpha=6.0, normalized=False, target_modules=["0"], init_weights=False)
    model = get_peft_model(nn.Sequential(nn.Linear(6, 5)).to(base), config, autocast_adapter_dtype=False)
    layer = _layer(model, "0")
    assert layer.bilora_P["default"].dtype == base
    export_lora(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    A, B = (tensors[f"base_model.model.0.lora_{factor}.weight"] for factor in "AB")
    assert A.dtype == B.dtype == written
    P, s, Q = (part["default"].detach().double() for part in (layer.bilora_P, layer.bilora_E, layer.bilora_Q))
    exact = (P * s * 3.0) @ Q  # alpha / r is 3
    torch.testing.assert_close(B.double() @ A.double(), exact, rtol=0, atol=8 * torch.finfo(written).eps)


def test_an_untrained_adapter_exports_as_the_base_model(tiny: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="acts as the base model"):
        export = export_lora(tiny.adapted(), tmp_path)
    assert set(export.ranks.values()) == {0}
    torch.testing.assert_close(tiny.logits(tiny.loaded(tmp_path)), tiny.logits(tiny.base()))


def test_settings_that_readers_need_are_copied(tiny: Any, tmp_path: Path) -> None:
    tiny.base().save_pretrained(tmp_path / "base")
    base = type(tiny.base()).from_pretrained(tmp_path / "base")
    model = tiny.trained(base=base, revision="abc", modules_to_save=["pooler"])
    folder = export_lora(model, tmp_path / "export").folder
    settings = _settings(folder)
    assert settings["peft_type"] == "LORA" and settings["task_type"] == "SEQ_CLS"
    assert settings["base_model_name_or_path"] == str(tmp_path / "base") and settings["revision"] == "abc"
    assert set(settings["modules_to_save"]) == {"pooler", "classifier", "score"}
    assert settings["inference_mode"] is True and settings["use_rslora"] is False
    assert any("pooler.dense.weight" in key for key in load_file(folder / "adapter_model.safetensors"))


def test_without_a_task_the_class_of_the_base_is_kept(tiny: Any, tmp_path: Path) -> None:
    export_lora(tiny.trained(task_type=None), tmp_path)
    assert _settings(tmp_path)["auto_mapping"]["base_model_class"] == "BertForSequenceClassification"


def test_what_the_adapter_says_of_its_base_is_kept(trained: PeftModel, tmp_path: Path) -> None:
    """And not what the model at hand says of itself, which may be a copy somewhere else."""
    said = {"auto_mapping": {"base_model_class": "Mine", "parent_library": "ours"}, "base_model_name_or_path": "hub/it"}
    vars(trained.peft_config["default"]).update(said, task_type=None)
    with pytest.warns(UserWarning, match="Could not find a config file in hub/it"):  # PEFT looks for it there
        export_lora(trained, tmp_path)
    assert _settings(tmp_path).items() >= said.items()


def test_one_of_several_adapters(tiny: Any, trained: PeftModel, tmp_path: Path) -> None:
    trained.add_adapter("second", BiloraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"))
    trained.set_adapter("second")
    tiny.train(trained)
    assert set(export_lora(trained, tmp_path, adapter_name="second").ranks.values()) == {2}
    torch.testing.assert_close(tiny.logits(tiny.loaded(tmp_path)), tiny.logits(trained), rtol=0, atol=1e-5)


def test_a_name_that_is_the_end_of_another_ones(tmp_path: Path) -> None:
    """Only the first ``lin`` is alive; PEFT would take the name ``lin`` for ``block.lin``, too."""

    base = nn.ModuleDict({"lin": nn.Linear(3, 3), "block": nn.ModuleDict({"lin": nn.Linear(3, 3)})})
    config = BiloraConfig(r=2, normalized=False, target_modules=["lin"], init_weights=False)
    model = get_peft_model(copy.deepcopy(base), config)
    _kill(model, "block.lin", 2)
    export_lora(model, tmp_path)
    names = [name for name, _ in PeftModel.from_pretrained(base, tmp_path).named_modules()]
    assert [name for name in names if name.endswith("lora_A")] == ["base_model.model.lin.lora_A"]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")  # PEFT tells a layer
@pytest.mark.parametrize("kinds", [(Conv1D, nn.Linear), (nn.Linear, Conv1D)], ids=["conv1d first", "linear first"])
def test_conv1d_beside_linear(kinds: tuple[type[nn.Module], ...], tmp_path: Path) -> None:
    base, x = nn.Sequential(*(kind(3, 3) for kind in kinds)), torch.randn(4, 3)
    config = BiloraConfig(r=2, alpha=2.0, target_modules=["0", "1"], init_weights=False)
    model = get_peft_model(copy.deepcopy(base), config)
    export_lora(model, tmp_path)
    # PEFT itself writes so where any layer is a Conv1D.
    assert _settings(tmp_path)["fan_in_fan_out"] is True
    loaded = PeftModel.from_pretrained(base, tmp_path)
    torch.testing.assert_close(loaded(x), model(x))
    torch.testing.assert_close(loaded.merge_and_unload()(x), model(x))


def test_equal_exports_are_equal_files_and_replace_each_other(trained: PeftModel, tmp_path: Path) -> None:
    export_lora(trained, tmp_path)
    first = _bytes(tmp_path)
    export_lora(trained, tmp_path)
    assert _bytes(tmp_path) == first
    assert set(first) == {"adapter_config.json", "adapter_model.safetensors", "bilora_export.json"}


def test_a_folder_with_something_else_is_left_alone(trained: PeftModel, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path)
    before = _bytes(tmp_path)
    with pytest.raises(SettingsError, match="holds .*adapter_config.json.*not an earlier export"):
        export_lora(trained, tmp_path)
    assert _bytes(tmp_path) == before
    with pytest.raises(SettingsError, match="is a file"):
        export_lora(trained, tmp_path / "README.md")


def test_nothing_is_written_beside_a_link(trained: PeftModel, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").symlink_to(tmp_path.parent / "elsewhere")
    with pytest.raises(SettingsError, match=r"adapter_config.json is a link to .*elsewhere"):
        export_lora(trained, tmp_path)


def test_an_export_that_was_cut_off_is_known_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves its mark, which is put there first; what a kill leaves beside is cleared away by the next."""
    put, names = os.replace, list[str]()

    def killed_at_the_second(source: Path, target: Path) -> None:
        names.append(target.name)
        if len(names) == 2:
            raise KeyboardInterrupt
        put(source, target)

    monkeypatch.setattr(os, "replace", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path, ranks={"x": 1})
    monkeypatch.undo()
    # What it was written in stays too, as the sign that it is not finished.
    assert sorted(path.name.startswith(UNFINISHED) for path in tmp_path.iterdir()) == [False, True]
    assert (tmp_path / "bilora_export.json").is_file()
    (tmp_path / f"{UNFINISHED}killed").mkdir()
    _write(check_folder(tmp_path), ranks={"x": 2})
    assert set(_bytes(tmp_path)) == {"adapter_config.json", "adapter_model.safetensors", "bilora_export.json"}


def test_a_folder_in_which_an_export_was_killed_before_its_first_file_is_taken(tmp_path: Path) -> None:
    (tmp_path / f"{UNFINISHED}killed").mkdir()
    assert check_folder(tmp_path) == tmp_path


def test_models_without_such_an_adapter_are_refused(tiny: Any, trained: PeftModel, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'other'; its adapters: 'default' \(PeftType.BILORA\)"):
        export_lora(trained, tmp_path, adapter_name="other")
    lora = get_peft_model(tiny.base(), LoraConfig(task_type="SEQ_CLS"))
    with pytest.raises(SettingsError, match=r"'default' \(PeftType.LORA\)"):
        export_lora(lora, tmp_path)
    with pytest.raises(SettingsError, match=r"BertForSequenceClassification\) has no BiLoRA adapter"):
        export_lora(tiny.base(), tmp_path)  # type: ignore[arg-type]


def test_what_cannot_be_exported_whole_is_refused(trained: PeftModel, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="tolerance is 1.0"):
        export_lora(trained, tmp_path, tolerance=1.0)
    with torch.no_grad():
        _layer(trained, QUERY).bilora_P["default"][0, 0] = float("inf")
    with pytest.raises(SettingsError, match=f"{QUERY}.*not finite"):
        export_lora(trained, tmp_path)
    trained.get_base_model().bert.pooler.dense.bias.requires_grad_(True)
    with pytest.raises(SettingsError, match="saved nowhere"):
        export_lora(trained, tmp_path)


def _write(folder: Path, **report: object) -> None:
    write_export(folder, tensors={"a": torch.eye(2)}, config=LoraConfig(target_modules=["x"]), report=report)


def test_a_new_folder_is_made_and_an_export_may_be_replaced(tmp_path: Path) -> None:
    folder = check_folder(tmp_path / "new" / "export")
    assert folder.is_dir()
    _write(folder, ranks={"x": 1})
    _write(check_folder(folder), ranks={"x": 2})
    assert '"x": 2' in (folder / "bilora_export.json").read_text()


def test_a_failed_export_leaves_the_earlier_one_whole(tmp_path: Path) -> None:
    _write(tmp_path, ranks={"x": 1})
    before = _bytes(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        _write(tmp_path, ranks={"x": float("nan")})
    assert _bytes(tmp_path) == before


def test_tensors_that_share_memory_or_lie_transposed_are_written(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    config = LoraConfig(target_modules=["x"])
    write_export(tmp_path, tensors={"a": weight, "b": weight, "c": weight.T}, config=config, report={})
    written = load_file(tmp_path / "adapter_model.safetensors")
    assert torch.equal(written["a"], written["b"]) and torch.equal(written["c"], weight.T)


KINDS = ["bert", "roberta", "gpt2", "gpt2-classifier", "llama"]
FORMS: dict[str, dict[str, Any]] = {
    **{name: {"formulation": name} for name in ("real", "softmax", "softmax_sum_one", "binary")},
    "normalized": {"formulation": "real", "normalized": True},
}
LOADER = """
import json, sys, torch, transformers, warnings
from pathlib import Path
from peft import PeftModel
from safetensors.torch import load_file, save_file
root = Path(sys.argv[1])
logits = {}
tokens = load_file(root / "tokens.safetensors")["tokens"]
for job in json.loads((root / "jobs.json").read_text()):
    base = getattr(transformers, job["class"]).from_pretrained(root / job["kind"], attn_implementation="eager")
    with warnings.catch_warnings():
        # PEFT sets a wrong fan_in_fan_out right, and tells.
        warnings.filterwarnings("error", message="fan_in_fan_out is set")
        model = PeftModel.from_pretrained(base, root / job["name"]).eval()
    assert type(model).__name__ == job["wrapper"], type(model)
    with torch.no_grad():
        logits[job["name"]] = model(input_ids=tokens).logits
        logits[job["name"] + "/merged"] = model.merge_and_unload()(input_ids=tokens).logits
assert not any(name.split(".")[0] == "bilora" for name in sys.modules)
save_file({key: tensor.contiguous() for key, tensor in logits.items()}, root / "logits.safetensors")
"""


@pytest.fixture(scope="module")
def differences(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Largest difference in logits, by ``kind-form`` and by ``kind-form/merged``."""
    root = tmp_path_factory.mktemp("exports")
    save_file({"tokens": tiny.tokens}, root / "tokens.safetensors")
    expected, jobs = {}, []
    for kind in KINDS:
        tiny.base(kind).save_pretrained(root / kind)
        for form, settings in FORMS.items():
            model, name = tiny.trained(kind, **settings), f"{kind}-{form}"
            export_lora(model, root / name)
            expected[name] = tiny.logits(model)
            classes = {"class": type(model.get_base_model()).__name__, "wrapper": type(model).__name__}
            jobs.append({"name": name, "kind": kind, **classes})
    (root / "jobs.json").write_text(json.dumps(jobs))
    subprocess.run([sys.executable, "-c", LOADER, str(root)], check=True, cwd=root)
    logits = load_file(root / "logits.safetensors")
    return {key: (given - expected[key.removesuffix("/merged")]).abs().max().item() for key, given in logits.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_same_without_this_library(kind: str, form: str, differences: dict[str, float]) -> None:
    assert differences[f"{kind}-{form}"] <= 1e-5
    assert differences[f"{kind}-{form}/merged"] <= 2e-5
