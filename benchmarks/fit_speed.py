"""How fast a fit and its bootstrap are, against the usual methods in the same run, on one core.

    OMP_NUM_THREADS=1 python benchmarks/fit_speed.py ../shared/data/lawruns

Peers on the 234 points of the Chinchilla figure: SciPy L-BFGS-B with numeric gradients from the field's grid of
4,500 starts (a random sample of it is timed, the rest extrapolated; the share of starts that reach the optimum is
printed), and the usual bootstrap (analytic-gradient BFGS from one start per replicate). Every replicate of ours is
compared with fresh starts. Medians; the machine's load moves all of them together, so read the ratios.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

import distillaw as dl
from distillaw.fitting.estimate import bootstrap, cluster_weights, estimate, refit
from distillaw.fitting.families import read_priors, specify_student, specify_supervised
from distillaw.fitting.problem import observe
from distillaw.runs.table import read_table

DELTA = 1e-3
GRID = list(itertools.product(np.arange(0, 30, 5.0), np.arange(0, 30, 5.0), np.arange(-1, 1.5, 0.5),
                              np.arange(0, 2.5, 0.5), np.arange(0, 2.5, 0.5)))  # fmt: skip
"""Besiroglu et al. 2024: 6 x 6 x 5 x 5 x 5 = 4,500 starts of (ln A, ln B, ln E, alpha, beta)."""


def clock(call, repeats):
    """Median wall time of a call after one warm-up, and its last result."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return float(np.median(times)), result


def peer_objective(x, n, d, y, weights):
    """The field's objective in raw parameters."""
    a, b, e, alpha, beta = x
    f = logsumexp([a - alpha * n, b - beta * d, np.full_like(n, e)], axis=0)
    r = np.abs(f - y)
    return float((weights * np.where(r <= DELTA, r * r / 2, DELTA * (r - DELTA / 2))).sum())


def peer_gradient(x, n, d, y, weights):
    """The same with its analytic gradient."""
    a, b, e, alpha, beta = x
    u = np.stack([a - alpha * n, b - beta * d, np.full_like(n, e)])
    f = logsumexp(u, axis=0)
    p = np.exp(u - f)
    r = f - y
    psi = weights * np.clip(r, -DELTA, DELTA)
    value = float((weights * np.where(np.abs(r) <= DELTA, r * r / 2, DELTA * (np.abs(r) - DELTA / 2))).sum())
    return value, np.array([psi @ p[0], psi @ p[1], psi @ p[2], -psi @ (p[0] * n), -psi @ (p[1] * d)])


def peers(rows, best, starts, replicates):
    """Seconds per start of the grid, share of starts at the optimum, seconds per single-start replicate."""
    n, d, y = np.log(rows.params), np.log(rows.tokens), np.log(rows.loss)
    rng = np.random.default_rng(0)
    sample = [GRID[i] for i in rng.choice(len(GRID), starts, replace=False)]
    begin, hits = time.perf_counter(), 0
    for start in sample:
        found = minimize(peer_objective, start, args=(n, d, y, np.ones_like(n)), method="L-BFGS-B")
        hits += found.fun <= best * (1 + 1e-4)
    per_start = (time.perf_counter() - begin) / starts
    good = np.array([np.log(442.164), np.log(1271.8), np.log(1.7839), 0.34263, 0.34200])
    begin = time.perf_counter()
    for _ in range(replicates):
        w = rng.multinomial(len(n), np.full(len(n), 1 / len(n))).astype(float)
        minimize(peer_gradient, good, args=(n, d, y, w), jac=True, method="BFGS")
    return per_start, hits / starts, (time.perf_counter() - begin) / replicates


