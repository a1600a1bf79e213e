"""Puts BiLoRA adapters into a model; everything else is PEFT's ``BaseTuner``."""

from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, get_quantization_kwargs
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from bilora.adapter.layer import BiloraLinear
from bilora.adapter.level_parameters import check_saved, levelled_layers
from bilora.errors import SettingsError


class BiloraModel(BaseTuner):
    """A base model with ``BiloraLinear`` in place of each target; made by ``peft.get_peft_model``.

    Example:
        >>> from peft import get_peft_model
        >>> from bilora import BiloraConfig
        >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), BiloraConfig(r=2, target_modules=["0"]))
        >>> type(model.base_model).__name__, type(model.base_model.model[0]).__name__
        ('BiloraModel', 'BiloraLinear')
    """

    prefix: str = "bilora_"
    tuner_layer_cls = BiloraLinear
    # Query and value, the layers of the paper, for most architectures.
    target_module_mapping: dict[str, Any] = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        # PEFT's own rule for patterns, since the export writes its patterns for it.
        ranks, alphas = peft_config.rank_pattern or {}, peft_config.alpha_pattern or {}
        rank = ranks.get(get_pattern_key(list(ranks), current_key), peft_config.r)
        alpha = alphas.get(get_pattern_key(list(alphas), current_key), peft_config.alpha)
        settings: dict[str, Any] = {"config": peft_config, "rank": rank, "alpha": alpha}
        if isinstance(target, BiloraLinear):
            target.update_layer(adapter_name, **settings)
            return
        layer = BiloraLinear(target, adapter_name, name=current_key, **settings, **get_quantization_kwargs(self))
        if adapter_name not in self.active_adapters:
            # A further adapter is not trainable before it is switched to.
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT also copies `weight` from the old module to the new one, which changes nothing for a layer that is kept
        # whole, and fails for a head without a weight, such as RoBERTa's. A new layer is on its device already.
        setattr(parent, child_name, new_module)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        trained = {name: parameter.requires_grad for name, parameter in self.named_parameters()}
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        # PEFT makes new parameters of those it casts, and new ones are trainable.
        for name, parameter in self.named_parameters():
            if parameter.requires_grad != trained[name]:
                parameter.requires_grad_(trained[name])

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        # PEFT silently leaves trained parameters out of the file (peft#310, #876, #1070).
        check_saved(model)
        return super()._get_adapter_state_dict(model, config, adapter_name, state_dict, *args, **kwargs)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        weights = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        expected = {
            f"{name}.{key}"
            for name, layer in levelled_layers(model)
            if adapter_name in layer.held_adapters()
            for key in layer.lower_parameters(adapter_name) | layer.upper_parameters(adapter_name)
        }
        missing = sorted(expected - weights.keys())
        unexpected = sorted(key for key in weights if f".{cls.prefix}" in key and key not in expected)
        # PEFT just warns, and would predict with weights that are partly random.
        if missing or unexpected:
            raise SettingsError(
                f"the weights for adapter {adapter_name!r} do not fit its settings and the base model; "
                f"missing in the file: {missing or 'none'}; not in the model: {unexpected or 'none'}; "
                "load the file together with its own adapter_config.json onto the model it was trained on"
            )
        return weights
