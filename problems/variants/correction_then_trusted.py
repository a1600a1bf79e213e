"""Train on doubtful rows (D1) with a loss that knows how labels go wrong, then go on with trusted ones (D2)."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bilora.data.row_marks import TrainingRows
from bilora.errors import SettingsError
from bilora.problems.levels.losses import read_loss
from bilora.problems.stage import Stage
from bilora.problems.variants import self_tuned
from bilora.problems.variants.learned_noise import corrected_losses
from bilora.problems.variants.learned_rate import RatedLower
from bilora.problems.variants.self_tuned import SelfTunedSettings, SelfTunedUpper, SelfTuning

# Of what earlier steps have seen, at each upper step: half is gone after 34, as the model that is asked gets better.
KEPT = 0.98
# Under a class that no trusted row is taken for: the logarithm of zero has no gradient.
SMALLEST = 1e-6


class Correction(SelfTuning):
    """Learned decays, and ``T[c, g]``, the chance that a row of class c has the label g (Hendrycks et al. 2018).

    ``T[c]`` is the mean of what a model of the doubtful labels says of the trusted rows of class c (eq. 2 of
    arXiv 1802.05300). Until the first stage has ended it is the identity.
    """

    sums: Tensor
    counts: Tensor
    matrix: Tensor

    def __init__(self, model: nn.Module, settings: SelfTunedSettings, classes: int) -> None:
        super().__init__(model, settings)
        # Buffers, which a checkpoint holds: sums of probabilities by true class, with the number of rows, and T.
        self.register_buffer("sums", torch.zeros(classes, classes))
        self.register_buffer("counts", torch.zeros(classes))
        self.register_buffer("matrix", torch.eye(classes))

    def summed(self, chances: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``chances (batch, classes)``, what a model says of rows, summed by label; and the rows of each."""
        marks = nn.functional.one_hot(labels, len(self.counts)).to(self.sums)  # (batch, classes)
        return marks.T @ chances.to(self.sums), marks.sum(0)

    @torch.no_grad()
    def see(self, sums: Tensor, counts: Tensor) -> None:
        """Take in what the model says of trusted rows in an upper step."""
        self.sums.mul_(KEPT).add_(sums)
        self.counts.mul_(KEPT).add_(counts)

    def estimate(self) -> Tensor:
        """Return T of what was seen; a class that was never seen is taken to be labelled as it is."""
        seen = self.counts[:, None] > 0
        return torch.where(
            seen, self.sums / self.counts[:, None].clamp_min(1e-12), torch.eye(len(self.counts)).to(self.sums)
        )

    @torch.no_grad()
    def settle(self, model: nn.Module) -> None:
        """Fix decays, values and T."""
        super().settle(model)
        self.matrix.copy_(self.estimate())

    def learned(self) -> dict[str, Any]:
        """Return the decays, and T with a row per true class."""
        right = self.matrix.diagonal().mean().item()
        learned = super().learned()
        words = f"{learned['words']}; a doubtful label is taken to be right with probability {right:.2f}"
        return {**learned, "transition_matrix": self.matrix.tolist(), "words": words}


class CorrectedLower(RatedLower):
    """The lower level under decays, whose loss asks for the label that a row of the predicted class would have."""

    reads_weights = True
    weighs_classes = False

    def training_step(self, batch: Any) -> Any:
        """Return the corrected loss, weighted where rows have weights."""
        weights, labels = batch.pop("weights", None), batch["labels"]
        log_T = _correction(self).matrix.clamp_min(SMALLEST).log()
        losses = corrected_losses(self.forward(**batch).logits.float(), labels, log_T)
        return losses.mean() if weights is None else (weights * losses).sum() / weights.sum().clamp_min(1e-12)


class CorrectionUpper(SelfTunedUpper):
    """Decays and values on D2, and a look at what the model of the doubtful labels says there."""

    reads_weights = True
    # Of the micro-batches of a step.
    _seen: tuple[Tensor, Tensor] | None = None

    def training_step(self, batch: Any) -> Any:
        """Return the loss, and keep what the model says."""
        batch.pop("weights", None)
        output = self.forward(**batch)
        # Checks before the first step ask for answers too.
        if self.step_batches:
            seen = _correction(self).summed(output.logits.detach().float().softmax(-1), batch["labels"])
            self._seen = seen if self._seen is None else (self._seen[0] + seen[0], self._seen[1] + seen[1])
        return read_loss(output, level=self.name)[0]

    def take_step(self) -> None:
        """Step, and take in what the model says of the rows of all processes."""
        super().take_step()
        if self._seen is not None:
            # Means in the place of sums: T is the ratio of the two.
            sums, counts = self.processes.averaged(self._seen)
            _correction(self).see(sums, counts)
            self._seen = None


def _correction(level: Any) -> Correction:
    assert isinstance(level.companion, Correction)  # built by the variant
    return level.companion


def companion(model: nn.Module, settings: SelfTunedSettings, rows: TrainingRows) -> Correction:
    """Return decays and a matrix for the classes that there are."""
    self_tuned.refuse_other_adapter(model, method="correction_then_trusted")
    if not rows.class_counts:
        raise SettingsError(
            "method 'correction_then_trusted' corrects labels of rows that have one class each, and these have not; "
            "take noisy_then_trusted"
        )
    if settings.classes != "as_given":
        raise SettingsError(
            f"classes is {settings.classes!r}, and the corrected loss of method 'correction_then_trusted' weighs no "
            "classes; leave it out"
        )
    return Correction(model, settings, len(rows.class_counts))


def plan(settings: Any) -> tuple[Stage, ...]:
    """Return the stage that asks on D2 how labels go wrong; the ending trains with that."""
    [search] = self_tuned.plan(settings)
    return (replace(search, upper=CorrectionUpper),)


VARIANT = replace(
    self_tuned.VARIANT,
    name="correction_then_trusted",
    lower=CorrectedLower,
    upper=CorrectionUpper,
    plan=plan,
    ending="then_trusted",
    companion=companion,
)
