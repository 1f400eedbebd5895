"""Rates that nobody checked: what they may cost is in what is said of the target."""

import math
from dataclasses import replace

import pytest

from distillaw.settling.noise import RateCheck, Rates
from distillaw.settling.question import NONE
from distillaw.settling.standing import standing
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


def both(check: RateCheck) -> Rates:
    return Rates(supervised=check, distilled=check)


@pytest.fixture(scope="module")
def looks():
    """What the same pilots of the drifting truth say, by what was done for rates."""
    question = make_question(share=0.02)
    stages, runs, _ = settle(question, drifting)
    checks = {"short": RateCheck(searched=2e6), "far": RateCheck(searched=2e6, checked=ENDS, steepness=0.05)}
    found = {
        name: standing(replace(question, rates=both(check)), stages, runs) for name, check in checks.items()
    }
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


def test_a_rate_costs_more_the_further_it_is_from_where_it_was_checked_and_more_alone():
    check = RateCheck(searched=1e6, checked=16e6)
    for kind in ("alone", "taught"):
        costs = [check.cost(kind, tokens, first=1e6) for tokens in (16e6, 64e6, 256e6)]
        assert costs == sorted(costs) and costs[0] < costs[-1]
        assert check.cost(kind, 4e6, first=1e6) < RateCheck(searched=1e6).cost(kind, 4e6, first=1e6)
        assert RateCheck(searched=1e6).cost(kind, 1e6, first=1e6) < RateCheck().cost(kind, 1e6, first=1e6)
    far = RateCheck(searched=1e6)
    assert far.cost("taught", 64e6, first=1e6) < far.cost("alone", 64e6, first=1e6)
