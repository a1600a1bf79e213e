"""Runs PEFT's own test-suite against a PEFT method that lives outside of PEFT.

Not a patch of PEFT's files: the parametrize marks that carry PEFT configs are rewritten at collection time, keyed by
their argument names, and everything that isn't parametrized with our config is deselected.

Environment (set by run.sh):
  PEFT_METHOD_MODULE    module to import; importing it must register the method with PEFT
  PEFT_METHOD           peft_type, default BILORA
  PEFT_METHOD_VARIANTS  JSON list of config kwargs; every case is run with each of them. Default [{}]
  PEFT_METHOD_LAYERS    comma-separated subset of linear,conv1d,embedding,conv2d. Default linear,conv1d
"""

import importlib
import importlib.machinery
import json
import os
import sys
import types

import pytest

MODULE = os.environ.get("PEFT_METHOD_MODULE")
NAME = os.environ.get("PEFT_METHOD", "BILORA").upper()
VARIANTS = json.loads(os.environ.get("PEFT_METHOD_VARIANTS") or "[{}]")
LAYERS = set((os.environ.get("PEFT_METHOD_LAYERS") or "linear,conv1d").split(","))
if not MODULE:
    raise pytest.UsageError("set PEFT_METHOD_MODULE to the module that registers the PEFT method")

importlib.import_module(MODULE)
import torch  # noqa: E402
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING  # noqa: E402

if NAME not in PEFT_TYPE_TO_CONFIG_MAPPING:
    raise pytest.UsageError(f"importing {MODULE!r} did not register the PEFT method {NAME}")
CONFIG = PEFT_TYPE_TO_CONFIG_MAPPING[NAME]

if importlib.util.find_spec("diffusers") is None:  # testing_common imports one class of it, for tests that we don't run
    stub = types.ModuleType("diffusers")
    stub.__spec__ = importlib.machinery.ModuleSpec("diffusers", None)
    stub.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})
    sys.modules["diffusers"] = stub


