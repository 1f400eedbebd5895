import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rate_bounds import SHRUNK

from distillaw.laws.rates import Optimum, fit_rate_law
from distillaw.sweep.tuning import (
    FALL_EXPONENT,
    STEP,
    ArmRates,
    RateSearch,
    SearchPlace,
    TuningPlan,
    search_students,
    search_supervised,
    search_teacher,
)

RATIO = 16.0
EXPECTED = round(FALL_EXPONENT * math.log2(RATIO))
"""Halves by which the search expects a lone arm's rate lower at the largest budget."""
SMALL, LARGE = SearchPlace("supervised", "small"), SearchPlace("supervised", "large")
FAR = SMALL._replace(is_far=True)


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


def _bowl(best_rate, fall=0, best_batch=0):
    """A smooth surface: the best rate at the search's budget, and how many halves lower it is at the largest."""

    def surface(point):
        off = point.rate - best_rate[point.place.size] + fall * point.place.is_far
        return 3.0 + 0.1 * off**2 + 0.05 * (point.batch - best_batch) ** 2

    return surface


def _supervised(surface, **others):
    plan = _plan(**others)
    return _run(lambda lookup: search_supervised(lookup, plan), surface)


@settings(deadline=None)
@given(small=st.integers(-4, 4), large=st.integers(-4, 4), fall=st.integers(-2, 4), batch=st.integers(-3, 3))
def test_the_search_finds_the_optimum_wherever_it_lies(small, large, fall, batch):
    search, _ = _supervised(_bowl({"small": small, "large": large}, fall, batch))
    assert search.rate == {SMALL: small, LARGE: large, FAR: small - fall}
    assert search.batch == batch
    assert all(search.interior.values()) and all(search.batch_interior.values()) and search.rates_known


def test_what_a_centred_start_costs():
    """Three rates at both sizes on the search's budget; at the largest three and two more batches, one size."""
    search, seen = _supervised(_bowl({"small": 0, "large": 0}, EXPECTED))
    assert sum(not point.place.is_far for point in seen) == 6
    assert sum(point.place.is_far for point in seen) == 5
    assert search.batch == 0


def test_without_a_check_at_the_largest_budget_nothing_is_known_there():
    search, seen = _supervised(_bowl({"small": 1, "large": 0}, 2), far_sizes=())
    assert FAR not in search.rate and not any(point.place.is_far for point in seen)
    assert search.batch_interior["supervised", "small"]


def test_an_optimum_out_of_reach_is_reported_as_not_interior():
    search, _ = _supervised(_bowl({"small": 5, "large": 0}, -6), rounds=1)
    assert search.interior == {SMALL: False, FAR: False, LARGE: True}


def test_a_batch_that_moves_for_the_last_time_has_its_rates_searched_once_more():
    """At a batch of its own: four octaves below, which a search that may not move on does not reach."""
    search, seen = _supervised(_bowl({"small": 0, "large": 0}, EXPECTED, -4), rounds=0)
    assert search.batch == -1 and set(search.rate) == {SMALL, LARGE, FAR} == set(search.lowest)
    assert all(seen[search.best(place)] < math.inf for place in search.rate)
    assert search.batch_interior == {("supervised", "small"): False}


def test_a_batch_is_not_said_to_be_interior_at_rates_at_which_its_neighbours_were_not_tried():
    """The batch's best one is found at once, but the rate there is another, so that the neighbours are open again."""
    surface = lambda point: 3.0 + 0.02 * (point.rate + point.batch) ** 2 + 0.1 * (point.batch - 1) ** 2  # noqa: E731
    plan, seen = _plan(far_sizes=()), {}
    while True:
        search = search_supervised(seen.get, plan)
        tried = {point.batch for point in seen if search.rate.get(point.place) == point.rate}
        if search.batch_interior.get(("supervised", "small")):
            assert {search.batch - 1, search.batch, search.batch + 1} <= tried
        if search.is_done:
            break
        seen |= {point: surface(point) for point in search.needed}
    assert search.batch == 1 and search.rate[SMALL] == -1


def test_the_distilled_arm_moves_its_rates_but_not_the_batch():
    plan = _plan()
    search, _ = _run(
        lambda lookup: search_students("distilled", lookup, plan, batch=0), _bowl({"small": 1, "large": -1}, 1, -2)
    )
    near = SearchPlace("distilled", "small")
    assert search.batch == 0
    assert search.rate == {near: 1, SearchPlace("distilled", "large"): -1, near._replace(is_far=True): 0}
    assert search.batch_interior["distilled", "small"] is False  # said, not hidden
    assert search.rates_known


def test_teachers_are_searched_at_their_own_budgets_from_where_they_are_expected():
    plan = _plan()

    def both(lookup):
        search = RateSearch(batch=1)
        for size, start in (("small", -1.25), ("big", -2.0)):
            search_teacher(search, lookup, plan, size, start=start)
        return search

    search, seen = _run(both, _bowl({"small": -1, "big": -1}, 2))
    places = SearchPlace("teacher", "small", True), SearchPlace("teacher", "big", True)
    assert search.rate == {places[0]: -3.25, places[1]: -3}
    assert all(point.place in places and point.batch == 1 for point in seen)


