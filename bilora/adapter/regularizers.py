"""The penalties of both levels: orthogonality R1 of the vectors, binary entropy R2 of the values."""

from collections import defaultdict

import torch
from torch import Tensor, nn

from bilora.adapter.level_parameters import PseudoSvdLayer, pseudo_svd_layers
from bilora.errors import LevelsError, SettingsError

# Nearer than this to 0 or 1, a value counts as binary.
_NEAR = 1e-6


def orthogonality(P: Tensor, Q: Tensor) -> Tensor:
    """Return R1 of one layer, ||P^T P - I||_F^2 + ||Q Q^T - I||_F^2 (AdaLoRA, arXiv 2303.10512, eq. 4).

    Args:
        P: Left pseudo singular vectors, ``(out, rank)``.
        Q: Right pseudo singular vectors, ``(rank, in)``.

    Returns:
        A scalar; zero for orthonormal columns of P and rows of Q.

    Example:
        >>> orthogonality(torch.eye(3, 2), 2.0 * torch.eye(2, 3))
        tensor(18.)
    """
    # Squared, unlike the norm in AdaLoRA's code: at exact orthonormality, where P and Q are wanted, the norm has no
    # second derivative, and hypergradients need one.
    return _gram_distance(P.mT) + _gram_distance(Q)


def binary_entropy(values: Tensor) -> Tensor:
    """Return R2 of one layer, -sum_j [s_j log s_j + (1 - s_j) log(1 - s_j)], smallest where each s_j is 0 or 1.

    Values within 1e-6 of 0 or 1 count as being 1e-6 away, with gradient zero.

    Args:
        values: s, ``(rank,)``, each in [0, 1].

    Returns:
        A scalar, in nats.

    Example:
        >>> binary_entropy(torch.tensor([0.5, 1.0])).item()  # log 2, and next to nothing
        0.69316...
    """
    # Without the clamp the gradient at a sigmoid that has rounded to 0 or 1 is infinity times zero, which is NaN; with
    # it value, gradient and second derivative are finite everywhere. No gradient is lost: the slope with respect to E
    # is below 1.4e-5 there.
    inside = values.clamp(_NEAR, 1.0 - _NEAR)
    # log1p(-s): log(1 - s) loses the digits of a small s.
    return -(inside * inside.log() + (1.0 - inside) * torch.log1p(-inside)).sum()


def orthogonality_penalty(model: nn.Module) -> Tensor:
    """Return R1 of a model: ``orthogonality`` averaged over the adapted layers of the active adapters.

    Args:
        model: A model with adapters.

    Returns:
        A scalar in float32, attached to the graph of P and Q.

    Raises:
        LevelsError: No layer has an active adapter.

    Example:
        >>> from peft import get_peft_model
        >>> from bilora import BiloraConfig
        >>> config = BiloraConfig(r=2, target_modules=["0"], formulation="softmax")
        >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), config)
        >>> round(orthogonality_penalty(model).item(), 5)  # P = 0 gives r, orthonormal Q gives 0
        2.0
    """
    # Stacked by shape: one product for all layers instead of two per layer, 2 to 4 times as fast for the 12 to 36 small
    # layers of a MiniLM, in every training step.
    stacks: defaultdict[tuple[torch.Size, torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    count = 0
    for layer, adapter in _active(model):
        P, Q = layer.singular_vectors(adapter)
        for rows in (P.mT, Q):
            stacks[rows.shape, rows.dtype, rows.device].append(rows)
        count += 1
    # To one device at the end: the layers of a large model may lie on several.
    sums = [_gram_distance(torch.stack(rows)).sum() for rows in stacks.values()]
    return torch.stack([part.to(sums[0].device) for part in sums]).sum() / count


def binary_entropy_penalty(model: nn.Module) -> Tensor:
    """Return R2 of a model: ``binary_entropy`` averaged over the adapted layers of the active adapters.

    Args:
        model: A model with adapters whose formulation keeps s in [0, 1].

    Returns:
        A scalar in float32, attached to the graph of E.

    Raises:
        LevelsError: No layer has an active adapter.
        SettingsError: A formulation lets s leave [0, 1], where the entropy is not defined.

    Example:
        >>> from peft import get_peft_model
        >>> from bilora import BiloraConfig
        >>> config = BiloraConfig(r=2, formulation="binary", target_modules=["0"])
        >>> binary_entropy_penalty(get_peft_model(nn.Sequential(nn.Linear(4, 4)), config)).item()  # 2 log 2
        1.38629...
    """
    values = []
    for layer, adapter in _active(model):
        if not layer.values_between_zero_and_one(adapter):
            raise SettingsError(
                f"adapter {adapter!r} has pseudo singular values outside [0, 1], where the binary entropy is "
                "not defined; use formulation 'binary', or leave this penalty out"
            )
        values.append(layer.singular_values(adapter))
    return binary_entropy(torch.cat([part.to(values[0].device) for part in values])) / len(values)


def _active(model: nn.Module) -> list[tuple[PseudoSvdLayer, str]]:
    active = [(layer, adapter) for _, layer in pseudo_svd_layers(model) for adapter in layer.active_held_adapters()]
    if not active:
        raise LevelsError(
            "the model has no layer with an active BiLoRA adapter, so there is no penalty; "
            "wrap it with peft.get_peft_model(model, BiloraConfig(...)), or use model.set_adapter"
        )
    return active


def _gram_distance(rows: Tensor) -> Tensor:
    # ||V V^T - I||_F^2 of the rows of each matrix, (..., rank, length). Outside autocast: V V^T in bfloat16 is off by
    # 1e-2, and the penalty is about differences from 0 and 1.
    with torch.autocast(rows.device.type, enabled=False):
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        gram = rows @ rows.mT
        return (gram - torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)).square().sum((-2, -1))
