"""The solver of `newton.py` for one parameter vector, through a whole ladder of thresholds.

The single estimate spends its time in the overhead of small array calls, so it goes without the bookkeeping of
a batch. The same steps, the same end point. No starts here (`starts.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, isfinite

import numpy as np

from distillaw.fitting.models import Model
from distillaw.laws.base import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Gaussian prior on the free parameters, added as sigma^2/2 sum ((theta - mean) / sd)^2."""

    mean: Array
    """(k,)."""
    precision: Array
    """sigma^2 / sd^2, shape (k,); 0 where there is no prior."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One threshold of the ladder, and when to leave it."""

    delta: float
    tolerance: float
    """Expected relative decrease of the objective."""
    iterations: int


def minimise_one(
    model: Model, y: Array, weights: Array, start: Array, stages: Sequence[Stage], prior: Prior | None
) -> tuple[Array, float, float, bool]:
    """Parameters (k,), objective, penalised objective, and whether the last stage converged.

    Args:
        model: the law on the rows.
        y: ln of the observed losses, shape (n,).
        weights: shape (n,).
        start: (k,); the fixed ones keep their values.
        stages: thresholds in turn.
        prior: weak prior.
    """
    free = model.free
    lower, upper = model.lower[free].tolist(), model.upper[free].tolist()
    theta = np.minimum(np.maximum(start, model.lower), model.upper)
    scale = model.metric(theta[None], weights[None])[0]
    if prior is not None:
        scale = np.sqrt(scale**2 + prior.precision[free])
    unit = 1.0 / scale

    def at(theta: Array, delta: float) -> tuple[float, float, Array, Array]:
        value, g, H = model.normal_one(theta, y, weights, delta)
        total = value
        if prior is not None:
            off = theta - prior.mean
            pull = off * prior.precision
            H.flat[:: len(free) + 1] += prior.precision[free]
            total, g = value + 0.5 * float(pull @ off), g + pull[free]
        # overflow far outside must count as worse than anything
        return value, total if isfinite(total) else inf, g, H

    full, converged = np.zeros(len(theta)), False
    state = at(theta, stages[0].delta)
    for stage, following in zip(stages, [*stages[1:], None], strict=True):
        mu, converged = 1e-3, False
        for _ in range(stage.iterations):
            _, _, g, H = state
            stuck = _stuck(theta[free].tolist(), g.tolist(), lower, upper)
            full[free], decrease = newton_step_one(g, H, unit, mu, stuck)
            trial = model.moved_one(theta, full)
            converged = decrease <= stage.tolerance * state[1] + 1e-30 or mu > 1e7
            if converged and following is not None:  # a step this small needs no check before the last stage
                theta = trial
                break
            found = at(trial, stage.delta)
            better = found[1] <= state[1]
            if better:
                theta, state = trial, found
            if converged:
                break
            mu = max(0.1 * mu, 1e-12) if better else max(8.0 * mu, 1e-6)
        if following is not None:
            state = at(theta, following.delta)
    return theta, state[0], state[1], converged


def _stuck(theta: list[float], g: list[float], lower: list[float], upper: list[float]) -> list[int]:
    """Positions at a bound that the objective would push them through."""
    return [i for i, t in enumerate(theta) if (t <= lower[i] and g[i] > 0) or (t >= upper[i] and g[i] < 0)]


def newton_step_one(g: Array, H: Array, unit: Array, mu: float, stuck: list[int]) -> tuple[Array, float]:
    """Damped step and the decrease it expects, as `newton._newton_step` for one vector.

    Args:
        g: gradient, (k,).
        H: Hessian, (k, k).
        unit: one over the metric, (k,).
        mu: damping.
        stuck: positions that stay where they are.
    """
    g = g * unit
    H = H * (unit[:, None] * unit)
    if stuck:
        g[stuck] = 0.0
        H[stuck] = H[:, stuck] = 0.0
    damped = H.copy()
    damped.flat[:: len(g) + 1] += mu
    for i in stuck:
        damped[i, i] += 1.0
    _, step, trouble = _posv()(damped, -g)  # Cholesky; numpy's takes ten times as long for six unknowns
    if trouble or not isfinite(step.sum()):
        values, vectors = np.linalg.eigh(np.where(np.isfinite(H), H, 0.0))
        step = -vectors @ ((vectors.T @ g) / (np.maximum(np.abs(values), 1e-9) + mu))
    return step * unit, abs(0.5 * float(g @ step))


@cache
def _posv() -> Callable[[Array, Array], tuple[Array, Array, int]]:
    """LAPACK's solver for positive matrices; imported on first use, a prediction does not need it."""
    from scipy.linalg import get_lapack_funcs

    return get_lapack_funcs("posv", dtype=np.float64)
