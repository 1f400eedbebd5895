"""Next runs: what is proposed shrinks the target as announced, and beats the cheapest-first habit."""

import numpy as np
import pytest

import distillaw as dl
from distillaw.errors import ConfigError, FitError
from distillaw.fitting.design import propose

LAW = dl.published("busbridge2025").supervised
SIZES, TOKENS = np.geomspace(5e7, 6e9, 9), np.geomspace(1e9, 2e11, 9)
POOL = dict(zip(("params", "tokens"), (v.ravel() for v in np.meshgrid(SIZES, TOKENS)), strict=True))
TARGET = {"params": [12.6e9, 7.75e9, 30e9], "tokens": [1e12, 4e12, 6e11]}
COST = 6 * POOL["params"] * POOL["tokens"]


def fitted(rows, seed, bootstrap=0):
    rng = np.random.default_rng(seed)
    table = {k: v[rows] for k, v in POOL.items()}
    table["loss"] = LAW(**table) * np.exp(0.003 * rng.standard_normal(len(rows)))
    return dl.fit(table, family="supervised", bootstrap=bootstrap, check=False)


def test_expected_spread_falls_with_every_run_and_keeps_the_budget():
    start = fitted(np.argsort(COST)[:16], 0, bootstrap=200)
    design = propose(start, candidates=POOL, target=TARGET, budget=0.05 * COST.sum())
    spread = [design.before, *(run.target_sd for run in design.runs)]
    assert (np.diff(spread) < 0).all()
    assert design.runs[-1].total_cost <= 0.05 * COST.sum()
    assert len({run.index for run in design.runs}) == len(design.runs)


def test_proposed_runs_beat_cheapest_first_at_equal_cost():
    budget = 0.05 * COST.sum()
    guess = fitted(np.arange(81), 0)
    first = np.argsort(COST)[:4]
    design = propose(
        guess, candidates=POOL, target=TARGET, budget=budget, fitted={k: v[first] for k, v in POOL.items()}
    )
    chosen = np.array([run.index for run in design.runs])
    cheap = np.argsort(COST)[: np.searchsorted(np.cumsum(np.sort(COST)), budget)][: max(len(chosen), 12)]
    truth = LAW(params=TARGET["params"], tokens=TARGET["tokens"])

    def error(rows):
        found = [
            fitted(rows, s).law(params=TARGET["params"], tokens=TARGET["tokens"]) / truth - 1
            for s in range(1, 9)
        ]
        return np.sqrt(np.mean(np.square(found)))

    # spec fitting.md section 10: 0.85 % against 1.79 % at 5 % of the pool's cost
    assert error(chosen) < 0.7 * error(cheap)


def test_a_decision_is_a_difference_of_predictions():
    result = fitted(np.argsort(COST)[:20], 0, bootstrap=200)
    other = {"params": [6e9, 4e9, 15e9], "tokens": [2e12, 8e12, 1.2e12]}
    single = propose(result, candidates=POOL, target=TARGET, budget=1e22)
    difference = propose(result, candidates=POOL, target=TARGET, against=(result, other), budget=1e22)
    assert difference.before < single.before


def test_refusals(grid):
    few = dl.fit({k: v[:5] for k, v in grid.items()}, family="supervised")
    with pytest.raises(FitError, match="TOO_FEW_RUNS"):
        propose(few, candidates=POOL, target=TARGET, budget=1e20)
    result = dl.fit(grid, family="supervised", bootstrap=20)
    with pytest.raises(ConfigError, match="cheapest candidate"):
        propose(result, candidates=POOL, target=TARGET, budget=1.0)
