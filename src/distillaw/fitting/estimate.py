"""One estimate and its bootstrap: threshold, starts, prior, replicates. The same steps for every family.

What is minimised is in `newton.py`; what the rows mean is in `problem.py`; nothing here knows an equation.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from distillaw.fitting.newton import EXACT, LOOSE, Prior, Solutions, distinct, graduated, minimise
from distillaw.fitting.problem import Problem
from distillaw.laws.base import Array

MATCHED = 1.345
"""Huber threshold in units of the robust noise: 95 % efficiency for Gaussian residuals."""
CHECKED = 20
"""Replicates of every bootstrap that are minimised again from fresh starts."""
GAP = 1e-6
"""Relative objective above which a replicate counts as short of its minimum."""
FIRST = 0.03
"""Threshold of the first fit, from which the noise is read: nearly least squares."""
FLOOR = 5e-4
"""Smallest automatic threshold, in ln L."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Where the fit ended."""

    theta: Array
    objective: float
    """Sum of Huber terms at `delta`, without the prior."""
    delta: float
    noise: float
    """Robust scale of the residuals in ln L, corrected for the fitted parameters."""
    prior: Prior | None
    converged: bool
    others: Array
    """Other end points of the multi-start (S, k), best first: extra starts for the replicates."""


def robust_scale(r: Array, weight: Array | None = None) -> float:
    """1.4826 median |r - median r|, the standard deviation of Gaussian residuals."""
    r = r if weight is None else r[weight > 0]
    return 1.4826 * _median(np.abs(r - _median(r)))


def _median(x: Array) -> float:
    """The median of finite numbers, without the overhead of numpy's."""
    middle = (len(x) - 1) // 2, len(x) // 2
    ordered = np.partition(x, middle)
    return 0.5 * float(ordered[middle[0]] + ordered[middle[1]])


def estimate(problem: Problem, *, delta: float | str, rng: np.random.Generator) -> Estimate:
    """The global minimum for one data set, with the threshold chosen from the residuals if `delta="auto"`."""
    automatic = delta == "auto"
    threshold, prior = FIRST if automatic else float(delta), None
    settled = not automatic and not np.isfinite(problem.prior_sd).any()  # nothing depends on the noise
    search, tolerance = problem.search, EXACT if settled else LOOSE
    steps = {"stages": search.stages, "keep": search.keep, "within": search.within, "passing": search.passing}
    found = graduated(problem.objective(threshold), problem.starts(rng), tolerance=tolerance, **steps)
    if not settled:
        threshold, prior, found = _matched(problem, found, threshold, automatic=automatic)
    if search.rescue and _is_doubtful(problem, found):
        starts = problem.random_starts(rng, search.rescue)
        again = graduated(problem.objective(threshold, prior), starts, stages=search.stages, tolerance=EXACT)
        found = again if again.penalised.min() < found.penalised.min() * (1 - GAP) else found
    order = np.argsort(found.penalised)
    theta, others = found.theta[order[:1]], found.theta[order[1:]]
    return Estimate(
        theta=theta[0],
        objective=float(found.objective[order[0]]),
        delta=threshold,
        noise=noise_raw(problem, theta) * _inflation(problem),
        prior=prior,
        converged=bool(found.converged[order[0]]),
        others=others,
    )


def _is_doubtful(problem: Problem, found: Solutions) -> bool:
    """True where the best end point did not converge or sits at a bound: the runs hardly hold it."""
    best, model = found.best(), problem.model
    theta = found.theta[best, model.free]
    at_bound = (theta <= model.lower[model.free]) | (theta >= model.upper[model.free])
    return not found.converged[best] or bool(at_bound.any())


def _matched(
    problem: Problem, found: Solutions, threshold: float, *, automatic: bool
) -> tuple[float, Prior | None, Solutions]:
    """Threshold and prior that go with the noise of the fit they give, and that fit."""
    prior, theta = None, found.theta[np.argsort(found.penalised)]
    inflate = _inflation(problem)
    raw = noise_raw(problem, theta[:1])
    for _ in range(8):
        before, noise = raw, inflate * raw
        threshold = max(MATCHED * raw, FLOOR) if automatic else threshold
        prior = problem.prior(noise, theta[0])
        found = minimise(problem.objective(threshold, prior), theta, tolerance=LOOSE)
        theta = found.theta[distinct(found.penalised)]
        raw = noise_raw(problem, theta[:1])
        if abs(raw - before) <= 0.02 * before:
            break
    return threshold, prior, minimise(problem.objective(threshold, prior), theta, tolerance=EXACT)


def noise_raw(problem: Problem, theta: Array) -> float:
    """Robust scale of the residuals at theta (1, k)."""
    return robust_scale(problem.model.value(theta)[0] - problem.y, problem.weight)


def _inflation(problem: Problem) -> float:
    """Root of n over the degrees of freedom."""
    n = len(problem.y)
    return float(np.sqrt(n / max(n - problem.num_free, 1)))


def cluster_weights(group: NDArray[np.int64], replicates: int, rng: np.random.Generator) -> Array:
    """Multinomial counts over groups, one row of weights per replicate: the pairs bootstrap by run."""
    codes, member = np.unique(group, return_inverse=True)
    counts = rng.multinomial(len(codes), np.full(len(codes), 1 / len(codes)), size=replicates)
    return counts[:, member.reshape(-1)].astype(np.float64)


def bootstrap(
    problem: Problem, fitted: Estimate, *, replicates: int, rng: np.random.Generator
) -> tuple[Array, dict[str, object]]:
    """Refit every replicate from the full fit; check some from fresh starts, and restart all if one was short.

    Returns:
        theta of the replicates, (R, k), and how well they were minimised: `worst_gap`, the largest relative objective
        by which fresh starts beat the warm one over the `num_checked` replicates, and whether all were `restarted`.
    """
    weights = cluster_weights(problem.group, replicates, rng) * problem.weight
    theta, objective = refit(problem, fitted, weights, rng=rng, restarts=0)
    checked = np.arange(min(replicates, CHECKED))
    check = replace(problem, model=problem.model.take(checked))
    _, best = refit(check, fitted, weights[checked], rng=rng, restarts=1)
    gap = float(((objective[checked] - best) / np.maximum(best, 1e-16 * len(problem.y))).max())
    restarted = gap > GAP
    if restarted:
        theta, _ = refit(problem, fitted, weights, rng=rng, restarts=problem.restarts)
    return theta, {"worst_gap": gap, "num_checked": len(checked), "restarted": restarted}


def refit(
    problem: Problem,
    fitted: Estimate,
    weights: Array,
    *,
    rng: np.random.Generator,
    restarts: int,
    iterations: int = 200,
) -> tuple[Array, Array]:
    """Parameters (R, k) and minimised objective (R,) for each row of weights (R, n), threshold and prior kept.

    Each starts from the full fit, and from `restarts` random points as well.
    """
    objective = problem.objective(fitted.delta, fitted.prior, weights=weights)
    best = minimise(objective, np.repeat(fitted.theta[None], len(weights), axis=0), iterations=iterations)
    theta, least = best.theta, best.penalised
    for _ in range(restarts):
        again = graduated(objective, problem.random_starts(rng, len(weights)), stages=(0.3, 0.03))
        better = again.penalised < least
        theta = np.where(better[:, None], again.theta, theta)
        least = np.where(better, again.penalised, least)
    return theta, least
