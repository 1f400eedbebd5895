import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rate_bounds import SHRUNK

from distillaw.laws.rates import Optimum, fit_rate_law
from distillaw.sweep.tuning import (
    ArmRates,
    FallingRate,
    OneRate,
    TrunkRate,
    TuningPlan,
    fall_power,
    first_fall,
    search_distilled,
    search_supervised,
    search_teacher,
)

RATIO = 16.0


def _plan(*, rounds=8, lowest=-6, far_sizes=("small",), **others):
    others = {"sizes": ["small", "large"], "far_budget": RATIO} | others
    return TuningPlan(far_sizes=far_sizes, rounds=rounds, lowest_batch=lowest, **others)


def _run(search, surface):
    """Drive a search to its end on a surface; returns (search, losses by point)."""
    seen = {}
    while True:
        found = search(seen.get)
        if found.is_done:
            return found, seen
        assert not set(found.needed) & set(seen), "asked for a point it already had"
        seen.update({point: surface(point) for point in found.needed})


def _bowl(best_rate, best_fall=0, best_batch=0):
    """A smooth surface: the best rate at the search's budget, and how far it has fallen at the largest."""

    def surface(point):
        off = point.rate - best_rate[point.size] - (point.fall - best_fall) * point.is_far
        return 3.0 + 0.1 * off**2 + 0.05 * (point.batch - best_batch) ** 2

    return surface


def _supervised(surface, **others):
    plan = _plan(**others)
    return _run(lambda lookup: search_supervised(lookup, plan), surface)


@settings(deadline=None)
@given(small=st.integers(-4, 4), large=st.integers(-4, 4), fall=st.integers(-2, 4), batch=st.integers(-3, 3))
def test_the_search_finds_the_optimum_wherever_it_lies(small, large, fall, batch):
    search, _ = _supervised(_bowl({"small": small, "large": large}, fall, batch))
    assert search.rate == {("supervised", "small"): small, ("supervised", "large"): large}
    assert search.fall == {("supervised", "small"): fall}
    assert search.batch == batch
    assert all(search.interior.values()) and search.rates_known


def test_what_a_centred_start_costs():
    """Three rates at both sizes on the search's budget; at the largest three falls and two more batches, one size."""
    search, seen = _supervised(_bowl({"small": 0, "large": 0}, first_fall(RATIO)))
    assert sum(not point.is_far for point in seen) == 6
    assert sum(point.is_far for point in seen) == 5
    assert search.batch == 0


def test_without_a_check_at_the_largest_budget_no_rate_falls():
    search, seen = _supervised(_bowl({"small": 1, "large": 0}, 2), far_sizes=())
    assert not search.fall and not any(point.is_far or point.fall for point in seen)
    assert search.interior["supervised", "small", "batch"]


def test_an_optimum_out_of_reach_is_reported_as_not_interior():
    search, _ = _supervised(_bowl({"small": 5, "large": 0}, 6), rounds=1)
    assert search.interior["supervised", "small", "rate"] is False
    assert search.interior["supervised", "small", "fall"] is False
    assert search.interior["supervised", "large", "rate"] is True


def test_the_distilled_arm_moves_its_rate_and_its_fall_but_not_the_batch():
    plan = _plan()
    search, _ = _run(
        lambda lookup: search_distilled(lookup, plan, batch=0), _bowl({"small": 1, "large": -1}, 1, -2)
    )
    assert search.batch == 0
    assert search.rate == {("distilled", "small"): 1, ("distilled", "large"): -1}
    assert search.fall == {("distilled", "small"): 1}
    assert search.interior["distilled", "small", "batch"] is False  # said, not hidden
    assert search.rates_known


def test_a_teacher_is_searched_for_its_fall_alone():
    plan = _plan()
    search, seen = _run(
        lambda lookup: search_teacher(lookup, plan, "big", batch=1, start=1), _bowl({"big": 0}, 3)
    )
    assert search.fall == {("teacher", "big"): 3}
    assert all(point.is_far and (point.rate, point.batch) == (0, 1) for point in seen)


def test_one_sequence_per_step_is_the_smallest_batch():
    search, _ = _supervised(_bowl({"small": 0, "large": 0}, 1, -5), lowest=-1)
    assert search.batch == -1


def test_a_diverged_rate_counts_as_the_worst():
    def surface(point):
        if point.rate > 0:
            return math.inf
        return _bowl({"only": -1}, 1)(point)

    search, _ = _supervised(surface, sizes=["only"], far_sizes=("only",), rounds=3)
    assert search.rate["supervised", "only"] == -1 and search.is_done


