"""Who pays what: the four corners, amortisation, budgets, and axes that must not be mixed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillaw.accounting.architecture import (
    ParamConvention,
    Params,
    count_params,
    distillation_axis,
    params_of,
    training_axis,
)
from distillaw.accounting.scenarios import (
    CostShares,
    Scenario,
    amortised,
    break_even_students,
    family_compute,
    total_compute,
)
from distillaw.errors import ConfigError, UnitError
from distillaw.shapes import shape_for_params

flop = st.floats(1e3, 1e12)
tokens = st.floats(1e3, 1e15)


@given(flop, tokens, flop, tokens)
def test_the_four_corners(f_s, d_s, f_t, d_t):
    totals = {
        s: total_compute(
            student_forward=f_s, student_tokens=d_s, teacher_forward=f_t, teacher_tokens=d_t, shares=s.value
        ).total
        for s in Scenario
    }
    assert totals[Scenario.BEST_CASE] == pytest.approx(3 * f_s * d_s)
    assert totals[Scenario.INFERENCE] == pytest.approx(3 * f_s * d_s + f_t * d_s)
    assert totals[Scenario.PRETRAINING] == pytest.approx(3 * f_s * d_s + 3 * f_t * d_t)
    assert totals[Scenario.PRETRAINING_INFERENCE] == max(totals.values())


@given(flop, tokens, flop, tokens, st.integers(1, 50), st.booleans())
def test_n_equal_students_with_their_shares_cost_the_family(f_s, d_s, f_t, d_t, n, shared):
    shares = amortised(n, logits="shared" if shared else "own")
    one = total_compute(student_forward=f_s, student_tokens=d_s, teacher_forward=f_t, teacher_tokens=d_t, shares=shares)
    family = family_compute(
        student_forwards=[f_s] * n,
        student_tokens=[d_s] * n,
        teacher_forward=f_t,
        teacher_tokens=d_t,
        shared_logits=shared,
    )
    assert n * one.total == pytest.approx(family.total)
    assert family.without_teacher == pytest.approx(3 * f_s * d_s * n)


@given(flop, tokens, flop, tokens, st.integers(1, 20), st.booleans())
def test_marginal_is_what_one_more_student_adds(f_s, d_s, f_t, d_t, n, shared):
    def family(number):
        return family_compute(
            student_forwards=[f_s] * number,
            student_tokens=[d_s] * number,
            teacher_forward=f_t,
            teacher_tokens=d_t,
            shared_logits=shared,
        )

    assert family(n + 1).total - family(n).total == pytest.approx(
        family(n).marginal, rel=1e-6, abs=1e-9 * family(n + 1).total
    )


def test_an_existing_teacher_and_stored_logits():
    assert amortised(4, pretraining_paid=False, logits="free") == Scenario.BEST_CASE.value
    assert amortised(4, logits="shared") == CostShares(0.25, 0.25)


@given(st.floats(1, 1e6), st.floats(0, 1e6), st.floats(0, 1e6))
def test_break_even_is_the_smallest_number_that_pays(supervised, distilled, once):
    n = break_even_students(supervised=supervised, distilled=distilled, teacher_once=once)
    if n is None:
        assert distilled >= supervised
        return
    saved = supervised - distilled
    assert n >= 1
    assert once < n * saved * (1 + 1e-12)
    assert n == 1 or once >= (n - 1) * saved * (1 - 1e-12)


def test_arrays_broadcast():
    costs = total_compute(
        student_forward=np.array([1.0, 2.0]), student_tokens=10.0, teacher_forward=3.0, teacher_tokens=5.0
    )
    assert costs.total.tolist() == [30 + 30 + 45, 60 + 30 + 45]


def test_bad_requests_say_what_to_write():
    with pytest.raises(ConfigError, match="at least one student"):
        amortised(0)
    with pytest.raises(ConfigError, match="own, shared, free"):
        amortised(2, logits="cached")
    with pytest.raises(ConfigError, match="one of each per student"):
        family_compute(student_forwards=[1.0], student_tokens=[1.0, 2.0], teacher_forward=1.0)
    with pytest.raises(ConfigError, match="lies in"):
        CostShares(2.0, 0.0)


class TestAxesAreNotMixed:
    def test_the_pareto_axis_takes_all_weights_only(self):
        with pytest.raises(UnitError, match="bare number"):
            training_axis(7e9, 2e12)
        small = Params(1e9, ParamConvention.NON_EMBEDDING)
        with pytest.raises(UnitError, match="needs all-weights parameters, got 1e"):
            distillation_axis(Params(3e9, ParamConvention.ALL_WEIGHTS), small, 1e9)

    def test_teacher_training_is_an_option_of_the_pareto_axis(self):
        student = Params(3e9, ParamConvention.ALL_WEIGHTS)
        teacher = Params(7e9, ParamConvention.ALL_WEIGHTS)
        without = distillation_axis(student, teacher, 1e9)
        with_training = distillation_axis(student, teacher, 1e9, teacher_tokens=2e9)
        assert with_training - without == pytest.approx(6 * 7e9 * 2e9)


def test_an_exact_count_in_each_convention():
    count = count_params(shape_for_params(1e6, vocab=512, context=64))
    assert params_of(count, ParamConvention.NON_EMBEDDING).value == count.non_embedding
    assert params_of(count, ParamConvention.ONE_MATRIX, active=True).value == count.one_matrix
    assert params_of(count, ParamConvention.ALL_WEIGHTS, active=True).value == count.total