def test_one_sequence_per_step_is_the_smallest_batch():
    search, _ = _supervised(_bowl({"small": 0, "large": 0}, 1, -5), lowest=-1)
    assert search.batch == -1


def test_a_diverged_rate_counts_as_the_worst():
    def surface(point):
        if point.rate > 0:
            return math.inf
        return _bowl({"only": -1}, 1)(point)

    search, _ = _supervised(surface, sizes=["only"], far_sizes=("only",), rounds=3)
    assert search.rate[SearchPlace("supervised", "only")] == -1 and search.is_done


def test_where_all_rates_diverge_the_search_goes_down():
    search, seen = _supervised(lambda point: math.inf, rounds=2, batches=False)
    for place in (SMALL, FAR):
        assert search.rate[place] == min(p.rate for p in seen if p.place == place) < -1


def test_a_guess_stays_where_the_search_is():
    """Nothing is needed, everything a plain search would ask for first is there, and what is known counts."""
    _, seen = _supervised(_bowl({"small": 0, "large": 0}, EXPECTED))
    guess = search_supervised({}.get, _plan(guess=True))
    assert guess.is_done and guess.rates_known
    assert set(guess.points) == set(seen)
    _, moved = _supervised(_bowl({"small": 2, "large": 0}, 1, 1))
    known = {point: loss for point, loss in moved.items() if point.place == SMALL}
    assert search_supervised(known.get, _plan(guess=True)).rate[SMALL] == 2


def _law():
    found = [
        Optimum(params=n, tokens=d, octaves=-6 - 0.1 * math.log2(n / 1e5) - 0.5 * math.log2(d / 1e5), sd=1e-3)
        for n, d in ((1e5, 1e5), (8e5, 1e5), (1e5, 16e5))
    ]
    return fit_rate_law(found, arm="text", params=1e5, tokens=1e5)


def test_what_was_searched_serves_as_it_is_and_other_sizes_and_budgets_follow_the_law():
    law = _law()
    rates = ArmRates(start=2**-6, law=law, near=100_000, far=1_600_000, exact={(1e5, 100_000): 0.03})
    assert rates.at(1e5, 100_000) == 0.03
    assert rates.at(8e5, 100_000) == pytest.approx(2**-6.25, rel=1e-3), "-6.3, to a quarter of an octave"
    assert rates.at(1e5, 400_000) == pytest.approx(2**-7, rel=1e-3)
    assert rates.at(8e5, 1_600_000) == pytest.approx(2 ** (STEP * round(law.chosen(8e5, 1.6e6) / STEP)), rel=1e-3)
    assert law.chosen(8e5, 16e5) < law.octaves(8e5, 16e5)[0], "nobody tried any there: set with caution"
    assert ArmRates(start=0.0123).at(1e6, 200_000) == 0.0123


def test_where_no_large_budget_was_checked_all_have_the_rate_of_the_search():
    rates = ArmRates(start=2**-6, law=_law(), near=100_000, far=100_000, exact={(1e5, 100_000): 0.03})
    assert rates.at(1e5, 1_600_000) == 0.03
    assert rates.at(8e5, 1_600_000) == rates.at(8e5, 100_000)


@pytest.mark.parametrize("place", [-0.4, 0.0, 0.25])
def test_between_the_rates_tried_a_parabola_says_where_the_best_one_lies(place):
    """At the smallest budget and at the largest, a seventh nearer to the lattice than it lies."""
    search, _ = _supervised(_bowl({"small": 1 + place, "large": 0}, 2, 0), batches=False)
    for found, best in ((SMALL, 1 + place), (FAR, place - 1)):
        assert search.rate[found] + search.lowest[found].octaves == pytest.approx(best, abs=SHRUNK + 1e-3)


@pytest.mark.parametrize("noise", [0.003])
def test_noise_moves_a_rate_by_one_half_at_most(noise):
    generator = np.random.default_rng(0)
    surface = _bowl({"small": 0, "large": 0}, 2)
    for _ in range(20):
        search, _ = _supervised(lambda point: surface(point) + noise * generator.normal(), batches=False)
        assert abs(search.rate[FAR] + 2) <= 1


@pytest.mark.parametrize("steepness, serves", [(0.15, True), (0.6, False)])
def test_a_run_serves_while_it_loses_at_most_a_share_of_its_loss(steepness, serves):
    """A fifth of an octave off: 0.2 % of a loss near 3 are 6 mnats; the bowl loses 6 and 24 there."""
    search, _ = _supervised(lambda point: 3.0 + steepness * (point.rate - 0.2) ** 2, batches=False)
    assert search.rate[SMALL] == 0
    assert search.lowest[SMALL].excess > 2e-3, "more than the share itself, in nats"
    assert search.serves(SMALL) is serves
