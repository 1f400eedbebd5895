"""What others do with the same rows: the peers of `fits.extrapolation`, each a point prediction or an interval too."""

import numpy as np
from scipy.optimize import minimize, nnls
from scipy.stats import t as student_t

import distillaw as dl

LEVEL = 0.9


def chinchilla(trial):
    """Gamma = 1, delta 1e-3, parameter bootstrap by row with noise: what is usually done."""
    result = dl.fit(trial.table(), family="chinchilla", delta=1e-3, check=False, bootstrap=400, group="none")
    held = trial.held
    logs = {"params": np.log(trial.runs.N[held]), "tokens": np.log(trial.runs.D[held])}
    draws = result.curve.log_value(logs, replicates=True)
    draws = draws + result.noise * np.random.default_rng(0).standard_normal(draws.shape)
    lower, upper = np.exp(np.percentile(draws, [5, 95], axis=0))
    return result.law(params=trial.runs.N, tokens=trial.runs.D), lower, upper, result


def variable_projection(trial):
    """Gamma = 1 by non-negative least squares in (E, A, B) inside a search over the exponents."""
    t = trial.table()
    n, d = np.log(t["params"] / t["params"].mean()), np.log(t["tokens"] / t["tokens"].mean())

    def solve(x):
        design = np.column_stack([np.ones_like(n), np.exp(-x[0] * n), np.exp(-x[1] * d)])
        return nnls(design, t["loss"])

    best = min(
        ((a, b) for a in np.geomspace(0.05, 1.2, 16) for b in np.geomspace(0.05, 1.2, 16)), key=lambda x: solve(x)[1]
    )
    x = minimize(lambda x: solve(np.clip(x, 0.01, 3))[1], best, method="Nelder-Mead").x
    E, A, B = solve(np.clip(x, 0.01, 3))[0]
    N, D = trial.runs.N / t["params"].mean(), trial.runs.D / t["tokens"].mean()
    return E + A * N ** -x[0] + B * D ** -x[1]


def quadratic(trial):
    """Least squares of ln L on 1, n, d, n^2, nd, d^2 (n, d: ln N, ln D), with its own prediction interval."""
    runs, fitted = trial.runs, ~trial.held
    n, d = np.log(runs.N), np.log(runs.D)
    n, d = n - n[fitted].mean(), d - d[fitted].mean()
    X = np.column_stack([np.ones_like(n), n, d, n * n, n * d, d * d])
    y = np.log(runs.L)
    b, *_ = np.linalg.lstsq(X[fitted], y[fitted], rcond=None)
    spare = max(fitted.sum() - X.shape[1], 1)
    s2 = float(((y - X @ b)[fitted] ** 2).sum() / spare)
    leverage = np.einsum("ij,jk,ik->i", X, np.linalg.pinv(X[fitted].T @ X[fitted]), X)
    half = student_t.ppf(0.5 + LEVEL / 2, spare) * np.sqrt(s2 * (1 + leverage))
    held = trial.held
    return np.exp(X @ b), np.exp((X @ b - half)[held]), np.exp((X @ b + half)[held])


def frontier(trial):
    """L = E + a C^-b through the best run of each level of compute (half a decade), at the compute of every run."""
    runs, fitted = trial.runs, np.flatnonzero(~trial.held)
    C = np.log(runs.compute)
    level = np.floor(2 * C / np.log(10))
    best = np.array([min(fitted[level[fitted] == x], key=lambda k: runs.L[k]) for x in np.unique(level[fitted])])
    x, y = C - C[best].mean(), runs.L[best]

    def solve(b):
        return nnls(np.column_stack([np.ones(len(best)), np.exp(-b * x[best])]), y)

    b = min(np.linspace(0.005, 0.6, 120), key=lambda b: solve(b)[1])
    E, a = solve(b)[0]
    return E + a * np.exp(-b * x)
