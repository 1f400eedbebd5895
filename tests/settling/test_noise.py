"""Noise and misfit: what is estimated from repeats, and covariances that are ones."""

import numpy as np
import pytest

from distillaw.settling.noise import MISFITS, SEED, SHARED_SEED, TRUNK, PilotPoints, misfit_cov, seed_cov, seed_sd


def grid(seeds, *, has_one_rate=False):
    rows = [(n, d, a, s) for n in (1e6, 4e6) for d in (2e7, 8e7) for a in range(4) for s in range(seeds)]
    n, d, a, s = (np.array(column) for column in zip(*rows, strict=True))
    return PilotPoints.at(n, d, a, s, 0.01 if has_one_rate else None)


@pytest.mark.parametrize("has_one_rate", [True, False])
def test_seed_noise_is_recovered_from_repeats(has_one_rate):
    cells, rng, found = grid(40, has_one_rate=has_one_rate), np.random.default_rng(0), []
    for _ in range(20):
        root = np.linalg.cholesky(seed_cov(cells, 0.006, np.zeros(4)) + 1e-14 * np.eye(len(cells.arm)))
        found.append(seed_sd(1.2 + root @ rng.standard_normal(len(cells.arm)), cells))
    assert np.mean(found) == pytest.approx(0.006, rel=0.06)


def test_without_repeats_the_assumed_noise_is_used():
    cells = grid(1)
    assert seed_sd(np.random.default_rng(0).standard_normal(len(cells.arm)), cells) == pytest.approx(SEED)


def test_what_all_arms_of_a_seed_share_is_not_seen_in_pairs():
    cells = grid(3)
    common = np.random.default_rng(0).standard_normal(3)[cells.seed]
    assert seed_sd(common, cells) == pytest.approx(seed_sd(0 * common, cells))


def test_covariances_are_positive_and_scaled():
    cells = grid(2)
    logs = np.log([2.0, 2.1, 3.0])
    misfit = misfit_cov(cells, cells, logs, sd=0.01)
    assert np.linalg.eigvalsh(misfit).min() > -1e-12
    assert np.diag(misfit) == pytest.approx(1e-4)
    assert misfit_cov(cells, cells, logs, sd=0.03) == pytest.approx(9 * misfit)
    assert sum(MISFITS.values()) == pytest.approx(1)
    noise = seed_cov(cells, 0.003, np.zeros(4))
    assert np.linalg.eigvalsh(noise).min() > 0
    one, other = 0, 2  # no teacher and the first teacher, same seed, size and tokens
    assert noise[one, other] == pytest.approx(SHARED_SEED * 0.003**2)


def test_budgets_share_noise_where_they_share_a_trunk():
    one = PilotPoints.at([1e6, 1e6], [2e7, 8e7], 1, 0, 0.01)
    apart = PilotPoints.at([1e6, 1e6], [2e7, 8e7], 1, 0, [0.01, 0.005])
    shares = [seed_cov(points, 1.0, np.zeros(2))[0, 1] for points in (one, apart)]
    assert shares == pytest.approx([SHARED_SEED + TRUNK, SHARED_SEED])


def test_repeats_count_by_the_trunks_that_they_are_of():
    """Two budgets of one trunk repeat each other, two trunks do not: their noise is known better."""
    rng, spread = np.random.default_rng(1), {}
    for has_one_rate in (True, False):
        cells = grid(3, has_one_rate=has_one_rate)
        root = np.linalg.cholesky(seed_cov(cells, 0.03, np.zeros(4)))
        found = [seed_sd(root @ rng.standard_normal(len(cells.arm)), cells) for _ in range(60)]
        spread[has_one_rate] = np.std(found) / np.mean(found)
    assert spread[False] < 0.9 * spread[True]


def test_alike_teachers_err_alike():
    cells = PilotPoints.at(1.0, 1.0, [1, 2, 3])
    cov = misfit_cov(cells, cells, np.log([2.0, 2.02, 3.0]), sd=0.01)
    assert cov[0, 1] > cov[0, 2]
