"""Every analytic gradient, by coordinates and by coefficients, against central differences of the prediction."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from distillaw.laws.capacity import CapacityGapLine
from distillaw.laws.distillation import DistillationLaw, KappaDistillationLaw, ReducedDistillationLaw
from distillaw.laws.published import published
from distillaw.laws.repetition import RepeatedDataLaw, RepetitionCorrection
from distillaw.laws.supervised import SupervisedLaw

SUPERVISED = published("busbridge2025").supervised
FULL = published("surrogate-s2").distillation
KAPPA = KappaDistillationLaw(
    **{n: getattr(FULL, n) for n in ("A", "B", "alpha", "beta", "gamma", "c0", "f1", "kappa")},
    supervised=FULL.supervised,
)
REDUCED = ReducedDistillationLaw(s0=3.0, p=0.2, c0=2.0, kappa=0.8, f1=0.2, supervised=FULL.supervised)
STUDENTS = {"full": FULL, "kappa": KAPPA, "reduced": REDUCED, "reduced-q": replace(REDUCED, q=0.05)}
GRID = {
    "student_params": np.geomspace(1.5e8, 5e9, 4)[:, None],
    "student_tokens": np.geomspace(3e9, 5e11, 3),
    "teacher_loss": 2.1,
}
REPEATED = published("muennighoff2023").repeated


def central(value: float | np.ndarray, at: Callable) -> np.ndarray:
    h = np.abs(value) * np.finfo(float).eps ** (1 / 3)
    return (at(value + h) - at(value - h)) / (2 * h)


def same(ours: np.ndarray, numeric: np.ndarray, value: float | np.ndarray, name: str) -> None:
    """To 1e-5, or to 1e-9 of the loss for a relative change of the argument."""
    ours, numeric = np.broadcast_arrays(ours * value, numeric * value)
    np.testing.assert_allclose(ours, numeric, rtol=1e-5, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    "law", [SUPERVISED, SupervisedLaw(E=0.0, A=30.0, B=1e10, alpha=0.7, beta=1.0, gamma=0.1)], ids=["gamma", "kaplan"]
)
def test_supervised(law):
    at = {"params": np.geomspace(1e8, 1e10, 3)[:, None], "tokens": np.geomspace(1e9, 1e12, 4)}
    found = law.gradient(**at)
    assert set(found) == {"params", "tokens", *law.coefficients}
    for name in at:
        same(found[name], central(at[name], lambda x, name=name: law(**{**at, name: x})), at[name], name)
    for name, value in law.coefficients.items():
        if value:
            same(found[name], central(value, lambda x, name=name: replace(law, **{name: x})(**at)), value, name)


@pytest.mark.parametrize("law", STUDENTS.values(), ids=STUDENTS)
def test_distillation_coefficients(law):
    found = law.gradient(**GRID)
    coefficients = set(law.coefficients) - ({"kappa"} if isinstance(law, DistillationLaw) else set())
    assert set(found) == {*GRID, "supervised_loss", *coefficients}
    for name in coefficients:
        value = getattr(law, name)
        same(found[name], central(value, lambda x, name=name: replace(law, **{name: x})(**GRID)), value, name)


@pytest.mark.parametrize("law", STUDENTS.values(), ids=STUDENTS)
def test_distillation_coordinates(law):
    """Ltilde_S follows the supervised law where it is not given, and is held where it is."""
    own = law.supervised(params=GRID["student_params"], tokens=GRID["student_tokens"])
    for given in ({}, {"supervised_loss": own}):
        at = GRID | given
        found = law.gradient(**at)
        for name in at:
            value = np.asarray(at[name])
            same(found[name], central(value, lambda x, name=name, at=at: law(**{**at, name: x})), value, name)
    assert (found["supervised_loss"] > 0).all()  # a student bad by itself is a worse student


def test_distillation_gradient_is_finite_for_poor_teachers():
    """Far beyond the break the literal bracket underflows; L_S is L_T there, and moves with it one to one."""
    for law in STUDENTS.values():
        found = law.gradient(student_params=1e9, student_tokens=2e10, teacher_loss=[6.0, 12.0])
        assert all(np.isfinite(part).all() for part in found.values())
        np.testing.assert_allclose(found["teacher_loss"], 1.0, atol=1e-6)


@pytest.mark.parametrize(
    "law", [REPEATED, replace(REPEATED, correction=RepetitionCorrection(repeat_scale=9.0))], ids=["both", "data-only"]
)
@pytest.mark.parametrize("tokens", [4e8, 7e10], ids=["one-pass", "repeated"])
@pytest.mark.parametrize("params", [2e7, 4e9], ids=["small", "excess"])
def test_repeated_data(law, tokens, params):
    at = {"params": params, "tokens": tokens, "unique_tokens": 2e9}
    found = law.gradient(**at)
    assert set(found) == {*at, *law.coefficients}
    for name, value in at.items():
        same(found[name], central(value, lambda x, name=name: law(**{**at, name: x})), value, name)
    for name, value in law.coefficients.items():
        same(found[name], central(value, lambda x, name=name: changed(law, name, x)(**at)), value, name)


def changed(law: RepeatedDataLaw, name: str, value: float) -> RepeatedDataLaw:
    part = "correction" if name.endswith("_scale") else "supervised"
    return replace(law, **{part: replace(getattr(law, part), **{name: value})})


def test_effective_tokens():
    correct = RepetitionCorrection(repeat_scale=15.0)
    for tokens in (5e8, 3e9, 8e10):
        at = {"tokens": tokens, "unique_tokens": 1e9}
        found = correct.gradient(**at)
        for name, value in at.items():
            numeric = central(value, lambda x, name=name, at=at: correct.effective_tokens(**{**at, name: x}))
            assert found[name] == pytest.approx(numeric, rel=1e-6, abs=1e-9)
        numeric = central(15.0, lambda x, at=at: RepetitionCorrection(repeat_scale=x).effective_tokens(**at))
        assert found["repeat_scale"] == pytest.approx(numeric, rel=1e-6, abs=1e-3)


def test_capacity_gap_line():
    line = CapacityGapLine(slope=2.498, intercept=-11.498)
    found = line.gradient(student_params=3e9)
    assert found["student_params"] == pytest.approx(central(3e9, lambda x: line(student_params=x)))
    for name, value in line.coefficients.items():
        numeric = central(value, lambda x, name=name: replace(line, **{name: x})(student_params=3e9))
        assert found[name] == pytest.approx(numeric, rel=1e-6)