def _cases():
    """Same shapes as the LoRA rows of tests/test_custom_models.py::TEST_CASES."""
    rows = []
    if "linear" in LAYERS:
        rows += [
            ("Vanilla MLP 1", "MLP", {"target_modules": "lin0"}),
            ("Vanilla MLP 2", "MLP", {"target_modules": ["lin0"]}),
            ("Vanilla MLP 3", "MLP", {"target_modules": ["lin1"]}),
            ("Vanilla MLP 4", "MLP", {"target_modules": ["lin0", "lin1"]}),
            ("Vanilla MLP 5 modules_to_save", "MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
            ("Vanilla MLP 6 r=2", "MLP", {"target_modules": ["lin0"], "r": 2}),
            ("Vanilla MLP 7 exclude", "MLP", {"target_modules": ["lin0", "lin1"], "exclude_modules": ["lin1"]}),
            ("Vanilla MLP 8 regex", "MLP", {"target_modules": "lin[01]"}),
            ("EmbConv1D lin0", "EmbConv1D", {"target_modules": ["lin0"]}),
        ]
    if "conv1d" in LAYERS:
        rows += [
            ("Conv1D 1", "EmbConv1D", {"target_modules": ["conv1d"]}),
            ("Conv1D 2", "EmbConv1D", {"target_modules": ["conv1d", "lin0"]}),
        ]
    if "embedding" in LAYERS:
        rows += [
            ("Embedding 1", "EmbConv1D", {"target_modules": ["emb"]}),
            ("Embedding 2", "EmbConv1D", {"target_modules": ["emb", "conv1d"]}),
        ]
    if "conv2d" in LAYERS:
        rows += [
            ("Conv2d 1", "Conv2d", {"target_modules": ["conv2d"]}),
            ("Conv2d 2", "Conv2d", {"target_modules": ["conv2d", "lin0"]}),
        ]
    return [
        (f"{name} {NAME} {json.dumps(v) if v else ''}".strip(), model, CONFIG, {**kw, **v}) for v in VARIANTS for name, model, kw in rows
    ]


def _multi():
    same, other = {"target_modules": ["lin0"], "init_weights": False}, {"target_modules": ["lin1"], "init_weights": False}
    return [
        (f"{NAME} {what} {json.dumps(v) if v else ''}".strip(), NAME.lower(), CONFIG, {**same, **v}, {**second, **v})
        for v in VARIANTS
        for what, second in (("Same", same), ("Different", other))
    ]


TASKS = {
    "test_decoder_models": "CAUSAL_LM",
    "test_encoder_decoder_models": "SEQ_2_SEQ_LM",
    "test_seq_classifier": "SEQ_CLS",
    "test_feature_extraction_models": "FEATURE_EXTRACTION",
}


def _rows(module: str, argnames: tuple, marked_values):
    """New argvalues for a parametrize mark, or None to leave it alone."""
    if argnames == ("test_name", "model_id", "config_cls", "config_kwargs"):
        return _cases()
    if argnames == ("test_name", "tuner_method", "config_cls", "config_kwargs_1", "config_kwargs_2"):
        return _multi()
    if argnames in (("config_class", "mandatory_kwargs"), ("config_cls", "mandatory_kwargs")):
        return [(CONFIG, {})]
    if argnames == ("config_cls",):
        return [CONFIG]
    if argnames == ("config_cls", "config_kwargs"):
        if module in ("test_quantization", "test_token_classification_qa"):
            task = {k: v for k, v in marked_values[0][1].items() if k == "task_type"}
            targets = ["q_proj", "v_proj"] if module == "test_quantization" else None
            return [(CONFIG, {"target_modules": targets, **task, **v}) for v in VARIANTS]
        if module in TASKS:
            return [(CONFIG, {"task_type": TASKS[module], "target_modules": None, **v}) for v in VARIANTS]
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    module = metafunc.module.__name__.rpartition(".")[2]
    for mark in metafunc.definition.iter_markers(name="parametrize"):
        names = mark.args[0]
        names = tuple(n.strip() for n in names.split(",")) if isinstance(names, str) else tuple(names)
        rows = _rows(module, names, mark.args[1])
        if rows is not None:
            object.__setattr__(mark, "args", (mark.args[0], rows))
            object.__setattr__(mark, "kwargs", {k: v for k, v in mark.kwargs.items() if k != "ids"})


# parametrized with config classes by PEFT, but about features that the method doesn't claim
SKIPPED = {
    # A direction of unit length with one component is a sign, which no step moves: P of a layer with one output.
    ("test_only_params_are_updated", "Conv1D 1 BILORA"): "P of a layer with one output is a sign",
    # All singular values of the random start are alike, so that any LoRA of half the rank keeps half of the update.
    ("test_lora_conversion", "qwen2"): "the test converts rank 8 with equal singular values to rank 4",
}
NOT_OURS = {
    "test_add_weighted_adapter_cat_with_rank_pattern": "add_weighted_adapter is LoRA only",
    "test_from_pretrained_cache_dir": "always downloads from the hub",
    "test_prompt_learning_with_gradient_checkpointing": "prompt learning only",
}


def pytest_collection_modifyitems(config, items):
    keep, drop = [], []
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        ours = any(v is CONFIG for v in params.values()) and item.originalname not in NOT_OURS
        (keep if ours else drop).append(item)
        for (test, case), reason in SKIPPED.items():
            if item.originalname == test and case in item.name:
                item.add_marker(pytest.mark.skip(reason=reason))
    items[:] = keep
    config.hook.pytest_deselected(items=drop)


def pytest_addoption(parser):
    parser.addoption("--regression", action="store_true", default=False, help="as in PEFT's conftest")


def pytest_configure(config):
    for marker in ("regression", "single_gpu_tests", "multi_gpu_tests", "bitsandbytes"):
        config.addinivalue_line("markers", f"{marker}: PEFT")


def pytest_report_header(config):
    import peft

    return f"PEFT {peft.__version__} test-suite against {NAME} of {MODULE} ({CONFIG.__module__}.{CONFIG.__name__}), variants {VARIANTS}"


@pytest.fixture(autouse=True)
def _offline_hub(monkeypatch):
    """Tiny random models stand in for the ones on the hub (make_tiny_hub.py); never go online for them."""
    for name in ("tests.testing_utils", "testing_utils"):
        if name in sys.modules:
            ids = os.path.join(os.environ.get("HF_HOME", ""), "hub")
            if os.path.isdir(ids):
                for d in os.listdir(ids):
                    if d.startswith("models--"):
                        sys.modules[name]._HUB_MODEL_ACCESSES.setdefault(d[8:].replace("--", "/"), 1)
    for name in ("tests.testing_common", "testing_common"):
        if name in sys.modules and "conv1d" in LAYERS:  # PEFT keeps a list of its own methods that do Conv1D
            monkeypatch.setattr(sys.modules[name], "_skip_if_conv1d_not_supported", lambda *a: None)
