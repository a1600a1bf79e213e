"""A control for BiLoRA: its levels take turns on D1 and D2, neither knowing how the other will answer."""

from dataclasses import replace

from bilora.problems.variants import bilora

# w = 0 takes away exactly the term by which the upper level knows how the lower one will answer.
VARIANT = replace(bilora.VARIANT, name="alternating", hypergradient="first_order")
