"""From a GGUF file, quantised as llama.cpp writes it, to a plain folder of a float32 model."""

from __future__ import annotations

from pathlib import Path

from bilora.errors import DataError
from bilora.settings.extras import import_extra


def convert_gguf(path: Path, folder: Path) -> None:
    """Write the decoder in a GGUF file as model and tokenizer files that ``from_pretrained`` reads.

    The weights are those of the file, dequantised to float32; rounding that the quantisation did stays. What
    transformers loads from such a file still counts as quantised and can be neither trained nor saved, which is why
    the weights are put into a fresh model.

    Args:
        path: The ``.gguf`` file, with its tokenizer.
        folder: Exists.

    Raises:
        SettingsError: The package gguf is missing.
        DataError: The file cannot be read.
    """
    import_extra("gguf", extra="nlg")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        quantised = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read as a GGUF file: {error}; install its package again") from error
    said = quantised.config.to_dict()
    said.pop("quantization_config", None)
    fresh = type(quantised.config).from_dict(said)
    model = AutoModelForCausalLM.from_config(fresh, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
