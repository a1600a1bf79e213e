"""One level of a bi-level problem: its loss, its gradient, and its step."""

import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from betty.configs import Config
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

from bilora.errors import DivergedError, SettingsError
from bilora.problems.levels.betty_problem import BettyProblem
from bilora.problems.levels.losses import read_loss
from bilora.problems.levels.report import LevelReport, SkippedSteps
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.tensors import Tensors, gradient_norm, laid_out_like, to_device


def share_gradients(
    parameters: Sequence[nn.Parameter], means: Tensor, more: Sequence[Tensor], processes: Processes
) -> tuple[Tensor, Tensors]:
    """Set every ``.grad`` to its mean over the processes, and return ``means`` and ``more``, averaged as well."""
    if processes.count == 1:
        return means, tuple(more)
    present = [parameter.grad is not None for parameter in parameters]
    gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in parameters]
    flags = torch.tensor(present, dtype=torch.float32, device=means.device)
    # One message for everything: each has a latency that is longer than these few numbers take.
    *averaged, used, means = processes.averaged([*gradients, *more, flags, means])
    for index, parameter in enumerate(parameters):
        # A parameter that no process used stays without a gradient, so that the optimizer passes it over.
        if present[index] or used[index] > 0:
            parameter.grad = laid_out_like(averaged[index], parameter)
    return means, tuple(averaged[len(parameters) :])


