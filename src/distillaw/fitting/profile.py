"""Profile likelihood: how far a parameter can move before the other parameters cannot make up for it.

The Huber sum over sigma^2 stands in for the log likelihood; its rise is scaled so that the curvature at the
optimum matches the variance clustered by run (Chandler and Bate 2007, Biometrika 94:167). A profile that never
rises enough on one side leaves that end open: the runs do not bound the parameter there.
"""

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from distillaw.fitting.estimate import Estimate, Problem
from distillaw.fitting.newton import minimise
from distillaw.laws.base import Array

_STEPS = np.array([0.4, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 4.0, 6.0, 9.0])
_PUBLIC = {"e": ("E", "exp"), "le": ("gamma", "negexp"), "p": ("p", ""), "q": ("q", ""), "c0": ("c0", ""),
           "lk": ("kappa", "exp"), "lf": ("f1", "exp")}  # fmt: skip

_NOISE_FREE = 1e-9
"""Residual scale in ln L below which the data are the law itself and an interval means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Interval of one coefficient; an end is None where the profile stays flat to the end of its range."""

    low: float | None
    high: float | None

    @property
    def is_flat(self) -> bool:
        """True where an end is open."""
        return self.low is None or self.high is None


def profiles(problem: Problem, fitted: Estimate, *, level: float) -> dict[str, Profile]:
    """Profile intervals of the parameters that have a meaning by themselves; none for data without noise."""
    if fitted.noise < _NOISE_FREE:
        return {}
    error, inflation = clustered_errors(problem, fitted)
    found = {}
    for position, index in enumerate(problem.model.free):
        name = problem.model.names[index]
        if name in _PUBLIC and np.isfinite(error[position]) and error[position] > 0:
            label, transform = _PUBLIC[name]
            ends = _ends(
                problem, fitted, int(index), float(error[position]), float(inflation[position]), level
            )
            found[label] = _public(ends, transform)
    return found


def clustered_errors(problem: Problem, fitted: Estimate) -> tuple[Array, Array]:
    """Standard errors by the sandwich over groups, and their squared ratio to the naive ones, by free parameter."""
    model, free = problem.model, problem.model.free
    point = model.evaluate(fitted.theta[None])
    r = point.value[0] - problem.y
    psi = np.clip(r, -fitted.delta, fitted.delta)
    J = point.gradient[0][free]
    inside = problem.weight * (np.abs(r) <= fitted.delta)
    H = (J * inside) @ J.T
    if fitted.prior is not None:
        H = H + np.diag(fitted.prior.precision[free])
    scale = np.sqrt(np.maximum(np.diag(H), 1e-300))
    inverse = np.linalg.pinv(H / np.outer(scale, scale), rcond=1e-12, hermitian=True) / np.outer(scale, scale)
    codes, member = np.unique(problem.group, return_inverse=True)
    score = np.zeros((len(codes), len(free)))
    np.add.at(score, member.reshape(-1), (J * (problem.weight * psi)).T)
    ngroups, k = len(codes), len(free)
    middle = score.T @ score * ngroups / max(ngroups - k, 1)
    sandwich = np.diag(inverse @ middle @ inverse)
    naive = np.maximum(np.diag(inverse) * fitted.noise**2, 1e-300)
    return np.sqrt(np.maximum(sandwich, 0.0)), np.maximum(sandwich / naive, 1e-6)


def _ends(
    problem: Problem, fitted: Estimate, index: int, error: float, inflation: float, level: float
) -> tuple[float | None, float | None]:
    at = fitted.theta[index] + error * np.concatenate([-_STEPS[::-1], _STEPS])
    at = np.clip(at, problem.model.lower[index], problem.model.upper[index])
    start = np.repeat(fitted.theta[None], len(at), axis=0)
    start[:, index] = at
    objective = problem.objective(fitted.delta, fitted.prior)
    found = minimise(replace(objective, model=problem.model.holding(index)), start)
    full = minimise(objective, fitted.theta[None])
    rise = np.maximum(found.penalised - full.penalised[0], 0.0)
    root = np.sqrt(2 * rise / (max(fitted.noise, 1e-12) ** 2 * inflation))
    limit = NormalDist().inv_cdf(0.5 + level / 2)
    half = len(_STEPS)
    centre = fitted.theta[index]
    low = _crossing(np.r_[centre, at[:half][::-1]], np.r_[0.0, root[:half][::-1]], limit)
    return low, _crossing(np.r_[centre, at[half:]], np.r_[0.0, root[half:]], limit)


def _crossing(at: Array, root: Array, limit: float) -> float | None:
    """Where the signed root passes the limit, linearly between the points; None if it never does."""
    beyond = np.flatnonzero(root >= limit)
    if not len(beyond):
        return None
    i = int(beyond[0])
    share = (limit - root[i - 1]) / (root[i] - root[i - 1])
    return float(at[i - 1] + share * (at[i] - at[i - 1]))


def _public(ends: tuple[float | None, float | None], transform: str) -> Profile:
    low, high = ends
    if transform == "negexp":
        low, high = (None if high is None else -high), (None if low is None else -low)
    if transform:
        low, high = (
            (None if low is None else float(np.exp(low))),
            (None if high is None else float(np.exp(high))),
        )
    return Profile(low=low, high=high)
