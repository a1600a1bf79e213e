"""A baseline: PEFT's own DoRA (arXiv 2402.09353), magnitude and direction trained together on all the data."""

from dataclasses import replace
from functools import partial

from bilora.problems.variants import lora

VARIANT = replace(lora.VARIANT, name="dora", adapt=partial(lora.adapt, use_dora=True))
