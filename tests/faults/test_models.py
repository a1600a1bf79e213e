"""Rows 24, 25, 27 and 28: adapters and folders that are not what they seem, and no network."""

import hashlib
import json
import os
import pickle
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
import pytest
import torch
from fingerprint import assert_same
from peft import PeftModel
from safetensors.torch import load_file, save_file
from small_runs import Adapted, Run, tiny_base, trained
from torch import nn
from tracked_files import tracked_files

from bilora.adapter.export import export_lora
from bilora.artifacts.adapter_files import load_adapter, save_adapter
from bilora.engines.checkpoints.files import fault, manifest_sha256
from bilora.errors import CheckpointError, DataError, SettingsError
from bilora.models import pretrained

WEIGHTS = "adapter_model.safetensors"


# An adapter on another base of the same shapes is in tests/bilora/runs/test_trained_commands.py.
@pytest.fixture
def adapter(run: Run, tmp_path: Path) -> Path:
    """A trained adapter on the disk."""
    save_adapter(run().model, tmp_path / "adapter")
    # By the hash in it every change would be told alike.
    (tmp_path / "adapter" / "base_fingerprint.json").unlink()
    return tmp_path / "adapter"


def of_each(change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda weights: weights.update({name: change(tensor) for name, tensor in weights.items()})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.popitem(), "does not fit the model tiny: .*classifier.* is missing"),
        (lambda weights: weights.pop(next(iter(weights))), "does not fit the model tiny: .*missing in the file"),
        (lambda weights: weights.update(more=torch.ones(1)), "has weights that nothing takes, more among them"),
        (of_each(lambda tensor: tensor * torch.nan), "has numbers that are not finite"),
        (of_each(lambda tensor: tensor[:1]), "does not fit the model tiny: .*size mismatch"),
    ],
    ids=["missing head", "missing key", "extra key", "all NaN", "another rank"],
)
def test_row_24_an_adapter_that_is_not_whole(adapter: Path, change: Any, said: str) -> None:
    weights = load_file(adapter / WEIGHTS)
    change(weights)
    save_file(weights, adapter / WEIGHTS)
    with pytest.raises(DataError, match=said):
        load_adapter(tiny_base(), adapter, base_name="tiny")


@torch.no_grad()
def logits(model: Any) -> Any:
    tokens = torch.randint(1, 64, (4, 6), generator=torch.Generator().manual_seed(2))
    return model.eval()(input_ids=tokens).logits


def test_row_25_saved_and_loaded_merged_and_folded_it_is_the_same_model(run: Run, tmp_path: Path) -> None:
    """A checkpoint holds the adapter ready for use, too."""
    ended = run(save_every=8)
    expected = logits(ended.model)
    save_adapter(ended.model, tmp_path / "adapter")
    for adapter in (tmp_path / "adapter", ended.folder / "checkpoint-8" / "adapter"):
        assert torch.equal(logits(load_adapter(tiny_base(), adapter, base_name="tiny")), expected)
    export_lora(ended.model, tmp_path / "lora")
    folded = PeftModel.from_pretrained(tiny_base(), str(tmp_path / "lora"))
    torch.testing.assert_close(logits(folded), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits(ended.model.merge_and_unload()), expected, rtol=0, atol=1e-6)


class Canary:
    """A pickle that runs a command when it is loaded."""

    def __reduce__(self) -> Any:
        return (os.system, ("touch canary",))


