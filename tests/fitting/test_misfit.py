"""A status that sees that the law is not of these runs."""

import numpy as np
import pytest

import distillaw as dl
from distillaw.fitting.misfit import find_misfit
from distillaw.fitting.result import FitStatus
from distillaw.fitting.uncertainty import extent_of

LAW = dl.published("busbridge2025").supervised


def grid(noise=0.003, seed=0):
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 7), np.geomspace(1e9, 1e11, 7)))
    rng = np.random.default_rng(seed)
    return {
        "params": N,
        "tokens": D,
        "loss": LAW(params=N, tokens=D) * np.exp(noise * rng.standard_normal(49)),
    }


def fit(table):
    return dl.fit(table, family="supervised", bootstrap=0, check=False)


def test_a_true_law_is_never_a_misfit():
    """300 tables of Student's noise, 16 to 200 runs: residuals have no status that they do not deserve."""
    rng = np.random.default_rng(20261124)
    for _ in range(300):
        n = int(rng.integers(16, 200))
        N, D = 10 ** rng.uniform(7, 9, n), 10 ** rng.uniform(9, 11, n)
        resid = 0.003 * rng.standard_t(4, n)
        found = find_misfit(resid, extent=extent_of(N, D), weight=np.ones(n), group=np.arange(n))
        assert found is None
    for seed in range(5):
        assert fit(grid(seed=seed)).status is FitStatus.CONVERGED


def test_half_a_table_in_bits_is_named():
    table = grid()
    table["loss"] = np.where(np.arange(49) % 2, table["loss"], table["loss"] / np.log(2))
    result = fit(table)
    assert result.status is FitStatus.MISFIT and "two modes" in result.remedy and result.is_usable


def test_half_a_table_with_embeddings_is_named():
    """A vocabulary of 50,000 at widths from 128, which go with the root of the size: 64 % more for the smallest."""
    table = grid(noise=0.001)
    total = table["params"] + 50_000 * 128 * np.sqrt(table["params"] / 1e7)
    table["params"] = np.where(np.arange(49) % 2, table["params"], total)
    assert fit(table).status is FitStatus.MISFIT


def test_a_break_in_the_last_levels_is_named():
    """Another schedule for the largest runs: 3 % better than the law of the others."""
    table = grid(noise=0.002)
    last = np.argsort(table["params"] * table["tokens"])[-8:]
    table["loss"][last] *= 0.97
    resid = np.log(LAW(params=table["params"], tokens=table["tokens"]) / table["loss"])
    extent = extent_of(table["params"], table["tokens"])
    found = find_misfit(resid, extent=extent, weight=np.ones(49), group=np.arange(49))
    assert found is not None and "a break" in found and "below" in found


def test_another_law_shows_as_a_trend():
    table = grid(noise=0.001)
    resid = 0.004 * np.sin(1.2 * np.log(table["params"] / 1e8)) + 0.001 * np.random.default_rng(
        1
    ).standard_normal(49)
    extent = extent_of(table["params"], table["tokens"])
    found = find_misfit(resid, extent=extent, weight=np.ones(49), group=np.arange(49))
    assert found is not None and "follow params" in found


def test_rows_of_one_run_are_one():
    """Twenty checkpoints of each of eight runs are eight runs: too few to tell."""
    resid = np.repeat(np.where(np.arange(8) % 2, 0.01, -0.01), 20)
    N = np.repeat(np.geomspace(1e7, 1e9, 8), 20)
    extent = extent_of(N, np.tile(np.geomspace(1e9, 1e10, 20), 8))
    assert find_misfit(resid, extent=extent, weight=np.ones(160), group=np.repeat(np.arange(8), 20)) is None


@pytest.mark.parametrize("status", ["MISFIT"])
def test_a_law_that_does_not_fit_decides_no_verdict(status):
    from distillaw.planning.voices import DECISIVE

    assert status not in DECISIVE
