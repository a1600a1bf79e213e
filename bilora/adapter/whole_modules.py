"""Modules that are trained whole beside an adapter, such as a head, on a base model in half precision."""

from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)


def widen(model: nn.Module) -> bool:
    """Hold what is trained whole in float32, whatever the base is in; return whether anything had to be changed."""
    # A step of an optimizer is lost in the rounding of bfloat16, and so is a finite difference.
    narrow = {
        module: parameter.dtype
        for wrapper in model.modules()
        if isinstance(wrapper, ModulesToSaveWrapper)
        for module in wrapper.modules_to_save.values()
        if (parameter := next((each for each in module.parameters() if each.dtype in HALF), None)) is not None
    }
    for module, dtype in narrow.items():
        module.float()
        module.register_forward_pre_hook(_widened, with_kwargs=True)
        module.register_forward_hook(_narrowed(dtype, _hidden_size(model)))
    return bool(narrow)


def _widened(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return tuple(_float(value) for value in args), {name: _float(value) for name, value in kwargs.items()}


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value


def _narrowed(dtype: torch.dtype, hidden_size: int | None) -> Any:
    def narrow(module: nn.Module, args: Any, output: Any) -> Any:
        # Hidden states go on through the base; logits keep their digits.
        is_hidden = isinstance(output, Tensor) and output.shape[-1] == hidden_size
        return output.to(dtype) if is_hidden and not torch.is_autocast_enabled(output.device.type) else output

    return narrow


def _hidden_size(model: Any) -> int | None:
    config: Any = getattr(model, "config", None)
    return getattr(config.get_text_config(), "hidden_size", None) if hasattr(config, "get_text_config") else None
