"""Betty's ``ImplicitProblem`` with the user's objects kept: module, optimizer, scheduler, loaders and batches."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from betty.configs import Config
from betty.problems import ImplicitProblem
from torch import nn

from bilora.adapter.level_parameters import trainable_parameters
from bilora.errors import CheckpointError, DataError, SettingsError
from bilora.files.state import check_keys
from bilora.problems.levels.loader_position import LoaderPosition
from bilora.problems.levels.out_of_memory import explaining_out_of_memory
from bilora.tensors import to_device


class Companion(nn.Module, abc.ABC):
    """A module that lives as long as a run, beside the model: each level of each stage has it as ``companion``.

    Its parameters belong to whichever level names them. The engine moves it to the device of the model; a
    checkpoint of a run needs its ``state_dict``.
    """

    @abc.abstractmethod
    def learned(self) -> dict[str, Any]:
        """Return what it has learned as a JSON object, which is written to the folder of the run.

        ``words``, where it has them, are shown to people: after the training, and in the report.
        """

    def settle(self, model: nn.Module) -> None:
        """Before the lower level starts anew: fix what was learned, in itself and in the model; nothing by default.

        It may be asked twice, since a run that is resumed in a later stage comes to its start again.
        """


READ = ("unroll_steps", "gradient_accumulation", "gradient_clipping", "precision", "warmup_steps")
"""The fields of Betty's ``Config`` that our levels read."""

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Autocast dtype of each precision, None for float32."""


def check_config(config: Config, *, level: str) -> None:
    """Refuse a Betty ``Config`` with values that are out of range or that nothing here would read."""
    # In Betty first_order=False on an upper level silently removes its hypergradient; `type` and the settings of
    # Betty's own approximations are the engine's `hypergradient` here.
    faults = [
        f"{field.name}={getattr(config, field.name)!r} is not read by this library "
        "(the approximation is set as the engine's hypergradient)"
        for field in dataclasses.fields(config)
        if field.name not in READ and getattr(config, field.name) != field.default
    ]
    for name, least in (("unroll_steps", 1), ("gradient_accumulation", 1), ("warmup_steps", 0)):
        if getattr(config, name) < least:
            faults.append(f"{name} is {getattr(config, name)}; it must be at least {least}")
    # Not "< 0", which NaN passes.
    if not config.gradient_clipping >= 0:
        faults.append(f"gradient_clipping is {config.gradient_clipping}; it must be positive, or 0 for none")
    if config.precision not in PRECISIONS:
        faults.append(f"precision is {config.precision!r}; known: {', '.join(PRECISIONS)}")
    if faults:
        raise SettingsError(f"config of level {level!r}: " + "; ".join(faults))


class BettyProblem(ImplicitProblem):  # type: ignore[misc]  # Betty carries no types
    """A Betty problem that keeps the module, optimizer, scheduler and batches of its user.

    Attributes:
        companion: The module that the run learns beside the model, for variants that have one.
    """

    # Betty 0.2.1 rebuilds optimizer and scheduler, trains frozen parameters along, and loses batches that are not plain
    # dicts. Each override below says what it changes.
    companion: Companion | None = None

    def __init__(self, name: str, config: Config | None = None, *args: Any, **kwargs: Any) -> None:
        # Betty names None as the default of config and then reads its fields.
        config = Config() if config is None else config
        check_config(config, level=name)
        super().__init__(name, config, *args, **kwargs)
        # Betty would look for these on a subclass; nothing here calls them.
        replaced = {"custom_optimizer_step": "take_step()", "param_groups": "an optimizer with param groups"}
        for hook, instead in replaced.items():
            if self.is_implemented(hook):
                raise SettingsError(f"level {name!r} defines {hook}(), which is not called here; use {instead}")
        self.autocast_dtype = PRECISIONS[config.precision]
        # Betty's own mixed precision knows CUDA only: bf16 does nothing on a CPU, fp16 is an assert there.
        self.precision = "fp32"
        self.scheduler: Any
        self.learning_rate_scheduler: Any = None
        self.epoch_listeners: list[Callable[[], None]] = []
        self._named_parameters: dict[str, nn.Parameter] | None = None
        self.positions: list[LoaderPosition] = []
        # Of the settings, with its batches: another one than its name where a single level trains on D2.
        self.section = name

    def level_parameters(self) -> dict[str, nn.Parameter]:
        """Return this level's trainable parameters by name; all trainable ones of the module unless overridden."""
        return trainable_parameters(self.module)

    def named_level_parameters(self) -> dict[str, nn.Parameter]:
        """Return :meth:`level_parameters`, asked once."""
        # Betty asks seven times per step, and each walk over a transformer takes milliseconds.
        if self._named_parameters is None:
            self._named_parameters = self.level_parameters()
            if not self._named_parameters:
                raise SettingsError(
                    f"level {self.name!r} has no trainable parameters; an adapter loaded for inference needs "
                    "is_trainable=True"
                )
        return self._named_parameters

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the level's parameters as a list, without the frozen ones of the module that Betty has in it."""
        return list(self.named_level_parameters().values())

    # Betty would broadcast and differentiate the frozen parameters as well.
    parameters = trainable_parameters

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Return the param groups of the optimizer that the library builds for this level; one unless overridden."""
        return [{"params": self.trainable_parameters()}]

    def initialize(self) -> None:
        """Set the level up on its device; called by the engine."""
        super().initialize()
        # Only fp16 has so small a range that gradients vanish without a loss scale.
        if self.autocast_dtype == torch.float16:
            self.scaler = torch.amp.GradScaler(self.device.type)

    def patch_module(self) -> None:
        """Move module and companion to the level's device."""
        # A quantised or dispatched model has placed itself; moving would break it.
        if not (getattr(self.module, "is_quantized", False) or getattr(self.module, "hf_device_map", None)):
            self.module.to(self.device)
        if self.companion is not None:
            self.companion.to(self.device)

    def patch_optimizer(self) -> None:
        """Keep the optimizer, and check that it holds exactly the level's parameters."""
        # Betty's rebuild drops param groups and state, and fails for AdamW since torch 2.7.
        if self.optimizer is None:
            raise SettingsError(f"level {self.name!r} has no optimizer; pass one or override configure_optimizer")
        held = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        named = self.named_level_parameters()
        missing = [name for name, parameter in named.items() if id(parameter) not in held]
        foreign = len(held - {id(parameter) for parameter in named.values()})
        if missing or foreign:
            raise SettingsError(
                f"the optimizer of level {self.name!r} lacks {len(missing)} of the level's parameters "
                f"({', '.join(missing[:3])}) and holds {foreign} that are not the level's; build it over "
                "level_parameters().values()"
            )

    def patch_scheduler(self) -> None:
        """Keep the scheduler for :meth:`Level.optimizer_step`."""
        # Betty would step it at every micro-batch, whatever the accumulation.
        self.learning_rate_scheduler = self.scheduler
        self.scheduler = None

    def patch_data_loader(self, loader: Any) -> Any:
        """Keep the loader and note its position; refuse an empty one."""
        # Betty ends in "generator raised StopIteration" otherwise.
        if number_of_batches(loader) == 0:
            raise DataError(
                f"the data loader of level {self.name!r} gives no batch; give it more rows or a smaller batch size "
                "(with drop_last a loader with fewer rows than one batch is empty)"
            )
        # Betty opens it next, which moves the generator whose state the position holds.
        self.positions.append(LoaderPosition(loader, level=self.name))
        return loader

    def one_step_descent(self, batch: Any = None) -> Any:
        """Take one micro-batch through loss, gradient and, where it is the last one, the optimizer."""
        # Asked for the batch only once memory is exhausted: Betty fetches it within the step.
        step = f"a step of the {self.name} level"
        with explaining_out_of_memory(self.name, step, lambda: self.cur_batch, section=self.section):
            return super().one_step_descent(batch)

    def epoch_callback(self) -> None:
        """When the first loader has been read to its end, before it is opened again."""

    def get_batch_single_loader(self, idx: int) -> Any:
        """Return the next batch of a loader on the device."""
        # Betty turns a BatchEncoding into a tuple of its keys, changes dicts in place and leaves nested tensors where
        # they are.
        batch = next(self.train_data_iterator[idx], None)
        if batch is None:
            if idx == 0:
                self.epoch_callback()
                for listener in self.epoch_listeners:
                    listener()
            self.epoch_counter[idx] += 1
            self.restart_loader(idx)
            batch = next(self.train_data_iterator[idx], None)
        if batch is None:
            raise DataError(
                f"the data loader of level {self.name!r} gave nothing when opened again; give one that can be "
                "iterated more than once, such as a DataLoader"
            )
        self.positions[idx].read += 1
        return to_device(batch, self.device)

    def restart_loader(self, idx: int = 0) -> None:
        """Open a loader anew; what was left of its current epoch is not read."""
        self.positions[idx] = LoaderPosition(self.train_data_loader[idx], level=self.name)
        self.train_data_iterator[idx] = iter(self.train_data_loader[idx])

    def loaders_state(self) -> list[dict[str, Any]]:
        """Return the epoch of each loader, and how far it has been read."""
        pairs = zip(self.epoch_counter, self.positions, strict=True)
        return [{"epoch": epoch, **position.state()} for epoch, position in pairs]

    def load_loaders_state(self, states: Any) -> None:
        """Come back to what :meth:`loaders_state` returned; the rows must be those of that time."""
        part = f"{self.name}.loaders"
        if not isinstance(states, list) or len(states) != len(self.train_data_loader):
            raise CheckpointError(f"checkpoint incomplete: {part} is missing")
        for idx, state in enumerate(states):
            position = dict(check_keys(state, ("epoch", "read", "generator"), part=part))
            self.epoch_counter[idx] = position.pop("epoch")
            self.positions[idx] = LoaderPosition(self.train_data_loader[idx], level=self.name)
            self.train_data_iterator[idx] = self.positions[idx].reopened(position)


def number_of_batches(loader: Any) -> int | None:
    """Return how many batches a loader gives, None where it cannot say."""
    try:
        return len(loader)
    except TypeError:  # a generator, and a DataLoader over a dataset that is a stream
        return None
