"""What the processes of a run tell each other, by the formulas of docs/several-processes.md."""

from dataclasses import dataclass

BYTES = 4  # of a number in float32


@dataclass(frozen=True)
class Sizes:
    """Parameters and their tensors by level, and how many numbers a step reports, the loss first."""

    lower: int
    lower_tensors: int
    upper: int
    upper_tensors: int
    lower_numbers: int = 2
    upper_numbers: int = 1


def lower_step(sizes: Sizes, *, comes_back: bool = False) -> int:
    """Return the bytes of a lower step's message; forward differences come back to its gradients, that in E too."""
    # Its own gradient too, a second time.
    recorded = sizes.lower + sizes.upper if comes_back else 0
    return BYTES * (sizes.lower + recorded + sizes.lower_tensors + sizes.lower_numbers + 2)


def upper_step(sizes: Sizes, *, products: int = 1) -> list[int]:
    """Return the bytes of an upper step's messages: means, a pass over the lower step each, and the step's own."""
    means = sizes.upper + sizes.lower + 2
    step = sizes.upper + sizes.upper_tensors + sizes.upper_numbers + 2
    return [BYTES * means, *[BYTES * sizes.upper] * products, BYTES * step]


def per_lower_step(sizes: Sizes, *, unroll_steps: int) -> float:
    """Return the mean bytes of a lower step and its share of an upper one, with forward differences."""
    unroll = (unroll_steps - 1) * lower_step(sizes) + lower_step(sizes, comes_back=True)
    return (unroll + sum(upper_step(sizes))) / unroll_steps


def ring(count: int) -> float:
    """Return how often a GPU of ``count`` sends, and receives, the bytes of a message: in a ring, the best there is."""
    return 2 * (count - 1) / count


def adapter_of_llama(*, rank: int, hidden: int = 4096, inside: int = 11008, layers: int = 32) -> Sizes:
    """Return the sizes of an adapter on all linear layers of a Llama of 7 billion parameters."""
    lower = rank * (4 * 2 * hidden + 3 * (hidden + inside)) * layers
    return Sizes(lower, 2 * 7 * layers, rank * 7 * layers, 7 * layers)
