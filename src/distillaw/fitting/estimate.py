"""One estimate and its bootstrap: threshold, starts, prior, replicates. The same steps for every family.

Spec fitting.md sections 1, 4 and 6. What is minimised is in `newton.py`; what the rows mean is in
`families.py`; nothing here knows an equation.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillaw.fitting.models import Model
from distillaw.fitting.newton import Prior, graduated, minimise
from distillaw.laws.base import Array

MATCHED = 1.345
"""Huber threshold in units of the robust noise: 95 % efficiency for Gaussian residuals."""
FLOOR = 5e-4
"""Smallest automatic threshold, in ln L."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A law on checked rows, ready to be minimised."""

    model: Model
    y: Array
    """ln of the observed losses, shape (n,)."""
    weight: Array
    group: NDArray[np.int64]
    starts: Callable[[np.random.Generator], Array]
    """Start points (S, k) for a fit from nothing."""
    keep: int
    """Starts that survive the first stage."""
    stages: tuple[float, ...]
    prior_mean: Array
    prior_sd: Array
    """Weak prior on the parameters; infinite where there is none. Its strength scales with the noise."""
    restarts: int
    """Extra starts of each bootstrap replicate; 0 where a warm start is known to be safe."""

    @property
    def num_free(self) -> int:
        """Number of fitted parameters."""
        return len(self.model.free)

    @property
    def ngroups(self) -> int:
        """Number of independent runs."""
        return len(np.unique(self.group))

    def prior(self, noise: float) -> Prior | None:
        """The prior at a noise scale, or None where no parameter has one."""
        if not np.isfinite(self.prior_sd).any():
            return None
        return Prior(mean=self.prior_mean, precision=(noise / self.prior_sd) ** 2)


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
    return float(1.4826 * np.median(np.abs(r - np.median(r))))


def estimate(problem: Problem, *, delta: float | str, rng: np.random.Generator) -> Estimate:
    """The global minimum for one data set, with the threshold chosen from the residuals if `delta="auto"`."""
    y, weights = problem.y, problem.weight[None]
    start = problem.starts(rng)
    first = 0.03 if delta == "auto" else float(delta)
    found = graduated(problem.model, y, weights, start, delta=first, stages=problem.stages, keep=problem.keep)
    order = np.argsort(found.penalised)
    theta, others = found.theta[order[:1]], found.theta[order[1:]]
    noise = _noise(problem, theta)
    prior = problem.prior(noise)
    threshold = first
    rounds = 6 if delta == "auto" or prior is not None else 0
    for _ in range(rounds):
        before = noise
        threshold = max(MATCHED * noise_raw(problem, theta), FLOOR) if delta == "auto" else first
        start = np.concatenate([theta, others[: problem.keep]])
        found = graduated(problem.model, y, weights, start, delta=threshold, prior=prior, stages=())
        order = np.argsort(found.penalised)
        theta, others = found.theta[order[:1]], found.theta[order[1:]]
        noise = _noise(problem, theta)
        if abs(noise - before) <= 0.02 * before:
            break
        prior = problem.prior(noise)
    return Estimate(
        theta=theta[0], objective=float(found.objective[order[0]]), delta=threshold, noise=noise, prior=prior,
        converged=bool(found.converged[order[0]]), others=others,
    )  # fmt: skip


def noise_raw(problem: Problem, theta: Array) -> float:
    """Robust scale of the residuals at theta (1, k)."""
    return robust_scale(problem.model.value(theta)[0] - problem.y, problem.weight)


def _noise(problem: Problem, theta: Array) -> float:
    n = len(problem.y)
    return noise_raw(problem, theta) * float(np.sqrt(n / max(n - problem.num_free, 1)))


def cluster_weights(group: NDArray[np.int64], replicates: int, rng: np.random.Generator) -> Array:
    """Multinomial counts over groups, one row of weights per replicate: the pairs bootstrap by run."""
    codes, member = np.unique(group, return_inverse=True)
    counts = rng.multinomial(len(codes), np.full(len(codes), 1 / len(codes)), size=replicates)
    return counts[:, member.reshape(-1)].astype(np.float64)


def bootstrap(
    problem: Problem, fitted: Estimate, *, replicates: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Refit every replicate, from the full fit and from `problem.restarts` further starts.

    Returns:
        (parameters (R, k), minimised objectives (R,)).
    """
    weights = cluster_weights(problem.group, replicates, rng) * problem.weight
    return refit(problem, fitted, weights, rng=rng)


def refit(
    problem: Problem, fitted: Estimate, weights: Array, *, rng: np.random.Generator
) -> tuple[Array, Array]:
    """The minimum for each row of weights (R, n), at the threshold and prior of the full fit."""
    best = minimise(
        problem.model, problem.y, weights, np.repeat(fitted.theta[None], len(weights), axis=0),
        delta=fitted.delta, prior=fitted.prior,
    )  # fmt: skip
    theta, objective = best.theta, best.penalised
    pool = np.concatenate([fitted.others, problem.starts(rng)])
    for i in range(problem.restarts):
        picks = pool[rng.integers(len(pool), size=len(weights))] if i else _cycle(pool, len(weights))
        again = graduated(
            problem.model,
            problem.y,
            weights,
            picks,
            delta=fitted.delta,
            prior=fitted.prior,
            stages=problem.stages,
        )
        better = again.penalised < objective
        theta = np.where(better[:, None], again.theta, theta)
        objective = np.where(better, again.penalised, objective)
    return theta, objective


def _cycle(pool: Array, count: int) -> Array:
    return pool[np.arange(count) % len(pool)]


def condition_number(problem: Problem, fitted: Estimate) -> float:
    """Condition of the information matrix with unit diagonal: how far from being unidentified."""
    J = problem.model.evaluate(fitted.theta[None]).gradient[0][problem.model.free]
    J = J * np.sqrt(problem.weight)
    scale = np.sqrt((J * J).sum(axis=1))
    if (scale < 1e-12).any():
        return float("inf")
    values = np.linalg.svd(J / scale[:, None], compute_uv=False)
    return float((values[0] / values[-1]) ** 2) if values[-1] > 0 else float("inf")