def supervised(rows, form, delta):
    """Warm fit, 1,000 replicates, and the worst gap of 60 replicates against four fresh starts each."""
    problem = specify_supervised(rows, form=form, prior=read_priors("auto", form=form, delta=delta)).problem
    point, fitted = clock(lambda: estimate(problem, delta=delta, rng=np.random.default_rng(0)), 9)
    boot, _ = clock(lambda: bootstrap(problem, fitted, replicates=1000, rng=np.random.default_rng(1)), 3)
    weights = cluster_weights(problem.group, 60, np.random.default_rng(2))
    warm = refit(problem, fitted, weights, rng=np.random.default_rng(3), restarts=0)[1]
    fresh = refit(problem, fitted, weights, rng=np.random.default_rng(3), restarts=4)[1]
    return {"fit_s": point, "bootstrap_1000_s": boot, "worst_gap": float((warm / fresh - 1).max()),
            "objective": fitted.objective}  # fmt: skip


def student(form, shape):
    """A distillation form on a synthetic grid of surrogate-s2 with 0.3 % noise."""
    law = dl.published("surrogate-s2")
    axes = (
        np.geomspace(1.4e8, 1e10, shape[0]),
        np.geomspace(3e9, 5e11, shape[1]),
        np.linspace(1.9, 2.7, shape[2]),
    )
    N, D, T = (v.ravel() for v in np.meshgrid(*axes))
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(len(N)))
    loss = law.distillation(student_params=N, student_tokens=D, teacher_loss=T) * noise
    rows = observe({"params": N, "tokens": D, "loss": loss, "teacher_loss": T})
    own = np.log(law.supervised(params=N, tokens=D))
    prior = read_priors("auto", form=form, delta="auto")
    problem = specify_student(rows, form=form, log_supervised=own, behind=None, prior=prior).problem
    begin = time.perf_counter()
    fitted = estimate(problem, delta="auto", rng=np.random.default_rng(0))
    point = time.perf_counter() - begin
    begin = time.perf_counter()
    found = bootstrap(problem, fitted, replicates=1000, rng=np.random.default_rng(1))
    return {"runs": len(rows), "fit_s": point, "bootstrap_1000_s": time.perf_counter() - begin,
            "worst_gap": found.worst_gap, "restarted": found.restarted}  # fmt: skip


def shell(*args):
    """Wall time of the command from a cold interpreter, median of five."""

    def call():
        subprocess.run([sys.executable, "-m", "distillaw", *map(str, args)], check=True, capture_output=True)

    return clock(call, 5)[0]


def main():
    """Measure everything and print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--starts", type=int, default=120, help="peer starts that are timed")
    parser.add_argument("--replicates", type=int, default=60, help="peer replicates that are timed")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    file = args.folder / "kyo-takano-chinchilla" / "df.csv"
    rows = observe(read_table(file))
    ours = {
        "chinchilla, delta 1e-3": supervised(rows, "chinchilla", DELTA),
        "free gamma, delta 1e-3": supervised(rows, "supervised", DELTA),
        "free gamma, auto": supervised(rows, "supervised", "auto"),
    }
    same = ours["chinchilla, delta 1e-3"]
    per_start, share, per_replicate = peers(rows, same["objective"], args.starts, args.replicates)
    answer = {
        "rows": len(rows),
        "ours": ours,
        "distillation": {form: student(form, (9, 8, 10)) for form in ("reduced", "kappa", "full")},
        "peer_grid": {
            "per_start_s": per_start,
            "starts": len(GRID),
            "total_s": per_start * len(GRID),
            "reach_optimum": share,
        },
        "peer_bootstrap_1000_s": 1000 * per_replicate,
        "times_faster_than_grid": per_start * len(GRID) / same["fit_s"],
        "times_faster_than_bootstrap": 1000 * per_replicate / same["bootstrap_1000_s"],
        "cold_shell": {
            "predict_s": shell(
                "predict", "--law", "busbridge2025", "--student-params", "1B", "--student-tokens", "20B"
            ),
            "fit_s": shell("fit", file, "--law", "supervised"),
        },
    }
    print(json.dumps(answer, indent=2))
    if args.out:
        args.out.write_text(json.dumps(answer, indent=2) + "\n")


if __name__ == "__main__":
    main()
