"""The default solver: graduated Huber, damped exact Newton, batched over replicates (and over starts).

Spec fitting.md section 4.2. The objective is the sum of Huber terms of r = f - ln L, plus a weak quadratic
prior where one is given. A batch of R problems (starts, bootstrap weights, hold-outs) moves together;
finished ones leave the batch. Starts come from `starts.py`; the independent check is `second.py`.
"""

from dataclasses import dataclass

import numpy as np

from distillaw.fitting.models import Model
from distillaw.laws.base import Array

_CHUNK = 24_000
"""Replicates x rows worked on at a time: small enough that a parameter's row stays in cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Gaussian prior on the free parameters, added as sigma^2/2 sum ((theta - mean) / sd)^2."""

    mean: Array
    """(k,)."""
    precision: Array
    """sigma^2 / sd^2, shape (k,); 0 where there is no prior."""


@dataclass(slots=True)
class Solutions:
    """Where a batch of problems ended."""

    theta: Array
    objective: Array
    """Sum of Huber terms, without the prior, shape (R,)."""
    penalised: Array
    """With the prior: what was minimised."""
    converged: Array

    def best(self) -> int:
        """Index of the lowest minimised objective."""
        return int(np.argmin(self.penalised))


def huber(r: Array, delta: float) -> Array:
    """r^2/2 inside delta, delta (|r| - delta/2) outside."""
    clipped = np.clip(r, -delta, delta)
    return clipped * (r - 0.5 * clipped)


def minimise(
    model: Model,
    y: Array,
    weights: Array,
    start: Array,
    *,
    delta: float,
    prior: Prior | None = None,
    iterations: int = 200,
    tolerance: float = 1e-13,
) -> Solutions:
    """Minimise the penalised Huber sum for each replicate.

    Args:
        model: the law on the rows.
        y: ln of the observed losses, shape (n,).
        weights: weights of the rows, shape (R, n) or (1, n).
        start: start parameters, shape (R, k); the fixed ones keep their values.
        delta: Huber threshold in ln L.
        prior: weak prior, shared by the replicates.
        iterations: most Newton steps.
        tolerance: stop when the expected relative decrease falls below it.
    """
    R, n = len(start), len(y)
    weights = np.broadcast_to(weights, (R, n))
    size = max(1, _CHUNK // max(n, 1))
    chunks = [slice(i, min(i + size, R)) for i in range(0, R, size)]
    with np.errstate(all="ignore"):  # far points of a trial step may overflow; they count as worse
        parts = [
            _minimise_chunk(
                model.take(rows), y, weights[rows], start[rows], delta, prior, iterations, tolerance
            )
            for rows in chunks
        ]
    return Solutions(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in Solutions.__slots__)
    )


def graduated(
    model: Model,
    y: Array,
    weights: Array,
    start: Array,
    *,
    delta: float,
    prior: Prior | None = None,
    stages: tuple[float, ...] = (0.3, 0.03),
    keep: int | None = None,
) -> Solutions:
    """Minimise at falling thresholds, each from the previous solution; keep the best few starts.

    Args:
        stages: thresholds before the final `delta` (those at or below it are skipped).
        keep: starts that go on after the first stage; None keeps all (needed for replicates).
        model: as in `minimise`, like the other arguments.
        y: as in `minimise`.
        weights: as in `minimise`.
        start: as in `minimise`.
        delta: as in `minimise`.
        prior: as in `minimise`.
    """
    theta = start
    for stage in (s for s in stages if s > 2 * delta):
        found = minimise(model, y, weights, theta, delta=stage, prior=prior, iterations=30, tolerance=1e-4)
        theta = found.theta
        if keep is not None and len(theta) > keep:
            theta = theta[np.argsort(found.penalised)[:keep]]
    return minimise(model, y, weights, theta, delta=delta, prior=prior)


def _minimise_chunk(
    model: Model,
    y: Array,
    weights: Array,
    start: Array,
    delta: float,
    prior: Prior | None,
    iterations: int,
    tolerance: float,
) -> Solutions:
    R, free = len(start), model.free
    out = np.clip(start, model.lower, model.upper)
    objective, penalised = np.full(R, np.inf), np.full(R, np.inf)
    converged = np.zeros(R, dtype=bool)
    active = np.arange(R)
    mu = np.full(R, 1e-3)
    state = _evaluate(model, out, y, weights, delta, prior)
    for _ in range(iterations):
        step, decrease = _newton_step(state, model, mu)
        done = decrease <= tolerance * state.penalised + 1e-30
        done |= mu > 1e7
        if done.any():
            idx = active[done]
            out[idx], objective[idx], penalised[idx] = (
                state.theta[done],
                state.objective[done],
                state.penalised[done],
            )
            converged[idx] = True
            keep = ~done
            active, mu, step = active[keep], mu[keep], step[keep]
            state = state.part(keep)
            if not len(active):
                break
        model_part, w = model.take(active), weights[active]
        trial_theta = state.theta.copy()
        trial_theta[:, free] = np.clip(trial_theta[:, free] + step, model.lower[free], model.upper[free])
        trial = _evaluate(model_part, trial_theta, y, w, delta, prior)
        better = trial.penalised <= state.penalised
        mu = np.where(better, np.maximum(0.1 * mu, 1e-12), np.maximum(8.0 * mu, 1e-6))
        state = trial if better.all() else _mix(better, trial, state)
    if len(active):
        out[active], objective[active], penalised[active] = state.theta, state.objective, state.penalised
    return Solutions(out, objective, penalised, converged)


