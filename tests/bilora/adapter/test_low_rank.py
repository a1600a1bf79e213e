"""The factors against numpy's SVD of the whole product."""

import numpy
import pytest
import torch

from bilora.adapter.low_rank import low_rank_factors, pad_rank

SHAPES = {"tall": (40, 4, 12), "wide": (12, 4, 40), "rank above a side": (3, 5, 9), "one": (6, 1, 6)}


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_give_the_product_with_its_singular_values(shape: str) -> None:
    out_size, rank, in_size = SHAPES[shape]
    P, Q, c = torch.randn(out_size, rank), torch.randn(rank, in_size), torch.randn(rank)
    A, B = low_rank_factors(P, c, Q, tolerance=0.0)
    product = (P.double() * c.double()) @ Q.double()
    torch.testing.assert_close(B @ A, product, rtol=1e-12, atol=1e-12)
    sigma = numpy.linalg.svd(product.numpy(), compute_uv=False)[: A.shape[0]]
    # sqrt(sigma) in both: the factors are balanced.
    numpy.testing.assert_allclose(A.square().sum(1).numpy(), sigma, rtol=1e-9, atol=1e-12)
    numpy.testing.assert_allclose(B.square().sum(0).numpy(), sigma, rtol=1e-9, atol=1e-12)


def test_dead_and_dependent_directions_are_dropped() -> None:
    P, Q = torch.randn(9, 5), torch.randn(5, 7)
    P[:, 1] = P[:, 0]
    Q[1] = 2 * Q[0]  # the first two terms are one direction
    c = torch.tensor([1.0, 1.0, 0.0, -2.0, 1.0])  # the third is dead
    A, B = low_rank_factors(P, c, Q, tolerance=1e-7)
    assert A.shape == (3, 7) and B.shape == (9, 3)
    torch.testing.assert_close(B @ A, ((P * c) @ Q).double(), rtol=1e-5, atol=1e-5)


def test_tolerance_is_relative_to_the_largest() -> None:
    P, Q, c = torch.eye(4), torch.eye(4), 1e-6 * torch.tensor([1.0, 0.5, 0.05, 0.01])
    assert [len(low_rank_factors(P, c, Q, tolerance=part)[0]) for part in (0.0, 0.02, 0.1, 0.5)] == [4, 3, 2, 1]


def test_a_rank_keeps_the_largest_singular_values() -> None:
    P, Q, c = torch.randn(9, 5), torch.randn(5, 7), torch.randn(5)
    A, B = low_rank_factors(P, c, Q, tolerance=0.0, rank=2)
    U, sigma, Vh = numpy.linalg.svd((P.double() * c.double() @ Q.double()).numpy(), full_matrices=False)
    numpy.testing.assert_allclose((B @ A).numpy(), U[:, :2] * sigma[:2] @ Vh[:2], rtol=1e-9, atol=1e-12)


def test_a_product_of_zero_has_rank_zero() -> None:
    A, B = low_rank_factors(torch.zeros(4, 2), torch.ones(2), torch.randn(2, 5), tolerance=1e-7)
    assert A.shape == (0, 5) and B.shape == (4, 0)


def test_padding_keeps_the_product() -> None:
    A, B = torch.randn(2, 5), torch.randn(4, 2)
    wide_A, wide_B = pad_rank(A, B, 3)
    assert wide_A.shape == (3, 5) and wide_B.shape == (4, 3)
    assert torch.equal(wide_B @ wide_A, B @ A)
