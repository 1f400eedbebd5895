"""Fits of diffusion curves: known curves are recovered, and each is told from the other."""

import numpy as np
import pytest
from scipy import stats

from distillaw.errors import ConfigError, DataError
from distillaw.large_batch.diffusion import fit_alpha, fit_diffusion, log_steps


def test_the_grid_is_logarithmic():
    grid = log_steps(1000, per_decade=16)
    assert grid[0] == 1 and grid[-1] == 1000 and grid == sorted(set(grid))
    assert sum(100 < t <= 1000 for t in grid) == 16
    assert log_steps(1) == [1] and log_steps(37)[-1] == 37


def test_a_log_curve_is_recovered_with_its_error():
    rng = np.random.default_rng(0)
    steps, pulls = log_steps(10_000), []
    for _ in range(200):
        d = 3.0 + 0.8 * np.log(steps) + rng.normal(0, 0.05, len(steps))
        fit = fit_diffusion(steps, d)
        pulls.append((fit.b - 0.8) / fit.b_se)
    assert fit.better == "log" and fit.log_r2 > 0.99 > fit.power_r2
    assert abs(np.mean(pulls)) < 0.25 and np.std(pulls) == pytest.approx(1.0, abs=0.2)
    line = stats.linregress(np.log(steps), d)  # an independent solver
    assert (fit.a, fit.b, fit.b_se, fit.log_r2) == pytest.approx(
        (line.intercept, line.slope, line.stderr, line.rvalue**2)
    )


def test_a_power_law_is_recovered_with_its_error():
    rng = np.random.default_rng(1)
    steps, pulls = log_steps(10_000), []
    for _ in range(200):
        fit = fit_diffusion(steps, 0.4 * np.array(steps) ** 0.5 + rng.normal(0, 0.02, len(steps)))
        pulls.append((fit.p - 0.5) / fit.p_se)
    assert fit.better == "power" and fit.c == pytest.approx(0.4, rel=0.02)
    assert abs(np.mean(pulls)) < 0.25 and np.std(pulls) == pytest.approx(1.0, abs=0.2)


def test_only_the_window_counts():
    steps = np.arange(1, 2001)
    d = np.where(steps <= 1000, 1 + np.log(steps), 50.0 + steps)  # the rate falls at 1000
    fit = fit_diffusion(steps, d, first=10, last=1000)
    assert (fit.a, fit.b) == pytest.approx((1.0, 1.0)) and fit.log_r2 == pytest.approx(1.0)
    assert (fit.first_step, fit.last_step, fit.points) == (10, 1000, 991)


def test_bad_input():
    with pytest.raises(DataError, match="needs 5 different steps"):
        fit_diffusion([1, 2, 3], [1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="one distance"):
        fit_diffusion([1, 2, 3], [1.0])
    with pytest.raises(DataError, match="zero or not finite"):
        fit_diffusion([1, 2, 3, 4, 5], [0.0, 1.0, 2.0, 3.0, 4.0])
    with pytest.raises(DataError, match="do not move"):
        fit_diffusion([1, 2, 3, 4, 5], [1.0] * 5)
    with pytest.raises(ConfigError, match="at least 1"):
        log_steps(0)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_the_exponent_of_a_random_potential_is_recovered(alpha):
    random = np.random.default_rng(4)
    covered, found = 0, []
    for _ in range(20):
        z = random.uniform(0, 10, 400)
        fit = fit_alpha(z, 0.3 * z - z ** (alpha / 2) * random.normal(size=400))
        found.append(fit.alpha)
        covered += fit.interval[0] <= alpha <= fit.interval[1]
    assert np.mean(found) == pytest.approx(alpha, abs=0.1) and covered >= 15
    assert sum(row[3] for row in fit.bins) >= 380 and [row[0] for row in fit.bins] == sorted(row[0] for row in fit.bins)


def test_an_exponent_needs_losses_that_differ():
    z = np.linspace(0.1, 10, 100)
    with pytest.raises(DataError, match="a slope needs three"):
        fit_alpha(z[:20], z[:20])
    with pytest.raises(DataError, match="all the same"):
        fit_alpha(z, 0 * z)
    with pytest.raises(DataError, match="all finite"):
        fit_alpha(z, np.full(100, np.nan))
