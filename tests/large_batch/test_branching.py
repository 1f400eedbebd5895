"""The branch test's decisions, on losses whose critical batch is known."""

import math

import numpy as np
import pytest

from distillaw.errors import ConfigError, DataError
from distillaw.large_batch.branch_test import (
    SEED_MULTIPLE,
    Branches,
    BranchStatus,
    compare,
    decide,
    excess_over_smaller,
    order_noise,
    smooth,
)
from distillaw.large_batch.rules import tokens_over_fewest

GRID = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
BASE, WINDOW, BEFORE = 512, 1e5, 2e5


def losses_at(critical: float, k: float) -> float:
    """A power law in the tokens that count: by E/E_min = 1 + B/B_crit fewer than were read."""
    useful = BEFORE + WINDOW / tokens_over_fewest(k * BASE, critical)
    return 2 + 4 * (useful / 3e3) ** -0.3


def truth(critical: float, grid=GRID) -> np.ndarray:
    return np.array([losses_at(critical, k) for k in grid])


def meets(critical: float, tolerance: float) -> float:
    """Where L(k) exceeds L(1), the best of the smaller ones, by the tolerance; by bisection."""
    low, high = 1.0, 1e6
    while high / low > 1 + 1e-12:
        middle = math.sqrt(low * high)
        low, high = (
            (middle, high) if losses_at(critical, middle) - losses_at(critical, 1) < tolerance else (low, middle)
        )
    return low


def seen(rng: np.random.Generator, mean: np.ndarray, *, sd: float, orders: int = 3, grid=GRID) -> Branches:
    """What a few data orders show: noise of each branch, and more of it that all branches of an order share."""
    shared = rng.normal(0, 10 * sd, orders)
    return Branches(multiples=grid, losses=mean[:, None] + shared + rng.normal(0, sd, (len(grid), orders)))


def steady(*means: float, orders: int = 2) -> Branches:
    return Branches(multiples=GRID[: len(means)], losses=np.tile(np.array(means, dtype=float)[:, None], orders))


def test_the_largest_that_is_no_worse_than_every_smaller_one():
    found = decide(steady(3.0, 2.98, 2.985, 2.992, 3.5), tolerance=0.01)
    assert (found.status, found.largest, found.fails_from) == (BranchStatus.BRACKETED, 4, 8)
    assert found.excess == pytest.approx((0, -0.02, 0.005, 0.012, 0.52))
    assert found.between == pytest.approx(2 ** (2 + (0.01 - 0.005) / (0.012 - 0.005)))
    assert found.fails == (0, 0, 0, 1, 1) and found.probability == (0, 0, 1, 0, 0)
    # 8 is within 0.01 of the first, but not of every smaller one
    assert decide(steady(3.0, 2.98, 2.985, 2.992, 3.5), tolerance=0.013).largest == 8


def test_words_for_what_a_grid_cannot_bracket():
    rising = decide(steady(3.0, 3.1, 3.2), tolerance=0.01)
    assert (rising.status, rising.largest, rising.fails_from) == (BranchStatus.FIRST_FAILS, 1, 2)
    assert 1 <= rising.between < 2
    flat = decide(steady(3.0, 3.0, 3.001), tolerance=0.01)
    assert (flat.status, flat.largest, flat.fails_from) == (BranchStatus.NONE_FAILS, 4, None)
    assert flat.between == 4 and flat.interval == (4, None)
    humped = decide(steady(3.0, 3.1, 3.0, 3.2), tolerance=0.01)
    assert (humped.largest, humped.passes_after_failing) == (4, (2.0,))


def test_a_diverged_branch_fails_its_batch_and_no_other():
    losses = np.array([[3.0, 3.01], [3.0, 3.01], [3.0, np.nan], [3.0, 3.01]])
    found = decide(Branches(multiples=GRID[:4], losses=losses), tolerance=0.01)
    assert found.fails == (0, 0, 1, 0) and found.excess[2] == math.inf
    assert (found.largest, found.passes_after_failing) == (8, (4.0,))
    ends = decide(Branches(multiples=GRID[:3], losses=losses[:3]), tolerance=0.01)
    assert (ends.status, ends.largest, ends.fails_from, ends.between) == (BranchStatus.BRACKETED, 2, 4, 2)
    first = decide(Branches(multiples=(1, 2, 4), losses=np.array([[np.nan], [3.0], [3.5]])), tolerance=0.01)
    assert (first.largest, first.fails_from) == (2, 4)
    none = decide(Branches(multiples=(1, 2), losses=np.full((2, 1), np.nan)), tolerance=0.01)
    assert none.status is BranchStatus.NOTHING_TO_COMPARE and none.largest is None and none.between is None


def test_noise_is_what_orders_and_batches_do_jointly():
    """Shared shifts of orders and differences between batches are no noise; the rest is, without bias."""
    rng = np.random.default_rng(0)
    assert order_noise(Branches(multiples=GRID[:3], losses=np.add.outer([1.0, 2, 5], [0.0, 0.3, 0.1]))).sd < 1e-12
    found = [order_noise(seen(rng, truth(8000), sd=0.004)) for _ in range(400)]
    assert {noise.dof for noise in found} == {10}
    assert math.sqrt(np.mean([noise.sd**2 for noise in found])) == pytest.approx(0.004, rel=0.05)


