"""Bounds that hold whenever one stops, if what is believed is right."""

import numpy as np
import pytest

from distillaw.settling.standing import Contrasts


def stops(margin, *, level=0.9, count=800, looks=5, arms=4):
    """Of truths drawn from the prior, those that some look called settled, and whether the bound held then.

    Losses have a standard normal prior; every look adds an observation of each with unit noise.
    """
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        truth = rng.standard_normal(arms)
        total = np.zeros(arms)
        for look in range(1, looks + 1):
            total += truth + rng.standard_normal(arms)
            draws = total / (1 + look) + rng.standard_normal((400, arms)) / np.sqrt(1 + look)
            now = Contrasts(losses_MA=draws, level=level)
            leader = int(draws.mean(0).argmin())
            bound = now.bound(leader, range(arms))
            if bound <= margin:
                found.append(truth[leader] - truth.min() <= bound)
                break
    return np.array(found)


@pytest.mark.parametrize("margin", [0.3, 0.8])
def test_of_the_stops_a_tenth_is_wrong_at_most(margin):
    held = stops(margin)
    assert len(held) > 50
    assert 0.86 < held.mean() <= 1.0  # 0.9 nominal; three standard errors of 250 stops are 0.06


def test_a_teacher_that_may_do_no_good_has_no_bound_as_a_useful_one():
    rng = np.random.default_rng(1)
    gain = rng.normal(0.1, 0.1, 1000)  # no good in a sixth of the draws
    now = Contrasts(losses_MA=np.stack([np.full(1000, 3.0), 3.0 - gain], axis=1), level=0.9)
    assert now.bound(1, (0, 1)) < 0.05 and np.isinf(now.bound(1, (0, 1), useful=True))
    sure = Contrasts(losses_MA=now.losses_MA - [[0.0, 0.2]], level=0.9)
    assert sure.bound(1, (0, 1), useful=True) == 0.0
    assert sure.ahead(1, 0) == pytest.approx(0.3 - 0.128, abs=0.02)