class Level(BettyProblem):
    """A level: which parameters it trains, on which data, with which loss and penalty.

    Subclass :class:`~bilora.problems.levels.lower.LowerProblem` or :class:`~bilora.problems.levels.upper.UpperProblem`
    and override :meth:`level_parameters`, :meth:`training_step` or :meth:`penalty`; everything else is
    common.

    Args:
        name: How the level is called in the graph, in files and in errors (``"lower"``).
        config: Betty's ``Config``; only the fields that our levels read may differ from their defaults.
        module: The model; the two levels may share one.
        optimizer: Any torch optimizer over exactly this level's parameters. It is kept as it is.
        scheduler: Any torch learning-rate scheduler of that optimizer. It is kept as it is.
        train_data_loader: Any iterable of batches that can be iterated again.
        extra_config: Settings of the subclass; Betty keeps them as ``self.cfg``.
    """

    def __init__(self, name: str, config: Config | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(name, config, *args, **kwargs)
        self.report = LevelReport()
        self.skipped = SkippedSteps()
        # The micro-batches of the step that is being made, or was made last.
        self.step_batches: list[Any] = []

    # A CUDA graph overwrites its outputs when it is run again, and both losses and gradients outlive a pass.
    copies_outputs: bool = False

    # A trainer whose subclass computes the loss sets this, to be called with the module and a batch.
    compute_loss: Callable[[nn.Module, Any], Any] | None = None

    # The engine sets the processes of its run.
    processes: Processes = ONE_PROCESS

    def training_step(self, batch: Any) -> Any:
        """Return the loss on ``batch``: the model's own loss plus :meth:`penalty`, with both as parts.

        Override it for modules that are not called as ``module(**batch)`` and return no ``.loss``.
        """
        output = self.forward(**batch) if self.compute_loss is None else self.compute_loss(self.module, batch)
        task_loss, _ = read_loss(output, level=self.name)
        penalty = self.penalty()
        if penalty is None:
            return task_loss
        return {"loss": task_loss + penalty, "task_loss": task_loss, "penalty": penalty}

    def penalty(self) -> Tensor | None:
        """Return the level's regularizer, already weighted, or None where it has none."""
        return None

    def take_step(self) -> None:
        """Move the parameters, with gradients unscaled, checked and clipped; override to add to the optimizer."""
        self.optimizer.step()

    def extra_state(self) -> dict[str, Any]:
        """Return the state of this level beside parameters and optimizer; empty unless overridden."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Set the level to a state that :meth:`extra_state` returned."""

    # Betty's optional hooks, present and empty, so that a misspelt override shows.

    def on_inner_loop_start(self) -> None:
        """Before the first step after an upper step (Betty's name for it)."""

    def grad_callback(self) -> None:
        """After every micro-batch's backward pass."""

    def param_callback(self) -> None:
        """After every optimizer step."""

    def training_step_exec(self, batch: Any) -> Tensor:
        """Return the loss alone, under autocast where the precision asks for it."""
        return self.loss_and_parts(batch)[0]

    def loss_and_parts(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss on ``batch`` and its parts, under autocast for the device's own type."""
        # A new container per call: a training_step that pops the labels off its batch must find them again when the
        # step is replayed.
        batch = to_device(batch, self.device)
        with self._autocast():
            loss, parts = read_loss(self.training_step(batch), level=self.name)
        if not self.copies_outputs:
            return loss, parts
        return loss.clone(), {name: part.clone() for name, part in parts.items()}

    def get_loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss divided by the accumulation, and its parts."""
        if (self._count - 1) % self.gas == 0:
            self.step_batches = []
        self.step_batches.append(batch)
        loss, parts = self.loss_and_parts(batch)
        # A tensor, and no .item(), which would wait for the device.
        value = loss.detach()
        self.report.add(value, parts)
        # Not divided by one: it would be a node more in the graph of every step.
        return loss if self.gas == 1 else loss / self.gas, {"loss": value}

    def scaled_gradients(
        self, loss: Tensor, inputs: Sequence[Tensor], *, create_graph: bool = False
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``loss``, times the loss scale in fp16; None where an input is not used."""
        # A parameter that a batch does not reach, as in an idle head, has no gradient; that is no error.
        gradients = torch.autograd.grad(self._scaled(loss), inputs, allow_unused=True, create_graph=create_graph)
        if not self.copies_outputs:
            return gradients
        return tuple(None if gradient is None else gradient.clone() for gradient in gradients)

    def add_gradients(self, loss: Tensor, params: Sequence[nn.Parameter]) -> None:
        """Add the gradients of ``loss`` to ``.grad``, in a pass that yields nothing else."""
        if self.copies_outputs:
            self.set_grads(params, self.scaled_gradients(loss, params))
        else:
            # The same numbers, added up by autograd itself: a loop in Python less in every step.
            torch.autograd.backward(self._scaled(loss), inputs=params)

    def _scaled(self, loss: Tensor) -> Tensor:
        scaled: Tensor = loss if self.scaler is None else self.scaler.scale(loss)
        if not scaled.requires_grad:
            raise SettingsError(
                f"the loss of level {self.name!r} depends on no trainable parameter; compute it with the model and "
                "outside torch.no_grad(), without .item() or .detach()"
            )
        return scaled

    def set_grads(self, params: Sequence[nn.Parameter], grads: Sequence[Tensor | None]) -> None:
        """Add gradients to ``.grad``."""
        for parameter, gradient in zip(params, grads, strict=True):
            if gradient is not None:
                # Betty keeps the layout in which autograd gives them, along which fused optimizers go wrong.
                gradient = laid_out_like(gradient, parameter)
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def zero_grad(self) -> None:
        """Forget the gradients."""
        # Betty looks for each with hasattr and deletes it, at several times the cost.
        for parameter in self.trainable_parameters():
            parameter.grad = None

    def unscaled(self, gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensors:
        """Return the gradients without the loss scale, zeros where there is none."""
        factor = 1.0 if self.scaler is None else 1.0 / self.scaler.get_scale()
        filled = [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, like, strict=True)]
        return tuple(filled) if factor == 1.0 else tuple(gradient * factor for gradient in filled)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Average over processes, check, clip, step, and only then move the learning rate on."""
        # Alone there is nothing to share, and the report reads its numbers in one go.
        means = None if self.processes.count == 1 else self._share_step(self.report.means())
        # Before the norm is taken, so that clipping and the report see the gradient itself.
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        parameters = self.trainable_parameters()
        norm = gradient_norm([parameter.grad for parameter in parameters])
        self.report.close(norm, means)
        self.report.learning_rates = tuple(group["lr"] for group in self.optimizer.param_groups)
        self.report.taken = self._may_step()
        if not self.report.taken:
            return
        if self.gradient_clipping > 0.0:
            clip_grads_with_norm_(parameters, self.gradient_clipping, norm)
            # The factor that torch's function applies, with its epsilon; hypergradients through the step need it.
            self.report.clip = min(1.0, self.gradient_clipping / (self.report.gradient_norm + 1e-6))
        self.take_step()
        if self.scaler is not None:
            self.scaler.update()
        # Only now, and only for a step that was taken: the rate of a skipped one is used again.
        scheduler = self.learning_rate_scheduler
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(self.report.loss)
        elif scheduler is not None:
            scheduler.step()

    def _share_step(self, means: Tensor) -> Tensor:
        # Before fp16 looks for overflows, so that all processes see the same ones.
        return share_gradients(self.trainable_parameters(), means, (), self.processes)[0]

    def _may_step(self) -> bool:
        """Return whether loss and gradient are finite; False where the step is skipped instead of refused."""
        report = self.report
        report.skipped = False
        if report.is_finite():
            self.skipped.in_row = 0
            return True
        if self._is_overflow():
            # As GradScaler.step does on an overflow: the parameters stay, and update() halves the scale.
            self.scaler.update()
            return False
        self._skip_or_raise()
        report.skipped = True
        if self.scaler is not None:
            # So that it can unscale the next gradients; the scale is not at fault.
            self.scaler.update(self.scaler.get_scale())
        return False

    def _is_overflow(self) -> bool:
        # Whether fp16 may try again with a smaller scale. At a scale of one, or with a loss that is not finite itself,
        # the scale is not at fault.
        return self.scaler is not None and math.isfinite(self.report.loss) and self.scaler.get_scale() > 1.0

    def _not_finite(self) -> DivergedError:
        report = self.report
        return DivergedError(
            f"level {self.name!r}, step {self._count // self.gas}: loss {report.loss}, gradient norm "
            f"{report.gradient_norm}; no parameter was moved by this step. Lower the learning rate of this level, "
            "clip its gradient, or look at the batch"
        )

    def _skip_or_raise(self) -> None:
        # All processes see the same averaged numbers, and so decide alike.
        error, skipped = self._not_finite(), self.skipped
        if not skipped.skip():
            if skipped.in_row == 0:
                raise error
            raise DivergedError(f"{error}. The {skipped.in_row} steps of it before were skipped already") from error
        if self.processes.is_first:
            warnings.warn(
                f"step {self._count // self.gas} of level {self.name!r} is skipped, {skipped.in_row} in a row of "
                f"at most {skipped.allowed} (skip_diverged): {error}",
                RuntimeWarning,
                stacklevel=2,
            )
