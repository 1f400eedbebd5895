"""What `cost --devices` says of memory is what our own step takes, simulated at the real number of devices."""

from dataclasses import replace

import pytest

from benchmarks.engine.simulated_memory import formula, simulated_peak
from distillaw.shapes import Shape

STUDENT = Shape(layers=6, width=512, ffn=1408, heads=8, kv_heads=4, head_dim=64, vocab=8192, context=512)
TEACHER = replace(STUDENT, layers=12, width=1024, ffn=2816, heads=16, kv_heads=8)


@pytest.mark.parametrize(
    ("world", "sequences", "recompute", "teacher"),
    [
        (64, 2, False, TEACHER),
        pytest.param(8, 8, True, TEACHER, marks=pytest.mark.slow),
        pytest.param(8, 8, False, TEACHER, marks=pytest.mark.slow),
    ],
)
def test_memory_is_within_a_tenth_of_the_simulated_step(world, sequences, recompute, teacher):
    how = {"world": world, "sequences": sequences, "recompute": recompute}
    assert formula(STUDENT, teacher, **how) == pytest.approx(simulated_peak(STUDENT, teacher, **how), rel=0.1)
