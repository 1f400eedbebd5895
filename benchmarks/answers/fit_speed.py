"""How fast a fit and its bootstrap are, against the usual methods in the same run, on one core.

    OMP_NUM_THREADS=1 python -m benchmarks.answers.fit_speed ../shared/data/lawruns

Peers on the 234 points of the Chinchilla figure: SciPy L-BFGS-B with numeric gradients from the field's grid of
4,500 starts (a random sample of it is timed, the rest extrapolated; the share of starts that reach the optimum is
printed), and the usual bootstrap (analytic-gradient BFGS from one start per replicate). A sample of our replicates is
compared with a long multi-start of each. Seconds of CPU time of one core, best and median, but for the cold shell,
which is wall time; the machine's load moves all of them together, so read the ratios.
"""

import argparse
import datetime
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

import distillaw as dl
from distillaw.fitting.curve import FittedCurve
from distillaw.fitting.estimate import Estimate, bootstrap, cluster_weights, estimate, refit
from distillaw.fitting.observations import observe
from distillaw.fitting.problem import Problem, read_priors, specify_student, specify_supervised
from distillaw.runs.files import write_text
from distillaw.runs.table import read_table

DELTA = 1e-3
GRID = list(
    itertools.product(
        np.arange(0, 30, 5.0),
        np.arange(0, 30, 5.0),
        np.arange(-1, 1.5, 0.5),
        np.arange(0, 2.5, 0.5),
        np.arange(0, 2.5, 0.5),
    )
)
"""Besiroglu et al. 2024: 6 x 6 x 5 x 5 x 5 = 4,500 starts of (ln A, ln B, ln E, alpha, beta)."""


SAMPLE, STARTS = 60, 30
"""Replicates that are checked, and random starts of each."""


def clock(call, repeats, timer=time.process_time):
    """Best and median seconds of a call after one warm-up."""
    call()
    times = []
    for _ in range(repeats):
        start = timer()
        call()
        times.append(timer() - start)
    return {"best_s": min(times), "median_s": float(np.median(times))}


def at_optimum(problem: Problem, fitted: Estimate):
    """Share of a sample of replicates within 1e-6 of the best of a long multi-start, and the worst gap."""
    weights = cluster_weights(problem.group, SAMPLE, np.random.default_rng(2)) * problem.weight
    warm = refit(problem, fitted, weights, rng=np.random.default_rng(3), restarts=0)[1]
    best = refit(problem, fitted, weights, rng=np.random.default_rng(3), restarts=STARTS)[1]
    gap = warm / best - 1
    return {
        "replicates": SAMPLE,
        "starts_each": STARTS,
        "share": float((gap <= 1e-6).mean()),
        "worst_gap": float(gap.max()),
    }


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
    begin, hits = time.process_time(), 0
    for start in sample:
        found = minimize(peer_objective, start, args=(n, d, y, np.ones_like(n)), method="L-BFGS-B")
        hits += found.fun <= best * (1 + 1e-4)
    per_start = (time.process_time() - begin) / starts
    good = np.array([np.log(442.164), np.log(1271.8), np.log(1.7839), 0.34263, 0.34200])
    begin = time.process_time()
    for _ in range(replicates):
        w = rng.multinomial(len(n), np.full(len(n), 1 / len(n))).astype(float)
        minimize(peer_gradient, good, args=(n, d, y, w), jac=True, method="BFGS")
    return per_start, hits / starts, (time.process_time() - begin) / replicates


def supervised(rows, form, delta):
    """Warm fit, 1,000 replicates with their intervals, and whether the replicates are at their optimum."""
    problem = specify_supervised(rows, form=form, prior=read_priors("auto", form=form, delta=delta, rows=rows))
    fitted = estimate(problem, delta=delta, rng=np.random.default_rng(0))

    def intervals():
        replicates, _ = bootstrap(problem, fitted, replicates=1000, rng=np.random.default_rng(1))
        curve: FittedCurve = problem.curve(theta=fitted.theta, replicates=replicates)
        return {name: np.percentile(v, [5, 95]) for name, v in curve.coefficients(replicates=True).items()}

    return {
        "fit": clock(lambda: estimate(problem, delta=delta, rng=np.random.default_rng(0)), 25),
        "bootstrap_1000": clock(intervals, 5),
        "at_optimum": at_optimum(problem, fitted),
        "objective": fitted.objective,
    }


def student(form, shape):
    """A distillation form on a synthetic grid of surrogate-s2 with 0.3 % noise."""
    law = dl.published("surrogate-s2")
    axes = (np.geomspace(1.4e8, 1e10, shape[0]), np.geomspace(3e9, 5e11, shape[1]), np.linspace(1.9, 2.7, shape[2]))
    N, D, T = (v.ravel() for v in np.meshgrid(*axes))
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(len(N)))
    loss = law.distillation(student_params=N, student_tokens=D, teacher_loss=T) * noise
    rows = observe({"params": N, "tokens": D, "loss": loss, "teacher_loss": T})
    own = np.log(law.supervised(params=N, tokens=D))
    prior = read_priors("auto", form=form, delta="auto", rows=rows)
    problem = specify_student(rows, form=form, log_supervised=own, behind=None, prior=prior)
    fitted = estimate(problem, delta="auto", rng=np.random.default_rng(0))
    _, found = bootstrap(problem, fitted, replicates=1000, rng=np.random.default_rng(1))
    return {
        "runs": len(rows),
        "fit": clock(lambda: estimate(problem, delta="auto", rng=np.random.default_rng(0)), 3),
        "bootstrap_1000": clock(lambda: bootstrap(problem, fitted, replicates=1000, rng=np.random.default_rng(1)), 3),
        "converged": fitted.converged,
        "restarted": found["restarted"],
        "at_optimum": at_optimum(problem, fitted),
    }


def shell(*args):
    """Wall time of the command from a cold interpreter, five times."""
    command = [sys.executable, "-m", "distillaw", *map(str, args)]
    return clock(lambda: subprocess.run(command, check=True, capture_output=True), 5, timer=time.perf_counter)


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
    grid_s, boot_s = per_start * len(GRID), 1000 * per_replicate
    fit_s, intervals_s = same["fit"]["median_s"], same["bootstrap_1000"]["median_s"]
    answer = {
        "command": " ".join(["OMP_NUM_THREADS=1 python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} shared cores, Python {platform.python_version()}, "
        f"numpy {np.__version__}",
        "rows": len(rows),
        "ours": ours,
        "distillation": {form: student(form, (9, 8, 10)) for form in ("reduced", "kappa", "full")},
        "peer_grid": {"per_start_s": per_start, "starts": len(GRID), "total_s": grid_s, "reach_optimum": share},
        "peer_bootstrap_1000_s": boot_s,
        "ratios": {
            "grid / our fit": grid_s / fit_s,
            "grid / our 1,000 replicates": grid_s / intervals_s,
            "peer bootstrap / our bootstrap": boot_s / intervals_s,
        },
        "cold_shell": {
            "predict": shell("predict", "--law", "busbridge2025", "--student-params", "1B", "--student-tokens", "20B"),
            "fit": shell("fit", file, "--law", "supervised"),
        },
    }
    print(json.dumps(answer, indent=2))
    if args.out:
        write_text(args.out, json.dumps(answer, indent=2) + "\n", known=True)


if __name__ == "__main__":
    main()
