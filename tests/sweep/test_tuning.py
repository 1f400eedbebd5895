import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillaw.sweep.tuning import search_distilled, search_supervised, transfer_rate


def _run(best_rate, best_batch, *, rounds=6, noise=0.0, arm="supervised", lowest=-6):
    """Drive a search on a smooth surface with a known optimum; returns (search, number of points measured)."""
    seen = {}
    generator = np.random.default_rng(0)

    def surface(arm, size, i, j):
        rate, batch = best_rate[size], best_batch
        return 3.0 + 0.1 * (i - rate) ** 2 + 0.05 * (j - batch) ** 2 + noise * generator.normal()

    while True:
        lookup = lambda *point: seen.get(point)  # noqa: E731
        if arm == "supervised":
            search = search_supervised(lookup, ["small", "large"], rounds=rounds, lowest_batch=lowest)
        else:
            search = search_distilled(lookup, ["small", "large"], batch=0, rounds=rounds, lowest_batch=lowest)
        if search.is_done:
            return search, len(seen)
        assert not set(search.needed) & set(seen), "asked for a point it already had"
        seen.update({point: surface(*point) for point in search.needed})


@given(small=st.integers(-4, 4), large=st.integers(-4, 4), batch=st.integers(-3, 3))
def test_the_search_finds_the_optimum_wherever_it_lies(small, large, batch):
    search, _ = _run({"small": small, "large": large}, batch)
    assert search.rate == {("supervised", "small"): small, ("supervised", "large"): large}
    assert search.batch == batch
    assert all(search.interior.values()) and search.rates_known


def test_a_centred_start_costs_five_runs_a_size():
    search, measured = _run({"small": 0, "large": 0}, 0)
    assert measured == 2 * 5
    assert search.batch == 0


def test_an_optimum_out_of_reach_is_reported_as_not_interior():
    search, _ = _run({"small": 5, "large": 0}, 0, rounds=1)
    assert search.interior["supervised", "small", "rate"] is False
    assert search.interior["supervised", "large", "rate"] is True


def test_the_distilled_arm_moves_its_rate_but_not_the_batch():
    search, _ = _run({"small": 1, "large": -1}, -2, arm="distilled")
    assert search.batch == 0
    assert search.rate == {("distilled", "small"): 1, ("distilled", "large"): -1}
    assert search.interior["distilled", "small", "batch"] is False  # said, not hidden
    assert search.rates_known


def test_one_sequence_per_step_is_the_smallest_batch():
    search, _ = _run({"small": 0, "large": 0}, -5, lowest=-1)
    assert search.batch == -1


def test_a_diverged_rate_counts_as_the_worst():
    lookup = lambda arm, size, i, j: math.inf if i > 0 else 3.0 + 0.1 * (i + 1) ** 2 + 0.1 * j**2  # noqa: E731
    search = search_supervised(lookup, ["only"], rounds=3, lowest_batch=-3)
    assert search.rate["supervised", "only"] == -1 and search.is_done


def test_rates_are_transferred_between_sizes_and_held_outside():
    tuned = {1e5: 0.02, 1e7: 0.005}
    assert transfer_rate(tuned, 1e6) == pytest.approx(0.01, rel=1e-3)
    assert transfer_rate(tuned, 1e4) == 0.02
    assert transfer_rate(tuned, 1e9) == 0.005
