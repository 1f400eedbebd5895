"""What the two papers show of optima."""

import numpy as np
import pytest
from law_sets import SURROGATES, laws

from distillaw.accounting.family import FixedAspect
from distillaw.accounting.scenarios import Scenario
from distillaw.laws.published import published
from distillaw.planning.optimum import optimal_distillation

F = FixedAspect().forward_flops
PRINTED = "busbridge2025"
BOTH = Scenario.PRETRAINING_INFERENCE.value

# laws.md 8.1, "efficiency text (D.5)": shares of the supervised tokens and compute; as many digits as printed there
EFFICIENCY = [
    (PRINTED, 5e8, 2.4, (0.012, 0.0005), (0.09, 0.005)),
    (PRINTED, 1e10, 2.2, (0.0, 0.0006), (0.001, 0.0005)),
    ("surrogate-s1", 5e8, 2.4, (0.49, 0.005), (0.68, 0.005)),
    ("surrogate-s1", 1e10, 2.2, (0.19, 0.005), (0.25, 0.005)),
    ("surrogate-s2", 5e8, 2.4, (0.66, 0.005), (0.86, 0.005)),
    ("surrogate-s2", 1e10, 2.2, (0.44, 0.005), (0.53, 0.005)),
    ("surrogate-s3", 5e8, 2.4, (0.54, 0.005), (0.73, 0.005)),
    ("surrogate-s3", 1e10, 2.2, (0.41, 0.005), (0.49, 0.005)),
]


@pytest.mark.parametrize(("name", "student", "target", "tokens", "compute"), EFFICIENCY)
def test_efficiency_with_a_teacher_that_exists(name, student, target, tokens, compute):
    alone = float(published(name).supervised.tokens_for_loss(params=student, loss=target))
    budgets = 3 * F(student) * alone * np.geomspace(1e-4, 2, 300)
    ask = {"student_params": student, "shares": Scenario.INFERENCE.value}
    loss = optimal_distillation(laws(name), compute=budgets, **ask).student_loss
    budget = np.exp(np.interp(-target, -loss, np.log(budgets)))
    plan = optimal_distillation(laws(name), compute=budget, **ask)
    assert plan.student_loss == pytest.approx(target, abs=1e-4)
    assert plan.student_tokens / alone == pytest.approx(tokens[0], abs=tokens[1])
    assert budget / (3 * F(student) * alone) == pytest.approx(compute[0], abs=compute[1])


@pytest.mark.parametrize(("name", "loss"), [(PRINTED, 1.70), *zip(SURROGATES, (1.79, 2.01, 1.85), strict=True)])
def test_best_case_teacher_loss_of_a_1b_student(name, loss):
    plan = optimal_distillation(laws(name), student_params=1e9, compute=1e20, shares=Scenario.BEST_CASE.value)
    assert plan.teacher_loss == pytest.approx(loss, abs=0.005)


@pytest.mark.parametrize(("name", "least", "most"), [(PRINTED, 0.1, 0.5), *((s, 0.49, 0.76) for s in SURROGATES)])
def test_large_students_of_paid_teachers_spend_on_themselves(name, least, most):
    # table 3 of the paper: mostly student training; the printed coefficients miss it
    plan = optimal_distillation(laws(name), student_params=[[1e10], [3e10]], compute=[1e20, 3e20, 1e21], shares=BOTH)
    assert plan.student_share.min() > least and plan.student_share.max() < most


def test_best_case_of_a_50b_student():
    losses = {
        name: float(
            optimal_distillation(
                laws(name), student_params=5e10, compute=1e20, shares=Scenario.BEST_CASE.value
            ).student_loss
        )
        for name in (PRINTED, *SURROGATES)
    }
    # "far too low, a little low, a little low, slightly low"
    assert losses[PRINTED] < 1.8
    assert 2.55 < losses["surrogate-s1"] < losses["surrogate-s2"] < losses["surrogate-s3"] < 2.7


@pytest.mark.parametrize("name", [PRINTED, *SURROGATES])
def test_best_student_under_one_teacher(name):
    # 7.75B teacher (20 tokens per parameter assumed), 3e19 FLOP: the plot ends at 12.6B
    sizes = np.geomspace(1e8, 1e11, 400)
    given = {"teacher_params_bounds": (7.747e9, 7.747e9), "teacher_tokens_bounds": (1.5494e11, 1.5494e11)}
    plan = optimal_distillation(
        laws(name), student_params=sizes, compute=3e19, shares=Scenario.INFERENCE.value, **given
    )
    np.testing.assert_allclose(plan.student_tokens, 3e19 / (3 * F(sizes) + F(7.747e9)), rtol=1e-9)
    best = sizes[np.argmin(plan.student_loss)]
    assert best > 12.6e9 if name == PRINTED else 1e9 < best < 4e9


@pytest.mark.parametrize("name", SURROGATES)
def test_trends_when_everything_is_paid(name):
    plan = optimal_distillation(
        laws(name), student_params=[[3e8], [1e9], [3e10]], compute=np.geomspace(1e19, 1e26, 15), shares=BOTH
    )
    ratio = plan.teacher_params / plan.student_params
    small, large = plan.teacher_tokens[:2] / plan.teacher_params[:2], ratio[:2]
    # small C: a compute-optimal teacher smaller than the student; large C: overtrained, larger, then falling
    assert (small[:, 0] < 25).all() and (small[:, -1] > 1000).all()
    assert (large[:, 0] < 1).all() and (large.max(axis=1) > 2).all() and (large[:, -1] < large.max(axis=1)).all()
    # small students: the teacher takes the largest part at 1e20..1e21, students and logits halve 1e25
    assert (plan.teacher_share[0, 2:5] > np.maximum(plan.student_share, plan.logits_share)[0, 2:5]).all()
    np.testing.assert_allclose(plan.student_share[:2, 13], 0.5, atol=0.1)
    np.testing.assert_allclose(plan.logits_share[:2, 13], 0.5, atol=0.1)
    # large ones: three parts of one order at 1e25, student training first below 1e21
    assert plan.student_share[2, :4].min() > 0.5
    assert 0.2 < plan.student_share[2, 12] and plan.teacher_share[2, 12] < 0.5
