"""Exact factors of a low-rank matrix, without ever forming it."""

import torch
from torch import Tensor


def low_rank_factors(
    P: Tensor, coefficients: Tensor, Q: Tensor, *, tolerance: float, rank: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return A, ``(kept, in)``, and B, ``(out, kept)``, in float64 on the CPU, with B A = P diag(c) Q."""
    # P = U_P R_P and Q^T = U_Q R_Q (thin QR), R_P diag(c) R_Q^T = U diag(sigma) V^T (an r x r SVD), so that the sigma
    # are the singular values of the product, and B = U_P U sqrt(sigma), A = sqrt(sigma) V^T U_Q^T: O((in + out) r^2)
    # instead of the O(in out min(in, out)) of an SVD of the product.
    # On the CPU: MPS has no float64, and GPUs are slow at small decompositions.
    P, coefficients, Q = (factor.detach().to("cpu", torch.float64) for factor in (P, coefficients, Q))
    left, left_core = torch.linalg.qr(P)  # (out, k), (k, rank) with k = min(out, rank)
    right, right_core = torch.linalg.qr(Q.mT)  # (in, m), (m, rank)
    U, sigma, Vh = torch.linalg.svd(left_core * coefficients @ right_core.mT, full_matrices=False)
    # B A is the nearest matrix of its rank: it lacks sqrt(sum of the dropped sigma_j^2) in the Frobenius norm, never
    # more than if the smallest terms P_j c_j Q_j were dropped (Eckart-Young).
    kept = sigma > tolerance * sigma[0]  # none where all are zero
    if rank is not None:
        kept[rank:] = False
    # Half of each sigma to either factor, so that neither is of another size than the other.
    root = sigma[kept].sqrt()
    return root[:, None] * (Vh[kept] @ right.mT), (left @ U[:, kept]) * root


def pad_rank(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A and B with rows and columns of zeros added up to a rank, which leaves B A as it is."""
    missing = rank - A.shape[0]
    return torch.cat([A, A.new_zeros(missing, A.shape[1])]), torch.cat([B, B.new_zeros(B.shape[0], missing)], dim=1)
