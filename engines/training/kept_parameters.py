"""Does the adapter hold whatever is trained and changes the model's answer?"""

import itertools
from collections.abc import Iterable, Iterator, Mapping

from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.training.smaller_batches import buffers_kept
from bilora.errors import SettingsError
from bilora.problems.levels.losses import read_loss
from bilora.problems.replay.random_state import RandomState
from bilora.tensors import to_device

ROWS = 2  # few, since only the graph of the loss is looked at


def check_kept(engine: BilevelEngine, model: nn.Module, *, method: str) -> None:
    """Refuse levels with a parameter that the answer depends on and that the adapter's folder would not hold.

    Parameters outside of the model, such as those of a companion, are known by the loss on D2, or that of the only
    level: what it has no gradient in, as in a weight decay, is a setting of the training.
    """
    # A module of the user's own is saved by nobody here.
    if not isinstance(model, PeftModel):
        return
    held = {id(weight) for part in _parts_of_adapters(model) for weight in part.parameters()}
    trained = {name: weight for level in engine.levels for name, weight in level.named_level_parameters().items()}
    unsaved = {name: weight for name, weight in trained.items() if id(weight) not in held}
    if not unsaved:
        return
    # Biases and whatever else PEFT saves, by their memory: names in files are not those in the model.
    file = get_peft_model_state_dict(model, adapter_name=str(model.active_adapter), save_embedding_layers=False)
    pointers = {tensor.data_ptr() for tensor in file.values()}
    unsaved = {name: weight for name, weight in unsaved.items() if weight.data_ptr() not in pointers}
    inside = {id(weight) for weight in model.parameters()}
    lost = [name for name, weight in unsaved.items() if id(weight) in inside]
    outside = {name: weight for name, weight in unsaved.items() if id(weight) not in inside}
    if lost := [*lost, *_used(engine, outside)] if outside else lost:
        raise SettingsError(
            f"method {method!r} trains {_some(lost)}, on which the answer depends, and the adapter does not hold it: "
            "loaded, it would answer without. Have adapt() put them into the adapter or into modules_to_save; where "
            "they weigh a penalty alone, return the loss without it as 'task_loss' beside 'loss'"
        )


def _parts_of_adapters(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            yield module
        elif isinstance(module, BaseTunerLayer):
            parts = (getattr(module, name, None) for name in module.adapter_layer_names)
            yield from (part for part in parts if isinstance(part, nn.Module))


def _used(engine: BilevelEngine, parameters: dict[str, nn.Parameter]) -> list[str]:
    """Return the names of those that the loss of the last level depends on, its penalty left out."""
    # The upper loss stands for what is asked of the model later; the lower one may weigh rows by what is learned.
    level = engine.levels[-1]
    [loader] = level.train_data_loader
    batch = loader.collate_fn(list(itertools.islice(loader.dataset, ROWS)))
    # Afterwards everything is as before: nothing is drawn, and gradients are returned and not kept.
    with RandomState.take(engine.device).replayed(), buffers_kept(level.module):
        output = level.training_step(to_device(batch, level.device))
        loss, _ = read_loss(output, level=level.name)
        task = output.get("task_loss") if isinstance(output, Mapping) else None
        # One that is there for the log alone may be detached.
        answer = task if isinstance(task, Tensor) and task.requires_grad else loss
        gradients = level.scaled_gradients(answer, list(parameters.values()))
    return [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def _some(names: Iterable[str]) -> str:
    first, *more = names
    return f"{first!r}" + (f" and {len(more)} more parameters" if more else "")
