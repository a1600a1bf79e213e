"""Names of runs; tests/benchmarks has comparisons from end to end."""

from __future__ import annotations

from bilora.compare.methods import run_name


def test_names_of_a_user_s_own_method_make_plain_folders() -> None:
    assert run_name("package.module:VARIANT", 3) == "package.module-VARIANT-seed3"