def sealed(folder: Path, **entries: Any) -> None:
    """Put files into the manifest as an attacker would, who can hash as well as we can."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"] |= entries
    manifest["sha256"] = manifest_sha256(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_row_27_a_pickle_in_a_checkpoint_is_never_opened(run: Run, tmp_path: Path) -> None:
    folder = run(save_every=4).folder
    (folder / "checkpoint-8" / "optimizer.pt").write_bytes(pickle.dumps(Canary()))
    with pytest.warns(RuntimeWarning, match="optimizer.pt does not belong to it"):
        run(save_every=4, resume=True)
    assert not (tmp_path / "canary").exists()


@pytest.fixture
def checkpoint(run: Run) -> Path:
    return run(save_every=8).folder / "checkpoint-8"


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "adapter/../../secret"])
def test_row_27_a_manifest_cannot_point_outside(checkpoint: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    sealed(checkpoint, **{name: {"sha256": "0", "size": 6}})
    assert fault(checkpoint) == f"manifest.json names {name!r}, which is outside the checkpoint"


def test_row_27_links_are_not_followed(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "state.json").rename(tmp_path / "elsewhere.json")
    (checkpoint / "state.json").symlink_to(tmp_path / "elsewhere.json")
    assert fault(checkpoint) == "state.json is a link"


def test_row_27_a_header_that_claims_to_be_huge(run: Run, checkpoint: Path) -> None:
    content = (2**62).to_bytes(8, "little") + b"{}"
    (checkpoint / "state.safetensors").write_bytes(content)
    sealed(checkpoint, **{"state.safetensors": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}})
    with pytest.raises(CheckpointError, match="cannot be read"):
        run(save_every=8, resume=True)


def test_row_27_no_source_of_ours_reads_or_writes_pickles() -> None:
    for path in tracked_files("bilora/*.py", "problems/*.py", "engines/*.py"):
        source = path.read_text(encoding="utf-8")
        for word in ("torch.save(", "torch.load(", "import pickle", "trust_remote_code=True", "extractall("):
            assert word not in source, f"{path.name}: {word}"


def no_network(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("a socket was opened")


def test_row_28_a_run_opens_no_socket(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, no_network)
    save_adapter(run(save_every=4).model, tmp_path / "adapter")
    run(save_every=4, resume=True)
    load_adapter(tiny_base(), tmp_path / "adapter", base_name="tiny")


def test_row_28_a_hub_id_without_a_network_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> NoReturn:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    pretrained.only_local.cache_clear()
    started = time.monotonic()
    assert pretrained.only_local("nobody/no-such-model")
    assert time.monotonic() - started < 5
    pretrained.only_local.cache_clear()


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_reentrant_checkpointing_is_refused_with_the_cure(run: Run) -> None:
    """The layers would get no gradient, and stay as they are without a word."""
    on = Adapted()
    on.model.get_base_model().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(SettingsError, match=r"gradient_checkpointing_enable\(\{'use_reentrant': False\}\)"):
        run(on=on)


class Int8Tensor(nn.Parameter):
    """A stand-in for torchao's weights."""

    __module__ = "torchao.quantization"


@pytest.mark.parametrize("bias", [True, False])
def test_a_base_that_passes_no_gradient_back_is_refused_by_the_name_of_its_layer(
    run: Run, monkeypatch: pytest.MonkeyPatch, bias: bool
) -> None:
    """Its adapters would stay as they are without a word, as with torchao's configs that round the inputs too."""
    plain, quantised = Adapted(), Adapted()
    for on in (plain, quantised):
        dense: Any = on.model.get_submodule("base_model.model.bert.encoder.layer.1.output.dense")
        dense.bias = dense.bias if bias else None
    dense.weight = Int8Tensor(dense.weight.detach(), requires_grad=False)
    # One that passes it is trained, as if it were not quantised.
    assert_same(trained(run("quantised", on=quantised).model), trained(run("plain", on=plain).model))
    forward = dense.forward
    monkeypatch.setattr(dense, "forward", lambda x: forward(x.detach()))
    with pytest.raises(SettingsError, match=r"^layer '.*layer\.1\.output\.dense' is quantised .* Int8WeightOnlyConfig"):
        run("refused", on=quantised)


class Int8Params(nn.Parameter):
    """A stand-in for the weights of bitsandbytes in 8 bits."""


@pytest.mark.parametrize("method", ["lora", "dora", "bidora"])
def test_dora_on_8_bits_on_the_cpu_is_refused_with_the_cure(run: Run, method: str) -> None:
    """PEFT's own error is an AttributeError about NoneType, at the second pass."""
    on = Adapted(method)
    query: Any = on.model.get_submodule("base_model.model.bert.encoder.layer.0.attention.self.query.base_layer")
    query.weight = Int8Params(query.weight.detach(), requires_grad=False)
    if method == "lora":
        assert run(on=on).result.steps == 8
        return
    with pytest.raises(SettingsError, match=r"^layer '.*\.query' has DoRA on .* in 4 bits, .* 'lora' or 'bilora'$"):
        run(on=on)


class Linear8bitLt(nn.Linear):
    """A stand-in for the layers of bitsandbytes, whose weight is a plain one where the head is new."""

    __module__ = "bitsandbytes.nn.modules"


@pytest.mark.parametrize("quantiser", ["torchao", "bitsandbytes"])
def test_a_quantised_module_that_is_trained_whole_is_refused_with_the_cure(run: Run, quantiser: str) -> None:
    """Such as a new head on a base that was quantised without one: the error of its first pass names nothing."""
    on = Adapted()
    head: Any = on.model.get_submodule("base_model.model.classifier.original_module")
    if quantiser == "torchao":
        head.weight = Int8Tensor(head.weight.detach(), requires_grad=False)
    else:
        head.__class__ = Linear8bitLt
    with pytest.raises(SettingsError, match=r"^module '.*classifier' is quantised .* llm_int8_skip_modules"):
        run(on=on)
