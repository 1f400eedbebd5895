"""What `cost --devices` says of memory is what our own step takes, simulated at the real number of devices."""

import pytest

from benchmarks.engine.simulated_memory import formula, simulated_peak, small

STUDENT, TEACHER = small()[0][1:3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "sequences", "recompute", "teacher"),
    [
        (64, 2, False, TEACHER),
        pytest.param(512, 2, False, None, marks=pytest.mark.slow),
        pytest.param(8, 8, True, TEACHER, marks=pytest.mark.slow),
        pytest.param(8, 8, False, TEACHER, marks=pytest.mark.slow),
    ],
)
def test_memory_is_within_a_tenth_of_the_simulated_step(world, sequences, recompute, teacher):
    how = {"world": world, "sequences": sequences, "recompute": recompute}
    assert formula(STUDENT, teacher, **how) == pytest.approx(simulated_peak(STUDENT, teacher, **how), rel=0.1)
