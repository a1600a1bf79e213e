"""Exact factors of a low-rank matrix, without ever forming it."""

from __future__ import annotations

import torch
from torch import Tensor


def low_rank_factors(
    P: Tensor, coefficients: Tensor, Q: Tensor, *, tolerance: float, rank: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return A and B with B A = P diag(c) Q, of the smallest rank within the tolerance.

    With ``rank``, B A is the nearest matrix of that rank: what it lacks has the Frobenius norm
    ``sqrt(sum of sigma_j^2 beyond it)``, never more than if the smallest terms P_j c_j Q_j were dropped (Eckart-Young).

    P = U_P R_P and Q^T = U_Q R_Q (thin QR), R_P diag(c) R_Q^T = U diag(sigma) V^T (an r x r SVD), so that the
    sigma are the singular values of the product, and B = U_P U sqrt(sigma), A = sqrt(sigma) V^T U_Q^T. In
    float64 on the CPU, at O((in + out) r^2) instead of the O(in out min(in, out)) of the SVD of the product.

    Args:
        P: ``(out, rank)``.
        coefficients: c, ``(rank,)``.
        Q: ``(rank, in)``.
        tolerance: Singular values up to this fraction of the largest one are dropped.
        rank: The largest number of them to keep; None for no limit.

    Returns:
        A, ``(kept, in)``, and B, ``(out, kept)``, in float64 on the CPU; ``kept`` may be 0.

    Example:
        >>> P, Q = torch.randn(5, 3), torch.randn(3, 4)
        >>> c = torch.tensor([2.0, 0.0, -1.0])
        >>> A, B = low_rank_factors(P, c, Q, tolerance=1e-7)
        >>> A.shape[0], torch.allclose(B @ A, (P * c @ Q).double(), atol=1e-5)
        (2, True)
    """
    P, coefficients, Q = (each.detach().to("cpu", torch.float64) for each in (P, coefficients, Q))
    left, left_core = torch.linalg.qr(P)  # (out, k), (k, rank) with k = min(out, rank)
    right, right_core = torch.linalg.qr(Q.mT)  # (in, m), (m, rank)
    U, sigma, Vh = torch.linalg.svd(left_core * coefficients @ right_core.mT, full_matrices=False)
    kept = sigma > tolerance * sigma[0]  # none where all are zero
    if rank is not None:
        kept[rank:] = False
    root = sigma[kept].sqrt()
    return root[:, None] * (Vh[kept] @ right.mT), (left @ U[:, kept]) * root


def pad_rank(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A and B with rows and columns of zeros added up to a rank, which leaves B A as it is.

    Example:
        >>> A, B = pad_rank(torch.ones(1, 4), torch.ones(5, 1), 3)
        >>> tuple(A.shape), tuple(B.shape)
        ((3, 4), (5, 3))
    """
    missing = rank - A.shape[0]
    return torch.cat([A, A.new_zeros(missing, A.shape[1])]), torch.cat([B, B.new_zeros(B.shape[0], missing)], dim=1)
