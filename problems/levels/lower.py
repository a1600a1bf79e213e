"""The lower level: it trains on D1 and remembers the steps that an upper step will differentiate."""

from collections import deque
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from bilora.problems.levels.level import Level, share_gradients
from bilora.problems.levels.out_of_memory import explaining_out_of_memory
from bilora.problems.replay.buffers import ChangedBuffers
from bilora.problems.replay.lower_step import LowerStep, MicroBatch, Needs, take_snapshot
from bilora.problems.replay.random_state import RandomState
from bilora.tensors import Tensors


class LowerProblem(Level):
    """The lower level of a bi-level problem, or the only level of a single-level one.

    It minimises ``L1(V, E) = loss(D1) + penalty(V)`` in its own parameters V with the upper ones held fixed.
    The engine sets ``needs`` to the hypergradient's; by default nothing is recorded.
    """

    needs: Needs = Needs()
    _recorded: LowerStep | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._steps: deque[LowerStep] = deque()

    def upper_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the level above."""
        return [parameter for upper in self.parents for parameter in upper.trainable_parameters()]

    def replayed_gradient(
        self, inputs: Sequence[Tensor], *, step: LowerStep | None = None, create_graph: bool = False
    ) -> Tensors:
        """Return the gradient of the (last) recorded step's loss in ``inputs``, at the parameters as they are now."""
        step = self.recorded_step() if step is None else step
        total: list[Tensor] | None = None
        for micro_batch in step.micro_batches:
            batch = micro_batch.batch
            what = "the hypergradient of the upper level"
            explained = explaining_out_of_memory(self.name, what, lambda: batch)  # noqa: B023  (called in this round)
            # Under other masks than the step's, a difference of two gradients is noise.
            with explained, micro_batch.random_state.replayed(), self._buffers.unchanged():
                loss = self.training_step_exec(batch) / len(step.micro_batches)
                gradient = self.unscaled(self.scaled_gradients(loss, inputs, create_graph=create_graph), inputs)
            total = list(gradient) if total is None else [a + b for a, b in zip(total, gradient, strict=True)]
        # Each process replays its own micro-batches. An average over processes has no graph: whoever differentiates
        # again averages the product.
        return tuple(total or ()) if create_graph else self.processes.averaged(total or ())

    def recorded_step(self) -> LowerStep:
        """Return the last recorded step."""
        return self.recorded_steps(1)[0]

    def recorded_steps(self, count: int) -> list[LowerStep]:
        """Return the last ``count`` steps, the last one last."""
        if len(self._steps) < count:
            raise RuntimeError(
                f"level {self.name!r} has recorded {len(self._steps)} steps, not {count}; "
                "set its 'needs' before stepping"
            )
        return list(self._steps)[-count:]

    def get_loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss as every level does; on a step that will be replayed, record batch and random state."""
        if not self._is_recorded():
            return super().get_loss(batch)
        if self._recorded is None:
            self._recorded = LowerStep()
            if self.needs.parameters_before:
                self._recorded.parameters_before = tuple(V.detach().clone() for V in self.trainable_parameters())
        # Before the forward pass, which draws the masks.
        self._recorded.micro_batches.append(MicroBatch(batch, RandomState.take(self.device)))
        with self._buffers.noted():
            return super().get_loss(batch)

    def backward(self, loss: Tensor, params: Sequence[nn.Parameter], *betty: Any, **flags: Any) -> None:
        """Add the gradient to ``.grad``; on a recorded step the same pass yields the upper gradient as well."""
        step = self._recorded
        if step is None:
            self.add_gradients(loss, params)
            return
        upper = self.upper_parameters() if self.needs.upper_gradient else []
        gradients = self.scaled_gradients(loss, [*params, *upper])
        self.set_grads(params, gradients[: len(params)])
        below = None
        if self.needs.lower_gradient:
            # Copies: clipping works in place on what has just become .grad.
            below = tuple(gradient.clone() for gradient in self.unscaled(gradients[: len(params)], params))
        above = self.unscaled(gradients[len(params) :], upper) if self.needs.upper_gradient else None
        step.add_gradients(below, above)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step as every level does, and keep the recorded step with the optimizer's state before it."""
        step = self._recorded
        if step is None:
            super().optimizer_step(*args, **kwargs)
            return
        rates = {id(parameter): group["lr"] for group in self.optimizer.param_groups for parameter in group["params"]}
        # float(): torch lets a rate be a tensor, which a scheduler then changes in place.
        step.learning_rates = tuple(float(rates[id(parameter)]) for parameter in self.trainable_parameters())
        if self.needs.optimizer:
            step.optimizer = take_snapshot(self.optimizer, self.trainable_parameters())
        try:
            super().optimizer_step(*args, **kwargs)
        finally:
            # Also after an error: the next step begins a record of its own.
            self._recorded = None
        step.clip, step.taken, step.skipped = self.report.clip, self.report.taken, self.report.skipped
        self._steps.append(step)
        # No deque(maxlen=...): needs is set after the level was made.
        while len(self._steps) > self.needs.steps:
            self._steps.popleft()

    def _share_step(self, means: Tensor) -> Tensor:
        # The recorded gradients go along in the same message.
        recorded = () if self._recorded is None else self._recorded.gradients()
        means, averaged = share_gradients(self.trainable_parameters(), means, recorded, self.processes)
        if self._recorded is not None:
            self._recorded.put_gradients(averaged)
        return means

    def _is_recorded(self) -> bool:
        # Whether this micro-batch's optimizer step is among the last before an upper step.
        if not (self.needs.steps and self.parents):
            return False
        # Rounded up: the step that this micro-batch belongs to, and the last one before the next upper step.
        step = -(-self._count // self.gas)
        end = -(-step // self._unroll_steps) * self._unroll_steps
        return bool(end - step < self.needs.steps and end * self.gas > self.warmup_steps)

    @cached_property
    def _buffers(self) -> ChangedBuffers:
        return ChangedBuffers(self.module)