@pytest.mark.parametrize(
    ("critical", "sd"),
    [(2_000, 0.005), (30_000, 0.002), *(pytest.param(8_000, sd, marks=pytest.mark.slow) for sd in (0.002, 0.005))],
)
def test_the_interval_holds_the_critical_batch(critical, sd):
    """90 % intervals over 300 simulated tests of 3 orders on a known hyperbola; 3 sigma of 300 is 5 %."""
    rng, mean = np.random.default_rng(1), truth(critical)
    excess = excess_over_smaller(mean)
    place = int(np.flatnonzero(excess <= SEED_MULTIPLE * sd)[-1])
    share = (SEED_MULTIPLE * sd - excess[place]) / (excess[place + 1] - excess[place])
    at, held, near = GRID[place] * 2**share, 0, 0
    for seed in range(300):
        found = decide(seen(rng, mean, sd=sd), seed=seed)
        low, high = found.interval
        held += low <= at and (high is None or at <= high)
        near += GRID.index(found.largest) - place in (-1, 0, 1)
    assert 0.85 <= held / 300 <= 0.96
    assert near / 300 >= 0.95


def test_the_grid_finds_the_hyperbolas_own_crossing():
    """The interpolation on a grid of doublings is within a seventh of a doubling of the curve that was sampled."""
    for critical in (4_000, 8_000, 16_000):
        fine = np.array([losses_at(critical, k) for k in GRID])
        found = decide(Branches(multiples=GRID, losses=np.tile(fine[:, None], 2)), tolerance=0.02)
        # over the best smaller, which is the smallest, so the excess is L(k) - L(1)
        assert abs(math.log2(found.between / meets(critical, 0.02))) < 0.15


def test_the_probability_of_failing_is_one_half_at_the_tolerance():
    rng = np.random.default_rng(2)
    mean = np.array([3.0, 3.01])
    said = [
        decide(seen(rng, mean, sd=0.004, orders=4, grid=GRID[:2]), tolerance=0.01, seed=seed).fails[1]
        for seed in range(300)
    ]
    assert np.mean(said) == pytest.approx(0.5, abs=0.05)
    assert np.mean(np.array(said) < 0.1) == pytest.approx(0.1, abs=0.05)  # as often as it says


def test_held_out_documents_widen_what_is_said():
    rng = np.random.default_rng(3)
    branches = seen(rng, truth(8000), sd=0.002)
    noisy = 0.004**2 * np.eye(len(GRID))
    sure, unsure = decide(branches), decide(branches, document_cov=noisy)
    assert unsure.tolerance == sure.tolerance
    assert unsure.interval[1] / unsure.interval[0] > sure.interval[1] / sure.interval[0]
    shared = 0.1**2 * np.ones((len(GRID), len(GRID)))  # what all batches share tells nothing apart
    assert decide(branches, document_cov=shared).interval == pytest.approx(sure.interval, rel=0.05)


def test_two_critical_batches_are_compared_at_one_tolerance():
    rng = np.random.default_rng(4)
    small, large = (seen(rng, truth(critical), sd=0.001) for critical in (8_000, 64_000))
    found = compare(small, large, tolerance=0.01)
    apart = math.log2(meets(64_000, 0.01) / meets(8_000, 0.01))
    assert found.word == "larger" and found.larger > 0.99 and found.doublings == pytest.approx(apart, abs=0.3)
    back = compare(large, small, tolerance=0.01)
    assert back.word == "smaller" and back.doublings == -found.doublings
    alike = compare(small, seen(rng, truth(8_000), sd=0.001), tolerance=0.01)
    assert alike.word == "alike within a doubling"
    unbounded = compare(small, seen(rng, truth(1e7), sd=0.001), tolerance=0.01)
    assert unbounded.interval[1] is None and unbounded.larger > 0.99 and unbounded.word == "larger"
    below = compare(seen(rng, truth(1_000), sd=0.001), small, tolerance=0.01)
    assert below.interval[1] is None and below.interval[0] is not None
    assert compare(large, large, tolerance=(0.01, 0.03)).doublings > 0.5  # each at its own


def test_the_interval_of_the_comparison_holds_the_difference():
    rng, held = np.random.default_rng(5), 0
    means = truth(12_000), truth(40_000)
    true = compare(*(Branches(multiples=GRID, losses=np.tile(m[:, None], 2)) for m in means), tolerance=0.01).doublings
    for seed in range(200):
        first, second = (seen(rng, mean, sd=0.003) for mean in means)
        low, high = compare(first, second, tolerance=0.01, seed=seed).interval
        held += (low is None or low <= true) and (high is None or true <= high)
    assert 0.84 <= held / 200 <= 0.97


def test_smoothing_is_merrills_average():
    assert smooth([4.0]) == 4.0
    assert smooth([4.0, 2.0, 1.0]) == 0.5 * (0.5 * 4 + 0.5 * 2) + 0.5 * 1
    with pytest.raises(DataError, match="no losses"):
        smooth([])


def test_what_cannot_be_decided_is_refused():
    two = steady(3.0, 3.1)
    with pytest.raises(ConfigError, match="--orders 3"):
        decide(steady(3.0, 3.1, orders=1))
    assert decide(steady(3.0, 3.1, orders=1), tolerance=0.01).largest == 1
    for wrong in ({"tolerance": -0.1}, {"tolerance": math.nan}, {"level": 1.0}):
        with pytest.raises(ConfigError):
            decide(two, **wrong)
    for multiples, losses in (
        ((1, 2), np.ones((3, 2))),
        ((2, 1), np.ones((2, 2))),
        ((0, 1), np.ones((2, 2))),
        ((1,), np.ones((1, 2))),
    ):
        with pytest.raises(DataError):
            Branches(multiples=multiples, losses=losses)
    with pytest.raises(DataError, match="every branch diverged"):
        compare(two, Branches(multiples=(1, 2), losses=np.full((2, 2), np.nan)), tolerance=0.01)
