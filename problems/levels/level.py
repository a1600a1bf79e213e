"""One level of a bi-level problem: its loss, its gradient, and its step."""

import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from betty.configs import Config
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from bilora.data.row_marks import without_marks
from bilora.errors import DivergedError, SettingsError
from bilora.problems.levels.betty_problem import BettyProblem
from bilora.problems.levels.losses import read_loss, terms_of
from bilora.problems.levels.report import LevelReport, SkippedSteps
from bilora.processes.processes import ONE_PROCESS, Processes, SharedBatches
from bilora.tensors import Tensors, gradient_norm, laid_out_like, to_device

# Steps without any gradient, from the first one on, after which a level is refused.
IDLE_STEPS = 10


@dataclass(frozen=True)
class Shared:
    """What the processes have averaged: reported means, further gradients, and the terms of a process's share."""

    means: Tensor
    more: Tensors
    terms: float


def share_gradients(
    parameters: Sequence[nn.Parameter],
    means: Tensor,
    more: Sequence[Tensor],
    processes: Processes,
    *,
    step_terms: Sequence[float] = (1.0,),
    mean_terms: float = 1.0,
) -> Shared:
    """Set every ``.grad`` to that of one batch of all processes' rows, and return ``means`` and ``more`` of it as well.

    Gradients are sums over micro-batches of ``step_terms``, with the first of them as the unit; ``means`` are of
    ``mean_terms`` terms.
    """
    unit = step_terms[0]
    present = [float(parameter.grad is not None) for parameter in parameters]
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad * unit for each in parameters]
    counts = torch.tensor([*present, sum(step_terms), mean_terms], device=means.device)
    # One message for everything: each has a latency that is longer than these few numbers take.
    sums = [*gradients, *(each * unit for each in more), counts, means * mean_terms]
    *averaged, counts, means = processes.averaged(sums)
    *used, terms, mean_terms = counts.tolist()
    for parameter, gradient, count in zip(parameters, averaged, used, strict=False):
        # A parameter that no process used stays without a gradient, so that the optimizer passes it over.
        if count > 0:
            parameter.grad = laid_out_like(gradient / terms, parameter)
    return Shared(means / mean_terms, tuple(each / terms for each in averaged[len(parameters) :]), terms)


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
        # Of how many terms the loss of each of them is a mean.
        self.step_terms: list[float] = []
        self._moved = False

    # A CUDA graph overwrites its outputs when it is run again, and both losses and gradients outlive a pass.
    copies_outputs: bool = False

    # A trainer whose subclass computes the loss sets this, to be called with the module and a batch; so does a run
    # whose rows have weights, which are in the batch then.
    compute_loss: Callable[[nn.Module, Any], Any] | None = None

    # The engine sets the processes of its run.
    processes: Processes = ONE_PROCESS

    # Set by a problem whose gradient is zero on purpose.
    may_idle: bool = False

    # Whether a training_step of one's own weighs rows by ``weights`` of the batch.
    reads_weights: bool = False

    # Whether weights of classes, which change the model's own loss, reach the loss of this level.
    weighs_classes: bool = True

    # Whoever knows the loss better than its labels tell sets this, as where classes are weighted.
    count_terms: Callable[[Any], float] | None = None

    def training_step(self, batch: Any) -> Any:
        """Return the loss on ``batch``: the model's own loss plus :meth:`penalty`, with both as parts.

        Override it for modules that are not called as ``module(**batch)`` and return no ``.loss``. The
        ``row_marks`` that the variant asks for are among the keys of the batch, and no input of the model.
        """
        batch = without_marks(batch)
        output = self.forward(**batch) if self.compute_loss is None else self.compute_loss(self.module, batch)
        task_loss, _ = read_loss(output, level=self.name)
        penalty = self.penalty()
        if penalty is None:
            return task_loss
        return {"loss": task_loss + penalty, "task_loss": task_loss, "penalty": penalty}

    def penalty(self) -> Tensor | None:
        """Return the level's regularizer, already weighted, or None where it has none."""
        return None

    def terms(self, batch: Any) -> float:
        """Return how many terms the loss of a batch is the mean of: rows, labelled tokens, or the sum of their weights.

        A step of several micro-batches, or processes, is the step of one batch of them all: sum over sum, and not the
        mean of means. Override it beside a loss that is a mean over something else.
        """
        return terms_of(batch, self.module) if self.count_terms is None else self.count_terms(batch)

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
        """Return the loss times its terms, with those of the step's first micro-batch as the unit, and its parts."""
        if (self._count - 1) % self.gas == 0:
            self.step_batches, self.step_terms = [], []
        self.step_batches.append(batch)
        loss, parts = self.loss_and_parts(batch)
        # Alone in its step a batch needs no weight, and counting labels would wait for the device.
        counted = self.gas > 1 or self.processes.count > 1
        self.step_terms.append(self.terms(batch) / self._readers() if counted else 1.0)
        # A tensor, and no .item(), which would wait for the device.
        value = loss.detach()
        self.report.add(value, parts, self.step_terms[-1])
        return self._weighted(loss), {"loss": value}

    def _readers(self) -> int:
        """Return how many processes read the rows of the last batch."""
        sampler = self.train_data_loader[0].batch_sampler if isinstance(self.train_data_loader[0], DataLoader) else None
        return sampler.readers if isinstance(sampler, SharedBatches) else 1

    def _weighted(self, loss: Tensor) -> Tensor:
        # optimizer_step divides by the sum of all terms, which is known only there. Not multiplied by one: it would be
        # a node more in the graph of every step.
        share = self.step_terms[-1] / self.step_terms[0]
        return loss if share == 1.0 else loss * share

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
        means = None if self.processes.count == 1 else self._share_step(*self.report.means())
        if means is None:
            self._average_step()
        # Before the norm is taken, so that clipping and the report see the gradient itself.
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        parameters = self.trainable_parameters()
        norm = gradient_norm([parameter.grad for parameter in parameters])
        self.report.close(norm, means)
        self._refuse_idleness()
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

    def _refuse_idleness(self) -> None:
        """Refuse to go on where no gradient has come in ten steps and two whole unrolls: nothing would be trained."""
        # Two: lower vectors get none before the first upper step where the singular values start at zero. Only at the
        # start, since later on a loss may have become zero.
        self._moved = self._moved or self.report.gradient_norm != 0.0
        steps = self._count // self.gas
        if not self.may_idle and not self._moved and steps == max(IDLE_STEPS, 2 * self.config.unroll_steps):
            raise SettingsError(
                f"level {self.name!r} has had a gradient of zero, or none, in its first {steps} steps: nothing is "
                "trained. Look for what cuts the loss off from its parameters, such as torch.no_grad() or .detach(), "
                "or for values that start where the gradient is zero"
            )

    def _average_step(self) -> None:
        """Divide the gradients of several micro-batches, added up so far, by the step's terms."""
        if len(self.step_terms) > 1:
            share = self.step_terms[0] / sum(self.step_terms)
            for parameter in self.trainable_parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(share)

    def _share_step(self, means: Tensor, terms: float) -> Tensor:
        """Average gradients and reported means over the processes, by their terms; return the means."""
        # Before fp16 looks for overflows, so that all processes see the same ones.
        parameters = self.trainable_parameters()
        step = self.step_terms
        return share_gradients(parameters, means, (), self.processes, step_terms=step, mean_terms=terms).means

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
