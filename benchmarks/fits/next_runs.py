"""Does the design of the next runs buy accuracy? Public runs as a pool, bought one by one, against the published table.

    python -m benchmarks.fits.next_runs ../shared/data/lawruns [--out benchmarks/results/next_runs.json]

The Farseer table of Li et al. 2026 (arXiv 2604.22753): 404 runs to buy at 6 N D each, 7 larger ones to predict, at
1, 5 and 10 % of the pool's cost. Score: R^2 of the predicted losses of the seven (theirs, mean over repetitions), their
root mean square error, and decisions: the regret of the size that the law chooses at each of the pool's largest compute
levels. Law: `supervised` with defaults. Policies: random, cheapest first, ours. Their other table (repeated data) needs
a fit of repetition laws, which this package does not have.
"""

import argparse
from pathlib import Path

import numpy as np

import distillaw as dl
from benchmarks.result_file import save, typed
from distillaw.errors import ConfigError, DistillawError
from distillaw.fitting.design import propose
from distillaw.fitting.uncertainty import DesignPoints, guessed_belief, guessed_curve, scaled_to
from distillaw.runs.table import read_table

SHARES = (0.01, 0.05, 0.1)
PUBLISHED = {  # arXiv 2604.22753, README of the repository; nine-parameter law
    "random": (-0.77, 0.78, 0.79),
    "cheapest": (-0.89, 0.41, 0.68),
    "D-optimal": (-0.11, 0.49, 0.87),
    "V-optimal": (0.67, 0.87, 0.92),
    "theirs": (0.60, 0.88, 0.93),
}
BAND, CHOICES, LEVELS = 0.12, 4, 8
"""Decisions: compute levels of this width with so many sizes, the largest of them."""
FIRST, BATCH, ENOUGH = 4, 6, 14
"""Cheap runs to begin with (at random among six times as many), runs bought between two fits, runs that suffice for
one."""


def columns(path):
    t = read_table(path)
    return {"params": t["N"], "tokens": t["D"], "loss": t["loss"]}


def part(table, rows):
    return {name: values[rows] for name, values in table.items()}


def fitted(pool, rows, bootstrap=0):
    return dl.fit(part(pool, rows), family="supervised", bootstrap=bootstrap, check=False, calibrate=False, unit="nats")


def random_policy(pool, cost, budget, rng):
    """Permuted runs while they fit into the budget."""
    order = rng.permutation(len(cost))
    chosen, spent = [], 0.0
    for i in order:
        if spent + cost[i] <= budget:
            chosen.append(i)
            spent += cost[i]
    return np.array(chosen)


def cheapest_policy(pool, cost, budget, rng):
    order = np.argsort(cost)
    return order[: np.searchsorted(np.cumsum(cost[order]), budget)]


def designed_policy(pool, cost, budget, rng, target):
    """Ours: a few cheap runs, then what the law so far (a published shape at first) proposes."""
    chosen = list(rng.choice(np.argsort(cost)[: 6 * FIRST], FIRST, replace=False))
    while True:
        left = np.setdiff1d(np.arange(len(cost)), chosen)
        candidates = {k: pool[k][left] for k in ("params", "tokens")}
        try:
            design = propose(
                belief(pool, np.array(chosen)),
                candidates=candidates,
                target=target,
                most=BATCH,
                budget=budget - cost[chosen].sum(),
            )
        except ConfigError:  # nothing left that the budget buys
            return np.array(chosen)
        if not design.runs:
            return np.array(chosen)
        chosen += [int(left[run.index]) for run in design.runs]


def belief(pool, chosen):
    """The fit of the runs bought, or a published shape at their level while they are few."""
    if len(chosen) >= ENOUGH:
        result = fitted(pool, chosen, bootstrap=100)
        if result.is_usable:
            return result
    made = DesignPoints.of(part({k: pool[k] for k in ("params", "tokens")}, chosen), what="made")
    guess = guessed_curve(dl.published("busbridge2025"), around=DesignPoints.of(pool, what="pool"), taught=False)
    return guessed_belief(scaled_to(guess, made, pool["loss"][chosen]), noise=0.005, runs=made)


def decisions(pool):
    """Rows of about one compute each, of several sizes, among the dearest of the pool: which size is best there?"""
    level = np.round(np.log(6 * pool["params"] * pool["tokens"]) / np.log(1 + BAND))
    groups = [np.flatnonzero(level == value) for value in np.unique(level)[::-1]]
    return [rows for rows in groups if len(np.unique(pool["params"][rows])) >= CHOICES][:LEVELS]


def score(pool, test, rows):
    """(R^2, root mean square error in %, regret in % of the loss); NaN where no law can be fitted."""
    try:
        result = fitted(pool, rows)
        predicted = result.law(params=test["params"], tokens=test["tokens"])
        losses = result.law(params=pool["params"], tokens=pool["tokens"])
    except (DistillawError, TypeError):
        return np.nan, np.nan, np.nan
    chosen = [(pool["loss"][band[np.argmin(losses[band])]], pool["loss"][band].min()) for band in decisions(pool)]
    regret = 100 * float(np.mean([got / best - 1 for got, best in chosen]))
    error = predicted - test["loss"]
    r2 = 1 - (error**2).sum() / ((test["loss"] - test["loss"].mean()) ** 2).sum()
    return float(r2), 100 * float(np.sqrt(np.mean((error / test["loss"]) ** 2))), regret


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    source = args.folder / "active-sl-scalebench"
    pool, test = columns(source / "farseer_train.csv"), columns(source / "farseer_test.csv")
    cost = 6 * pool["params"] * pool["tokens"]
    target = {name: test[name] for name in ("params", "tokens")}
    rows = []
    for share in SHARES:
        budget = share * cost.sum()
        policies = {
            "random": [random_policy(pool, cost, budget, np.random.default_rng(s)) for s in range(20)],
            "cheapest": [cheapest_policy(pool, cost, budget, None)],
            "ours": [designed_policy(pool, cost, budget, np.random.default_rng(s), target) for s in range(10)],
        }
        for name, picks in policies.items():
            found = np.array([score(pool, test, pick) for pick in picks])
            rows.append(
                {
                    "share": share,
                    "policy": name,
                    "runs": float(np.mean([len(p) for p in picks])),
                    "r2": float(np.nanmean(found[:, 0])),
                    "r2_median": float(np.nanmedian(found[:, 0])),
                    "error_percent": float(np.sqrt(np.nanmean(found[:, 1] ** 2))),
                    "regret_percent": float(np.nanmean(found[:, 2])),
                }
            )
            print(
                f"{100 * share:>4.0f} %  {name:<10}{rows[-1]['runs']:>6.0f} runs   R^2 {rows[-1]['r2']:>7.2f} "
                f"(median {rows[-1]['r2_median']:.2f})   error {rows[-1]['error_percent']:.2f} %   regret "
                f"{rows[-1]['regret_percent']:.3f} %"
            )
    everything = score(pool, test, np.arange(len(cost)))
    print(
        f"all data: R^2 {everything[0]:.2f}, error {everything[1]:.2f} %, regret {everything[2]:.3f} %   "
        f"published R^2 at 1, 5, 10 %: {PUBLISHED}"
    )
    if args.out:
        save(args.out, typed(), rows=rows, all=everything, published=PUBLISHED)


if __name__ == "__main__":
    main()
