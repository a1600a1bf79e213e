"""The lower level: it trains on D1 and remembers the step that an upper step will differentiate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bilora.aliases import Tensors
from bilora.problems.level import Level
from bilora.problems.lower_step import LowerStep, MicroBatch, Needs
from bilora.problems.random_state import RandomState


class LowerProblem(Level):
    """The lower level of a bi-level problem, or the only level of a single-level one.

    It minimises ``L1(V, E) = loss(D1) + penalty(V)`` in its own parameters V with the upper ones held fixed.
    Set ``needs`` to what the hypergradient wants remembered (the engine does); by default nothing is.
    """

    needs: Needs = Needs()
    last_step: LowerStep | None = None
    _recorded: LowerStep | None = None
    _changing_buffers: frozenset[str] = frozenset()

    # ---- what a hypergradient asks ------------------------------------------------------------------

    def upper_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the level above."""
        return [each for upper in self.parents for each in upper.trainable_parameters()]

    def replayed_gradient(self, inputs: Sequence[Tensor]) -> Tensors:
        """Return the gradient of the lower loss of ``last_step`` in ``inputs``, at the parameters as they are now.

        Every micro-batch of the step enters, each under the dropout masks it had: one forward and one
        backward pass a micro-batch. Random state and buffers are afterwards as before.

        Args:
            inputs: Parameters of either level.

        Returns:
            One tensor an input; zeros where the loss does not depend on it.
        """
        step = self.recorded_step()
        total: list[Tensor] | None = None
        for micro_batch in step.micro_batches:
            with micro_batch.random_state.replayed(), self._unchanged_buffers():
                loss = self.training_step_exec(micro_batch.batch) / len(step.micro_batches)
                gradient = self.unscaled(self.scaled_gradients(loss, inputs), inputs)
            total = list(gradient) if total is None else [a + b for a, b in zip(total, gradient, strict=True)]
        return tuple(total or ())

    def recorded_step(self) -> LowerStep:
        """Return ``last_step``, which must be there by the time a hypergradient asks."""
        if self.last_step is None:
            raise RuntimeError(f"level {self.name!r} has recorded no step; set its 'needs' before stepping")
        return self.last_step

    # ---- recording ----------------------------------------------------------------------------------

    def get_loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss as every level does; remember batch and random state where this step will be replayed."""
        if not self._ends_unroll():
            return super().get_loss(batch)
        if self._recorded is None:
            before = tuple(each.detach().clone() for each in self.trainable_parameters())
            self._recorded = LowerStep(parameters_before=before if self.needs.parameters_before else None)
        self._recorded.micro_batches.append(MicroBatch(batch, RandomState.take(self.device)))
        held = {name: (each, each._version) for name, each in self.module.named_buffers()}
        result = super().get_loss(batch)
        self._note_changed_buffers(held)
        return result

    def backward(
        self,
        loss: Tensor,
        params: Sequence[nn.Parameter],
        paths: Any,
        create_graph: bool = False,
        retain_graph: bool = False,
        allow_unused: bool = True,
    ) -> None:
        """Add the gradient to ``.grad``; on a recorded step the same pass yields the upper gradient as well."""
        upper = self.upper_parameters() if self._recorded is not None and self.needs.upper_gradient else []
        gradients = self.scaled_gradients(loss, [*params, *upper])
        self.set_grads(params, gradients[: len(params)])
        if self._recorded is not None and self.needs.upper_gradient:
            self._recorded.add_upper_gradient(self.unscaled(gradients[len(params) :], upper))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step as every level does, then hand over what was recorded, with the learning rates it was taken at."""
        if self._recorded is not None:
            self._recorded.learning_rates = self._learning_rates()
            self.last_step, self._recorded = self._recorded, None
        super().optimizer_step(*args, **kwargs)

    def _ends_unroll(self) -> bool:
        """Return whether the optimizer step that this micro-batch belongs to is followed by an upper step."""
        if not (self.needs.step and self.parents):
            return False
        step_end = -(-self._count // self.gas) * self.gas
        return bool(step_end % (self._unroll_steps * self.gas) == 0 and step_end > self.warmup_steps)

    def _learning_rates(self) -> tuple[float, ...]:
        rate = {id(each): group["lr"] for group in self.optimizer.param_groups for each in group["params"]}
        return tuple(float(rate[id(each)]) for each in self.trainable_parameters())

    # ---- buffers: batch-norm statistics and the like move in every training forward -------------------

    def _note_changed_buffers(self, held: dict[str, tuple[Tensor, int]]) -> None:
        # Only those that a forward pass was seen to change are saved later: a quantised base keeps its
        # weights in buffers, which nobody wants to copy at every upper step.
        changed = {
            name.rpartition(".")[0]
            for name, each in self.module.named_buffers()
            if name not in held or held[name][0] is not each or held[name][1] != each._version
        }
        # All buffers of such a module: batch norm's kernel moves its statistics without a version count.
        self._changing_buffers |= {
            name for name, _ in self.module.named_buffers() if name.rpartition(".")[0] in changed
        }

    @contextmanager
    def _unchanged_buffers(self) -> Iterator[None]:
        buffers = dict(self.module.named_buffers())
        saved = {name: (buffers[name], buffers[name].clone()) for name in self._changing_buffers if name in buffers}
        try:
            yield
        finally:
            for name, (buffer, value) in saved.items():
                owner, _, key = name.rpartition(".")
                # A forward pass may also have put another tensor in its place.
                setattr(self.module.get_submodule(owner), key, buffer)
                with torch.no_grad():
                    buffer.copy_(value)
