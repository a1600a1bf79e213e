"""What is optimised: the lower and the upper level as Betty problems, and one file per variant."""

if __name__ != "bilora.problems":
    raise ImportError("this folder is imported as bilora.problems; run 'pip install -e .' in the checkout once")

# Betty is imported here, before any file of this folder, so that the error is the same whichever is imported first.
try:
    import betty.problems  # noqa: F401
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "betty":
        raise  # Betty is there; something that it needs is not
    raise ImportError(
        "bilora.problems needs Betty, which pip cannot install by itself on Python >= 3.11; run: "
        "pip install --no-deps --ignore-requires-python betty-ml==0.2.1",
        name="betty",
    ) from None

from bilora.problems.catalog import VARIANTS, find_variant
from bilora.problems.levels.betty_problem import Companion
from bilora.problems.levels.hypergradient import Hypergradient
from bilora.problems.levels.level import Level
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.problems.replay.lower_step import LowerStep, Needs
from bilora.problems.stage import Stage, Watch
from bilora.problems.variant import AdapterSettings, Variant

__all__ = [
    "VARIANTS",
    "AdapterSettings",
    "Companion",
    "Hypergradient",
    "Level",
    "LowerProblem",
    "LowerStep",
    "Needs",
    "Stage",
    "UpperProblem",
    "Variant",
    "Watch",
    "find_variant",
]
