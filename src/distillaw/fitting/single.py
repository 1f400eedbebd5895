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
from distillaw.laws.base import Array, Mask


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
    free, lower, upper = model.free, model.lower[model.free], model.upper[model.free]
    theta = np.minimum(np.maximum(start, model.lower), model.upper)
    scale = model.metric(theta[None], weights[None])[0]
    if prior is not None:
        scale = np.sqrt(scale**2 + prior.precision[free])

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
            inner = theta[free]
            step, decrease = newton_step_one(state[2], state[3], scale, mu, inner <= lower, inner >= upper)
            full[free] = step
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


def newton_step_one(
    g: Array, H: Array, scale: Array, mu: float, at_lower: Mask, at_upper: Mask
) -> tuple[Array, float]:
    """Damped step within the box and the decrease it expects, as `newton._newton_step` for one vector."""
    g = g / scale
    H = H / (scale[:, None] * scale)
    stuck = (at_lower & (g > 0)) | (at_upper & (g < 0))
    if stuck.any():
        g = np.where(stuck, 0.0, g)
        H = np.where(stuck[:, None] | stuck, 0.0, H)
    damped = H.copy()
    damped.flat[:: len(g) + 1] += mu + stuck
    _, step, trouble = _posv()(damped, -g)  # Cholesky; numpy's takes ten times as long for six unknowns
    if trouble or not isfinite(step.sum()):
        values, vectors = np.linalg.eigh(np.where(np.isfinite(H), H, 0.0))
        step = -vectors @ ((vectors.T @ g) / (np.maximum(np.abs(values), 1e-9) + mu))
    return step / scale, abs(0.5 * float(g @ step))


@cache
def _posv() -> Callable[[Array, Array], tuple[Array, Array, int]]:
    """LAPACK's solver for positive matrices; imported on first use, a prediction does not need it."""
    from scipy.linalg import get_lapack_funcs

    return get_lapack_funcs("posv", dtype=np.float64)
