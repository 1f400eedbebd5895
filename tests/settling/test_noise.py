"""Noise and misfit: what is estimated from repeats, and covariances that are ones."""

import numpy as np
import pytest

from distillaw.settling.noise import MISFIT, SEED, SHARED_SEED, DesignPoints, misfit_cov, seed_cov, seed_sd


def grid(seeds):
    rows = [(n, d, a, s) for n in (1e6, 4e6) for d in (2e7, 8e7) for a in range(4) for s in range(seeds)]
    n, d, a, s = (np.array(column) for column in zip(*rows, strict=True))
    return DesignPoints(log_params=np.log(n), log_tokens=np.log(d), arm=a.astype(int), seed=s.astype(int))


def test_seed_noise_is_recovered_from_repeats():
    cells, rng, found = grid(40), np.random.default_rng(0), []
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
    misfit = misfit_cov(cells, cells, logs)
    assert np.linalg.eigvalsh(misfit).min() > -1e-12
    assert np.diag(misfit) == pytest.approx(MISFIT**2)
    assert misfit_cov(cells, cells, logs, scale=3.0) == pytest.approx(9 * misfit)
    noise = seed_cov(cells, 0.003, np.zeros(4))
    assert np.linalg.eigvalsh(noise).min() > 0
    one, other = 0, 2  # no teacher and the first teacher, same seed, size and tokens
    assert noise[one, other] == pytest.approx(SHARED_SEED * 0.003**2)


def test_alike_teachers_err_alike():
    cells = DesignPoints(
        log_params=np.zeros(3), log_tokens=np.zeros(3), arm=np.array([1, 2, 3]), seed=np.zeros(3, dtype=int)
    )
    cov = misfit_cov(cells, cells, np.log([2.0, 2.02, 3.0]))
    assert cov[0, 1] > cov[0, 2]
