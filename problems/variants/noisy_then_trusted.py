"""Train on doubtful rows (D1), then go on with trusted ones (D2), with what the first stage has learned on these."""

from dataclasses import replace

from bilora.problems.variants import self_tuned

# Weak training followed by a continuation on few clean rows: Zhu et al. 2023, arXiv 2305.17442.
VARIANT = replace(self_tuned.VARIANT, name="noisy_then_trusted", ending="then_trusted")
