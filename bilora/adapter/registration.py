"""Makes ``BILORA`` a method of PEFT, like LORA, so that loading, saving, merging and switching just work."""

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import register_peft_method

from bilora.adapter.config import BiloraConfig
from bilora.adapter.model import BiloraModel
from bilora.adapter.peft_type import BILORA
from bilora.errors import BiloraError


def register() -> None:
    """Register ``BiloraConfig`` and ``BiloraModel`` with PEFT; ``import bilora`` does so, a second call does nothing.

    Raises:
        BiloraError: Another package, or PEFT itself, has a method called BILORA.

    Example:
        >>> register()
        >>> from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
        >>> PEFT_TYPE_TO_CONFIG_MAPPING["BILORA"].__name__
        'BiloraConfig'
    """
    registered = PEFT_TYPE_TO_TUNER_MAPPING.get(BILORA)
    if registered is BiloraModel:
        return
    if registered is not None:
        raise BiloraError(
            f"PEFT already has a method {BILORA.value}, from {registered.__module__}, and a name stands for one; "
            "use this library in a separate process, or without that package"
        )
    if isinstance(BILORA, PeftType):
        register_peft_method(name=BILORA.value.lower(), config_cls=BiloraConfig, model_cls=BiloraModel)
        return
    # register_peft_method refuses names outside the enum; these are the tables it fills.
    PEFT_TYPE_TO_PREFIX_MAPPING[BILORA] = BiloraModel.prefix
    PEFT_TYPE_TO_CONFIG_MAPPING[BILORA] = BiloraConfig
    PEFT_TYPE_TO_TUNER_MAPPING[BILORA] = BiloraModel