@dataclass(slots=True)
class _State:
    """One point per replicate with its derivatives by the free parameters."""

    theta: Array
    objective: Array
    penalised: Array
    gradient: Array
    hessian: Array
    scale: Array
    """Diagonal of the Gauss-Newton matrix over all rows: a metric that does not vanish at small delta."""

    def part(self, keep: Array) -> "_State":
        return _State(*(getattr(self, name)[keep] for name in _State.__slots__))


def _mix(choose: Array, a: _State, b: _State) -> _State:
    """Replicates of a where `choose`, of b elsewhere."""
    mixed = []
    for name in _State.__slots__:
        x, z = getattr(a, name), getattr(b, name)
        mixed.append(np.where(choose.reshape((-1,) + (1,) * (x.ndim - 1)), x, z))
    return _State(*mixed)


def _evaluate(
    model: Model, theta: Array, y: Array, weights: Array, delta: float, prior: Prior | None
) -> _State:
    point = model.evaluate(theta)
    free = model.free
    r = point.value - y
    psi = np.clip(r, -delta, delta)
    objective = np.einsum("ri,ri,ri->r", weights, psi, r - 0.5 * psi)
    J = point.gradient if len(free) == point.gradient.shape[1] else point.gradient[:, free]
    c = weights * psi
    gradient = np.einsum("ri,rki->rk", c, J)
    inside = weights * (np.abs(r) <= delta)
    hessian = (J * inside[:, None, :]) @ J.transpose(0, 2, 1)
    hessian += point.curvature(c)[:, free[:, None], free[None, :]]
    scale = np.einsum("ri,rki,rki->rk", weights, J, J)
    penalised = objective
    if prior is not None:
        off = (theta - prior.mean) * prior.precision
        penalised = objective + 0.5 * ((theta - prior.mean) * off).sum(axis=1)
        gradient = gradient + off[:, free]
        hessian[:, np.arange(len(free)), np.arange(len(free))] += prior.precision[free]
        scale = scale + prior.precision[free]
    # a NaN objective (overflow far outside) must count as worse than anything
    penalised = np.where(np.isfinite(penalised), penalised, np.inf)
    return _State(theta, objective, penalised, gradient, hessian, np.sqrt(np.maximum(scale, 1e-300)))


def _newton_step(state: _State, model: Model, mu: Array) -> tuple[Array, Array]:
    """Damped Newton step within the box, and the decrease of the objective it expects.

    A cheap linear solve first; replicates whose Hessian is not positive get the eigenvalue form
    step = -V ( V^T g / (|lambda| + mu) ) / s.
    """
    free = model.free
    g = state.gradient / state.scale
    H = state.hessian / (state.scale[:, :, None] * state.scale[:, None, :])
    theta = state.theta[:, free]
    stuck = ((theta <= model.lower[free]) & (g > 0)) | ((theta >= model.upper[free]) & (g < 0))
    if stuck.any():
        g = np.where(stuck, 0.0, g)
        H = np.where(stuck[:, :, None] | stuck[:, None, :], 0.0, H)
    k = len(free)
    diagonal = np.arange(k)
    damped = H.copy()
    damped[:, diagonal, diagonal] += mu[:, None] + stuck
    bad = ~_is_positive(damped)
    damped[bad] = np.eye(k)
    step = -np.linalg.solve(damped, g[:, :, None])[:, :, 0]
    if bad.any():
        values, vectors = np.linalg.eigh(np.where(np.isfinite(H[bad]), H[bad], 0.0))
        coords = np.einsum("rji,rj->ri", vectors, g[bad])
        coords /= np.maximum(np.abs(values), 1e-9) + mu[bad, None]
        step[bad] = -np.einsum("rij,rj->ri", vectors, coords)
    decrease = -0.5 * np.einsum("rk,rk->r", g, step)
    return step / state.scale, np.abs(decrease)


def _is_positive(matrices: Array) -> Array:
    """True where a symmetric matrix is positive definite (pivots of an LDL^T without exchanges)."""
    A = matrices.copy()
    positive = np.isfinite(A).all(axis=(1, 2))
    for j in range(A.shape[1]):
        pivot = A[:, j, j]
        positive &= pivot > 1e-14
        row = A[:, j, j:] / np.where(positive, pivot, 1.0)[:, None]
        A[:, j:, j:] -= A[:, j:, j, None] * row[:, None, :]
    return positive
