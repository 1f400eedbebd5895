"""The kernel regression: its facts, and the projection that the closed form stands for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distillaw.errors import ConfigError
from distillaw.toys.kernel import draw_target, flat_until, make_curves, student_error, teacher_error

SLACK = 1e-9  # errors are about ||alpha||; squares and roots of sums round at 1e-15 of its square


@st.composite
def problems(draw):
    """alpha, T, D with D <= T < ||alpha||; coefficients may vanish."""
    values = st.floats(-2.0, 2.0).map(lambda v: round(v, 3))
    alpha = draw(arrays(float, st.integers(1, 30), elements=values).filter(lambda a: np.any(a != 0)))
    norm = np.linalg.norm(alpha)
    teacher = norm * draw(st.floats(0.05, 0.99))
    student = teacher * draw(st.floats(0.05, 1.0))
    return alpha, {"teacher_budget": float(teacher), "student_budget": float(student)}


def every_error(alpha, budgets):
    """e_T and e_S for m = 0 to p (columns) and n = 0 to p (rows)."""
    sizes = np.arange(len(alpha) + 1)
    teacher = teacher_error(alpha, m=sizes, teacher_budget=budgets["teacher_budget"])
    return teacher, student_error(alpha, m=sizes, n=sizes[:, None], **budgets)


def into_ball(vector, radius):
    norm = np.linalg.norm(vector)
    return vector if norm <= radius else vector * (radius / norm)


@given(problems())
def test_errors_are_those_of_projections(problem):
    alpha, budgets = problem
    teacher, student = every_error(alpha, budgets)
    for m in range(len(alpha) + 1):
        taught = into_ball(np.where(np.arange(len(alpha)) < m, alpha, 0.0), budgets["teacher_budget"])
        assert teacher[m] == pytest.approx(np.linalg.norm(taught - alpha), abs=1e-7)
        for n in range(len(alpha) + 1):
            copied = into_ball(np.where(np.arange(len(alpha)) < n, taught, 0.0), budgets["student_budget"])
            assert student[n, m] == pytest.approx(np.linalg.norm(copied - alpha), abs=1e-7)


@given(problems())
def test_teachers_get_better_and_students_fall_then_rise(problem):
    alpha, budgets = problem
    teacher, student = every_error(alpha, budgets)
    assert (np.diff(teacher) <= SLACK).all()  # fact 1
    for n, errors in enumerate(student):
        assert (np.diff(errors[: n + 1]) <= SLACK).all()  # fact 2
        assert (np.diff(errors[n:]) >= -SLACK).all()  # fact 3
        assert errors[n] <= errors.min() + SLACK  # fact 4


@given(problems())
def test_the_bottom_is_flat_up_to_m_star_and_no_further(problem):
    alpha, budgets = problem
    _, student = every_error(alpha, budgets)
    until = flat_until(alpha, n=np.arange(len(alpha) + 1), **budgets)
    for n, errors in enumerate(student):
        assert n <= until[n] <= len(alpha)
        assert np.ptp(errors[n : until[n] + 1]) <= SLACK
        if n and until[n] < len(alpha) and np.linalg.norm(alpha[:n]) > 0:
            step = abs(alpha[until[n]])  # the coefficient that crosses the limit; a rise below rounding is none
            assert errors[until[n] + 1] >= errors[n] - SLACK and step > 0


def test_after_m_star_the_error_rises():
    alpha = draw_target(1000, seed=3)
    curves = make_curves(alpha, students=[300, 500, 700], teacher_budget=5, student_budget=4.5)
    for n, until, errors in zip(curves.n, curves.flat_until, curves.student_error, strict=True):
        assert n < until < 1000
        assert errors[until] > errors[n - 1] + 1e-7 and (np.diff(errors[until:]) > 0).all()
    # fact 8: the last teacher is the best and gives a worse student than the one of the student's own size
    assert curves.teacher_error[-1] == curves.teacher_error.min()
    assert curves.student_error[0, -1] > curves.student_error[0, 299] + 0.1


def test_the_flat_stretch_is_the_squared_ratio_of_the_budgets():
    """Fact 6 on average over draws; one draw scatters by a few percent."""
    ratios = [
        flat_until(draw_target(1000, seed=seed), n=400, teacher_budget=5, student_budget=4.5) / 400
        for seed in range(40)
    ]
    assert np.mean(ratios) == pytest.approx((5 / 4.5) ** 2, rel=0.02)


def test_the_rise_comes_from_the_budget_alone():
    """Fact 7: with a budget that binds no teacher, teachers above the student's size change nothing."""
    alpha = draw_target(200, seed=1)
    errors = student_error(alpha, m=np.arange(50, 201), n=50, teacher_budget=1e6, student_budget=2.0)
    assert np.ptp(errors) < SLACK


def test_edges():
    alpha, budgets = draw_target(50, seed=0), {"teacher_budget": 2.0, "student_budget": 1.5}
    norm = np.linalg.norm(alpha)
    assert teacher_error(alpha, m=0, teacher_budget=2.0) == pytest.approx(norm)
    assert student_error(alpha, m=0, n=10, **budgets) == pytest.approx(norm)
    assert student_error(alpha, m=10, n=0, **budgets) == pytest.approx(norm)
    late = np.r_[np.zeros(5), alpha]  # ||alpha_{1..m}|| = 0 up to m = 5
    assert student_error(late, m=5, n=3, **budgets) == pytest.approx(norm)
    assert flat_until(late, n=3, **budgets) >= 5
    equal = {"teacher_budget": 2.0, "student_budget": 2.0}
    assert flat_until(alpha, n=40, **equal) == 40  # D = T: no flat stretch once the budget binds
    assert student_error(alpha, m=41, n=40, **equal) > student_error(alpha, m=40, n=40, **equal)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"student_budget": 6.0}, "give D <= T"),
        ({"student_budget": 0.0}, "positive"),
        ({"teacher_budget": float("nan")}, "positive"),
        ({"teacher_budget": 100.0}, "no budget would bind"),
        ({"students": [0]}, "from 1 to 100"),
        ({"students": [101]}, "from 0 to 100"),
        ({"students": [2.5]}, "whole numbers"),
        ({"students": []}, "at least one"),
    ],
)
def test_bad_input(change, words):
    asked = {"students": [50], "teacher_budget": 3.0, "student_budget": 2.0} | change
    with pytest.raises(ConfigError, match=words):
        make_curves(draw_target(100, seed=0), **asked)


def test_bad_targets():
    with pytest.raises(ConfigError, match="at least one coefficient"):
        draw_target(0, seed=0)
    with pytest.raises(ConfigError, match="finite"):
        teacher_error([1.0, np.nan], m=1, teacher_budget=0.5)