def test_where_all_rates_diverge_the_search_goes_down():
    search, seen = _supervised(lambda point: math.inf, rounds=2, batches=False)
    assert search.rate["supervised", "small"] == min(p.rate for p in seen) < -1
    assert search.fall["supervised", "small"] == max(p.fall for p in seen) > 1


def test_a_guess_stays_where_the_search_is():
    """Nothing is needed, everything a plain search would ask for first is there, and what is known counts."""
    _, seen = _supervised(_bowl({"small": 0, "large": 0}, first_fall(RATIO)))
    guess = search_supervised({}.get, _plan(guess=True))
    assert guess.is_done and guess.rates_known
    assert set(guess.points) == set(seen)
    _, moved = _supervised(_bowl({"small": 2, "large": 0}, 1, 1))
    known = {point: loss for point, loss in moved.items() if point.size == "small" and not point.is_far}
    assert search_supervised(known.get, _plan(guess=True)).rate["supervised", "small"] == 2


def test_the_rate_falls_by_whole_halves_over_the_budgets():
    assert RATIO ** -fall_power(2, RATIO) == pytest.approx(0.25)
    assert fall_power(0, 1.0) == 0


def test_the_trunk_that_was_searched_serves_as_it_is_and_others_follow_the_law():
    found = [
        Optimum(params=n, tokens=d, octaves=-6 - 0.1 * math.log2(n / 1e5) - 0.5 * math.log2(d / 1e5), sd=1e-3)
        for n, d in ((1e5, 1e5), (8e5, 1e5), (1e5, 16e5))
    ]
    law = fit_rate_law(found, arm="text", params=1e5, tokens=1e5)
    rates = ArmRates(
        others=FallingRate(law, 1e5, 16e5), exact={1e5: TrunkRate(0.03, 0.4)}, smallest_params=1e5
    )
    assert rates.smallest == (0.03, 0.4)
    assert rates.at(1e5) == (0.03, 0.4)
    peak, power = rates.at(8e5)
    assert math.log2(peak) == pytest.approx(-6.3, abs=0.01)
    assert math.log2(peak) - 4 * power == pytest.approx(law.chosen(8e5, 16e5), abs=0.01)
    assert law.chosen(8e5, 16e5) < law.octaves(8e5, 16e5)[0], "nobody tried any there: set with caution"
    assert ArmRates(others=OneRate(0.012345678)).at(1e6) == (0.01235, 0.0)


@pytest.mark.parametrize("place", [-0.4, 0.0, 0.25])
def test_between_the_rates_tried_a_parabola_says_where_the_best_one_lies(place):
    """The best rate at the smallest budget, and its fall, a seventh nearer to the lattice than it lies."""
    search, _ = _supervised(_bowl({"small": 1 + place, "large": 0}, 2 + place, 0), batches=False)
    at = "supervised", "small"
    lowest = {what: search.lowest[*at, what].octaves for what in ("rate", "fall")}
    assert search.rate[at] + lowest["rate"] == pytest.approx(1 + place, abs=SHRUNK + 1e-3)
    # off the lattice in both: the fall that the best trunk needs is counted from its own rate
    fall = search.fall[at] + lowest["rate"] - lowest["fall"]
    assert fall == pytest.approx(2 + place, abs=2 * SHRUNK + 1e-3)


@pytest.mark.parametrize("noise", [0.003])
def test_noise_moves_a_fall_by_one_half_at_most(noise):
    generator = np.random.default_rng(0)
    surface = _bowl({"small": 0, "large": 0}, 2)
    for _ in range(20):
        search, _ = _supervised(lambda point: surface(point) + noise * generator.normal(), batches=False)
        assert abs(search.fall["supervised", "small"] - 2) <= 1


@pytest.mark.parametrize("steepness, serves", [(0.15, True), (0.6, False)])
def test_a_trunk_serves_while_it_loses_at_most_a_share_of_its_loss(steepness, serves):
    """A fifth of an octave off: 0.2 % of a loss near 3 are 6 mnats; the bowl loses 6 and 24 there."""

    def surface(point):
        off = point.rate - 0.2
        return 3.0 + steepness * (off - point.fall * point.is_far) ** 2

    search, _ = _supervised(surface, batches=False)
    assert search.rate["supervised", "small"] == 0
    lost = max(search.lowest["supervised", "small", what].excess for what in ("rate", "fall"))
    assert lost > 2e-3, "more than the share itself, in nats"
    assert search.serves("supervised", "small") is serves
