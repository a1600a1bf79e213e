"""Makes ``BILORA`` a method of PEFT, like LORA, so that loading, saving, merging and switching just work."""

from __future__ import annotations

from peft import PeftType
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.utils import register_peft_method

from bilora.adapter.config import BiloraConfig
from bilora.adapter.model import BiloraModel
from bilora.adapter.peft_type import BILORA
from bilora.errors import BiloraError


def register() -> None:
    """Tell PEFT of ``BiloraConfig`` and ``BiloraModel``; done by ``import bilora``, and a second call does
    nothing.

    Raises:
        BiloraError: Another package, or PEFT itself, has a method called BILORA.

    Example:
        >>> register()
        >>> from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
        >>> PEFT_TYPE_TO_CONFIG_MAPPING["BILORA"].__name__
        'BiloraConfig'
    """
    known = PEFT_TYPE_TO_TUNER_MAPPING.get(BILORA)
    if known is BiloraModel:
        return
    if known is not None:
        raise BiloraError(
            f"PEFT already has a method {BILORA.value}, from {known.__module__}, and a name stands for one; "
            "use this library in a process of its own, or without that package"
        )
    if isinstance(BILORA, PeftType):
        register_peft_method(name=BILORA.value.lower(), config_cls=BiloraConfig, model_cls=BiloraModel)
    else:
        _write_mappings()


def _write_mappings() -> None:
    """Fill the tables that ``register_peft_method`` fills; it refuses names outside the enum."""
    PEFT_TYPE_TO_PREFIX_MAPPING[BILORA] = BiloraModel.prefix
    PEFT_TYPE_TO_CONFIG_MAPPING[BILORA] = BiloraConfig
    PEFT_TYPE_TO_TUNER_MAPPING[BILORA] = BiloraModel
