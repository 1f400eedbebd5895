"""Rates that nobody checked: what they may cost is in what is said of the target."""

import math
from dataclasses import replace

import numpy as np
import pytest

from distillaw.laws.rates import SIZE, Optimum, fit_rate_law
from distillaw.settling.noise import KINDS, WORST, PilotPoints, RateCheck, Rates, rate_cov
from distillaw.settling.question import NONE
from distillaw.settling.standing import standing
from distillaw.sweep.tuning import ArmRates
from tests.settling.questions import make_question, settle

ENDS = 1e9
"""Tokens up to which rates were checked in the tests below."""


def law(name, params, tokens):
    """A law with three arms that scale alike, a teacher's students a little ahead."""
    loss = 1.7 + 0.6 * (1e8 / params) ** 0.3 + 0.7 * (1e9 / tokens) ** 0.3
    return loss * {"t0": 0.96, "t1": 0.98}.get(name, 1.0)


def drifting(name, params, tokens):
    """The same where the rate suits lone students of 2M tokens and, more and more, no longer ones."""
    off = 0.1 * max(0.0, math.log2(tokens / 2e6)) if name == NONE else 0.0
    return law(name, params, tokens) + 0.08 * off**2


def searched(arm: str, near: float, far: float | None = None, steepness: float | None = None) -> RateCheck:
    """A search at one budget or at two, which found 0.01 at the first."""
    found = [Optimum(params=1e7, tokens=d, octaves=math.log2(0.01), sd=0.2) for d in (near, far) if d]
    law = fit_rate_law(found, arm=KINDS[arm][0], params=1e7, tokens=near)
    rates = ArmRates(start=0.01, law=law, near=int(near), far=int(far or near))
    return RateCheck(arm=arm, rates=rates, law=law, checked=far, steepness=steepness)


def both(*search: float) -> Rates:
    return Rates(**{arm: searched(arm, *search) for arm in KINDS})


@pytest.fixture(scope="module")
def looks():
    """What the same pilots of the drifting truth say, by what was done for rates."""
    question = make_question(share=0.02)
    stages, runs, _ = settle(question, drifting)
    searches = {"short": both(2e6), "far": both(2e6, ENDS, 0.05)}
    found = {name: standing(replace(question, rates=rates), stages, runs) for name, rates in searches.items()}
    return found | {"taken as best": standing(question, stages, runs)}


def test_a_rate_that_suits_the_pilots_better_than_the_target_is_within_the_interval(looks):
    question = make_question()
    at_target = (question.target.params, question.tokens)
    truth = drifting(NONE, *at_target) - drifting("t0", *at_target)
    gain = looks["short"].gains["t0"]
    assert gain.lower <= truth <= gain.upper


def test_the_further_rates_were_checked_the_narrower_is_what_is_said(looks):
    width = {name: look.gains["t0"].upper - look.gains["t0"].lower for name, look in looks.items()}
    assert width["taken as best"] < 1.01 * width["far"] and width["far"] < width["short"]


@pytest.mark.parametrize("arm", KINDS)
def test_a_rate_costs_more_the_further_it_is_from_where_it_was_checked(arm):
    check = searched(arm, 1e6, 16e6)
    costs = [check.cost(1e7, tokens) for tokens in (16e6, 64e6, 256e6)]
    assert costs == sorted(costs) and costs[0] < costs[-1]
    assert check.cost(1e7, 4e6) < searched(arm, 1e6).cost(1e7, 4e6)
    assert check.cost(1e7, 16e6) < check.cost(2e7, 16e6) < check.cost(8e7, 16e6)
    assert searched(arm, 1e6).cost(1e7, 1e6) < RateCheck.unsearched(arm, 0.01, 1e7, 1e6).cost(1e7, 1e6)


def test_a_rate_that_was_not_checked_may_cost_a_lone_student_more():
    alone, taught = (searched(arm, 1e6).cost(1e7, 64e6) for arm in KINDS)
    assert taught < alone


def test_what_is_not_known_of_a_rate_is_what_its_law_does_not_know():
    check = searched("supervised", 1e6, 16e6)
    mean, spread = check.octaves([1e7, 4e7], [64e6, 64e6])
    best, sd = check.law.octaves(1e7, 64e6)
    var = (spread**2).sum(1)
    assert var[0] == pytest.approx(sd**2) and mean[0] == pytest.approx(math.log2(check.rate(64e6)) - best)
    assert mean[0] < 0, "a rate that nobody tried is set with caution"
    assert mean[1] == mean[0] and var[1] == pytest.approx(sd**2 + (2 * SIZE[1]) ** 2), "two doublings of size"


def test_a_fixed_rate_is_left_behind_by_the_drift_over_sizes():
    check = RateCheck.unsearched("supervised", 0.01, 1e6, 1e6)
    mean, _ = check.octaves([1e6, 8e6], [1e6, 1e6])
    assert mean == pytest.approx([0.0, -3 * SIZE[0]])


def test_costs_are_shared_as_octaves_are():
    """The second moments of c x^2, by drawing the law; runs of one size and budget share all, other arms nothing."""
    rates = both(1e6, 16e6)
    points = PilotPoints.at([1e7, 8e7, 8e7, 1e7], [16e6, 16e6, 32e6, 16e6], [0, 0, 0, 1])
    cov = rate_cov(rates, points, points, loss=50.0)  # far from the cap
    check = rates.supervised
    mean, spread = check.octaves(np.exp(points.log_params[:3]), np.exp(points.log_tokens[:3]))
    x = mean + np.random.default_rng(0).standard_normal((400_000, 4)) @ spread.T
    drawn = check.excess(np.exp(points.log_tokens[:3])) * x**2 / 50.0
    assert cov[:3, :3] == pytest.approx(drawn.T @ drawn / len(drawn), rel=0.05)
    assert not cov[:3, 3].any() and np.linalg.eigvalsh(cov).min() > -1e-12
    share = cov / np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    assert share[0, 1] < 0.95 and share[1, 2] < 0.999


def test_what_a_rate_may_cost_has_an_end():
    far = PilotPoints.at([1e7, 1e9], [1e6, 1e9], 0)
    cov = rate_cov(both(1e6), far, far, loss=3.0)
    assert cov[1, 1] == pytest.approx(WORST**2) and cov[0, 0] < cov[1, 1]


def test_a_question_with_rates_is_a_key_of_what_is_believed():
    """`believe` remembers by question: equal rates are equal keys, others are not."""
    one, same, other = both(1e6, 16e6), both(1e6, 16e6), both(1e6, 32e6)
    question = make_question()
    keys = {replace(question, rates=rates) for rates in (one, same, other)}
    assert len(keys) == 2


def test_runs_of_one_rate_share_a_trunk_and_its_noise():
    """Rates that fall a quarter of an octave from budget to budget: what is believed knows whose trunks those are."""
    question = replace(make_question(), rates=both(1e6, 16e6))
    places = [(1e7, tokens, 0) for tokens in (1e6, 1.1e6, 16e6)]
    near, beside, far = question.points(places).trunks
    assert near == beside != far
    one = replace(question, rates=both(1e6))
    assert len(set(one.points(places).trunks)) == 1
    assert len(set(make_question().points(places).trunks)) == 3
