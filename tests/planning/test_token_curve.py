"""The curve that an arm is drawn on with beyond its budgets."""

import math

import numpy as np
import pytest

from distillaw.planning.arms import MANY, NOISE, TEXT, draw_on

BUDGETS = [2e7, 4e7, 8e7]
PARAMS = 1e7


def losses_of(floor, beta, tokens, last=3.0):
    """A power law above a floor, a share of the loss at the largest budget."""
    x = np.asarray(tokens) / BUDGETS[-1]
    return last * (floor + (1 - floor) * x**-beta)


@pytest.mark.parametrize("times", [1.5, 3, 10])
def test_intervals_hold_for_curves_of_the_prior(times):
    """Floors and exponents as the prior has them, with the noise and the drift that it grants."""
    rng, hits, n = np.random.default_rng(0), 0, 300
    middle = TEXT.floor[0] + TEXT.rise * math.log(BUDGETS[-1] / PARAMS / MANY)
    for _ in range(n):
        floor = 1 / (1 + math.exp(-rng.normal(middle, TEXT.floor[1])))
        beta = math.exp(rng.normal(*TEXT.exponent))
        seen = losses_of(floor, beta, BUDGETS) * np.exp(NOISE * rng.standard_normal(3))
        truth = losses_of(floor, beta, times * BUDGETS[-1])
        truth *= math.exp(TEXT.drift * math.log(times) * rng.standard_normal())
        said = draw_on(BUDGETS, seen, times * BUDGETS[-1], params=PARAMS, teacher_loss=None)
        hits += abs(said.loss - truth) < 1.645 * math.hypot(said.sd, NOISE * truth)
    assert 0.85 < hits / n < 0.97


@pytest.mark.parametrize("teacher_loss", [None, 2.6])
def test_slopes_are_those_of_the_prediction(teacher_loss):
    def loss(values):
        return draw_on(BUDGETS, values, 3e8, params=PARAMS, teacher_loss=teacher_loss).loss

    seen = losses_of(0.8, 0.4, BUDGETS)
    slopes = draw_on(BUDGETS, seen, 3e8, params=PARAMS, teacher_loss=teacher_loss).slopes
    for k, slope in enumerate(slopes):
        step = 1e-3 * np.eye(3)[k]
        assert slope == pytest.approx((loss(seen + step) - loss(seen - step)) / 2e-3, rel=0.05, abs=1e-3)
    assert sum(slopes) > 0


def test_more_budgets_know_more_and_further_out_less_is_known():
    seen = losses_of(0.7, 0.4, BUDGETS)
    few, all_ = (
        [draw_on(BUDGETS[k:], seen[k:], t, params=PARAMS, teacher_loss=None).sd for t in (1e8, 2.4e8, 8e8)]
        for k in (1, 0)
    )
    assert few == sorted(few)
    assert all(a < b for a, b in zip(all_, few, strict=True))


def test_students_of_a_teacher_come_down_to_it_and_those_of_text_go_on():
    seen = losses_of(0.85, 0.7, BUDGETS)
    alone, taught = (draw_on(BUDGETS, seen, 8e8, params=PARAMS, teacher_loss=teacher) for teacher in (None, 0.86 * 3.0))
    assert alone.loss < taught.loss
    assert taught.loss == pytest.approx(losses_of(0.85, 0.7, 8e8), rel=0.015)
    assert taught.floor == pytest.approx(0.86 * 3.0, rel=0.02)
    assert taught.sd < alone.sd


def test_a_curve_of_few_tokens_per_parameter_has_further_to_fall():
    seen = losses_of(0.7, 0.4, BUDGETS[1:])
    small, large = (draw_on(BUDGETS[1:], seen, 8e8, params=n, teacher_loss=None).loss for n in (1e6, 1e8))
    assert large < small < seen[-1]
