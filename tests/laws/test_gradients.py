"""The equation's gradients, which the second solver and the split of a budget use, against differences."""

from dataclasses import replace

import numpy as np
import pytest

from distillaw.laws import equation
from distillaw.laws.distillation import KappaDistillationLaw, ReducedDistillationLaw
from distillaw.laws.published import published
from distillaw.laws.supervised import SupervisedLaw
from slopes import slope

FULL = published("surrogate-s2").distillation
KAPPA = KappaDistillationLaw(
    **{n: getattr(FULL, n) for n in ("A", "B", "alpha", "beta", "gamma", "c0", "f1", "kappa")},
    supervised=FULL.supervised,
)
REDUCED = ReducedDistillationLaw(s0=3.0, p=0.2, c0=2.0, kappa=0.8, f1=0.2, supervised=FULL.supervised)
STUDENTS = {"full": FULL, "kappa": KAPPA, "reduced": REDUCED, "reduced-q": replace(REDUCED, q=0.05)}
ALONE = {
    "gamma": published("busbridge2025").supervised,
    "kaplan": SupervisedLaw(E=0.0, A=30.0, B=1e10, alpha=0.7, beta=1.0, gamma=0.1),
}
N, D = np.log(np.geomspace(1.5e8, 5e9, 4))[:, None], np.log(np.geomspace(3e9, 5e11, 3))


def assert_slopes(found, value, coefficients, at):
    """Of `value(coefficients, *at)` by every finite coefficient and by every place in `at`."""
    for name, number in coefficients.items():
        if name in found and np.isfinite(number) and not (name == "eps" and number == 0):
            step = 1e-3 * (abs(number) or 1.0)
            numeric = slope(lambda x, name=name: value(coefficients | {name: x}, *at.values()), number, step)
            np.testing.assert_allclose(*np.broadcast_arrays(found[name], numeric), rtol=1e-6, atol=1e-10, err_msg=name)
    for name, number in at.items():
        numeric = slope(lambda x, name=name: value(coefficients, *(at | {name: x}).values()), number)
        np.testing.assert_allclose(*np.broadcast_arrays(found[name], numeric), rtol=1e-6, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("law", ALONE.values(), ids=ALONE)
def test_supervised(law):
    c = law.standard
    found = equation.supervised_gradient(c, N, D)
    assert set(found) == {"n", "d", *equation.SUPERVISED}
    assert_slopes(found, equation.log_supervised, c, {"n": N, "d": D})


@pytest.mark.parametrize("law", STUDENTS.values(), ids=STUDENTS)
def test_student(law):
    c, s = law.standard, equation.log_supervised(law.supervised.standard, N, D)
    at = {"n": N, "d": D, "t": np.log(2.1), "s": s}
    found = equation.student_gradient(c, *at.values())
    assert set(found) == {*at, *equation.STUDENT}
    assert_slopes(found, equation.log_student, c, at)
    assert (found["s"] > 0).all()  # a student bad by itself is a worse student


def test_it_is_finite_for_poor_teachers():
    """Far beyond the break the literal bracket underflows; L_S is L_T there, and moves with it one to one."""
    for law in STUDENTS.values():
        at = np.log(1e9), np.log(2e10), np.log([6.0, 12.0])
        found = equation.student_gradient(law.standard, *at, equation.log_supervised(law.supervised.standard, *at[:2]))
        assert all(np.isfinite(part).all() for part in found.values())
        np.testing.assert_allclose(found["t"], 1.0, atol=1e-6)
