"""Products of bf16 matrices in float32: exact but for the last rounding, and those of torch's own autocast."""

import subprocess
import sys

import pytest
import torch
from programs import imported
from tracked_files import ROOT

products = imported("bf16_products")

# Of bf16, whose numbers have eight binary digits.
HALF_A_DIGIT = 2.0**-8
PROGRAM = """
import sys
sys.path.insert(0, "benchmarks")
import torch, bf16_products
from torch import nn

def gradients():
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = block(torch.randn(3, 5, 16)).square().mean()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in block.parameters()])

own = gradients()
bf16_products.has_bf16 = lambda device: False
assert bf16_products.replace_where_missing() and bf16_products.replace_where_missing()
ours = gradients()
print(float((ours - own).norm() / own.norm()))
bf16_products.has_bf16 = lambda device: True
assert not bf16_products.replace_where_missing()
"""


@pytest.mark.parametrize(
    ("name", "shapes"),
    [("mm", [(7, 50), (50, 3)]), ("addmm", [(3,), (7, 50), (50, 3)]), ("bmm", [(2, 7, 50), (2, 50, 3)])],
)
def test_a_product_is_the_exact_one_rounded_once(name: str, shapes: list[tuple[int, ...]]) -> None:
    torch.manual_seed(1)
    tensors = [torch.randn(shape).bfloat16() for shape in shapes]
    exact = getattr(torch, name)(*(tensor.double() for tensor in tensors))
    ours = products.KERNELS[name](*tensors)
    assert ours.dtype is torch.bfloat16
    # 1 % more, for the sum in float32 that came before.
    torch.testing.assert_close(ours.double(), exact, rtol=1.01 * HALF_A_DIGIT, atol=1e-5)


def test_a_product_in_float32_stays_what_it_was() -> None:
    a, b = torch.randn(7, 50), torch.randn(50, 3)
    assert torch.equal(products.KERNELS["mm"](a, b), a @ b)


def test_gradients_under_autocast_are_those_of_torch() -> None:
    command = [sys.executable, "-c", PROGRAM]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    # Two orders of the same sums, each rounded to bf16.
    assert float(answer.stdout) < HALF_A_DIGIT
    assert answer.stderr == ""
