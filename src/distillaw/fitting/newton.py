"""The default solver: graduated Huber, damped exact Newton, batched over replicates (and over starts).

The objective is the sum of Huber terms of r = f - ln L, plus a weak quadratic
prior where one is given. A batch of R problems (starts, bootstrap weights, hold-outs) moves together;
finished ones leave the batch. Starts come from `problem.py`; the independent check is `second.py`.
"""

from dataclasses import dataclass, replace

import numpy as np

from distillaw.fitting.models import Model
from distillaw.laws.base import Array, Indices, Mask

EXACT, TIGHT, LOOSE = 1e-13, 1e-9, 1e-3
"""Expected relative decrease of the objective at which an estimate, a replicate and a passing stage end."""

_FIRST_PASS = 16
"""Iterations before the unfinished replicates of all chunks are pooled, so that a few do not hold up many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Gaussian prior on the free parameters, added as sigma^2/2 sum ((theta - mean) / sd)^2."""

    mean: Array
    """(k,)."""
    precision: Array
    """sigma^2 / sd^2, shape (k,); 0 where there is no prior."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What each replicate minimises: the weighted Huber sum of r = f - ln L, and a weak prior where there is one."""

    model: Model
    """The law on the rows."""
    y: Array
    """ln of the observed losses, shape (n,)."""
    weights: Array
    """Weights of the rows, shape (R, n) or (1, n)."""
    delta: float
    """Huber threshold in ln L."""
    prior: Prior | None = None
    """Shared by the replicates."""

    def take(self, rows: Indices | slice) -> "Objective":
        """Some of the replicates; the weights must be (R, n)."""
        return replace(self, model=self.model.take(rows), weights=self.weights[rows])


@dataclass(slots=True)
class Solutions:
    """Where a batch of problems ended."""

    theta: Array
    objective: Array
    """Sum of Huber terms, without the prior, shape (R,)."""
    penalised: Array
    """With the prior: what was minimised."""
    converged: Mask

    def best(self) -> int:
        """Index of the lowest minimised objective."""
        return int(np.argmin(self.penalised))


def minimise(objective: Objective, start: Array, *, iterations: int = 200, tolerance: float = TIGHT) -> Solutions:
    """Minimise the penalised Huber sum for each replicate.

    Args:
        start: start parameters, shape (R, k); the fixed ones keep their values.
        tolerance: stop when the expected relative decrease falls below it.
    """
    objective = replace(objective, weights=np.broadcast_to(objective.weights, (len(start), len(objective.y))))
    first = min(iterations, _FIRST_PASS)
    with np.errstate(all="ignore"):  # far points of a trial step may overflow; they count as worse
        found = _in_chunks(objective, start, first, tolerance)
        late = np.flatnonzero(~found.converged)
        if len(late) and iterations > first:
            rest = _in_chunks(objective.take(late), found.theta[late], iterations - first, tolerance)
            for name in Solutions.__slots__:
                getattr(found, name)[late] = getattr(rest, name)
    return found


def _in_chunks(objective: Objective, start: Array, iterations: int, tolerance: float) -> Solutions:
    R = len(start)
    size = max(1, objective.model.chunk // max(len(objective.y), 1))
    parts = [
        _minimise_chunk(objective.take(rows), start[rows], iterations, tolerance)
        for rows in (slice(i, min(i + size, R)) for i in range(0, R, size))
    ]
    return Solutions(*(np.concatenate([getattr(part, name) for part in parts]) for name in Solutions.__slots__))


def graduated(
    objective: Objective,
    start: Array,
    *,
    stages: tuple[float, ...] = (0.3, 0.03),
    keep: int | None = None,
    tolerance: float = TIGHT,
    within: float = np.inf,
    passing: int = 30,
) -> Solutions:
    """Minimise at falling thresholds, each from the previous solution; keep the best few starts.

    Args:
        stages: thresholds before the objective's own (those at or below it are skipped).
        keep: starts that go on after the first stage; None keeps all (needed for replicates).
        within: drop starts whose objective after a stage is more than this many times the best.
        passing: most iterations of a stage before the last.
    """
    theta = start
    for stage in (delta for delta in stages if delta > 2 * objective.delta):
        easier = replace(objective, delta=stage)
        found = minimise(easier, theta, iterations=passing, tolerance=LOOSE)
        theta = found.theta
        if keep is not None:
            left = distinct(found.penalised)[:keep]
            theta = theta[left[found.penalised[left] <= within * found.penalised[left[0]]]]
    return minimise(objective, theta, tolerance=tolerance)


def distinct(objective: Array) -> Indices:
    """Indices of different end points, best first: two that agree to 0.1 % are one."""
    order = np.argsort(objective)
    value = objective[order]
    return order[np.concatenate([[True], value[1:] > value[:-1] * 1.001])]


def _minimise_chunk(objective: Objective, start: Array, iterations: int, tolerance: float) -> Solutions:
    R, model = len(start), objective.model
    out = np.clip(start, model.lower, model.upper)
    least, penalised = np.full(R, np.inf), np.full(R, np.inf)
    converged = np.zeros(R, dtype=bool)
    active = np.arange(R)
    mu = np.full(R, 1e-3)
    scale = model.metric(out, objective.weights)
    if objective.prior is not None:
        scale = np.sqrt(scale**2 + objective.prior.precision[model.free])
    state = _evaluate(objective, out, scale)
    for _ in range(iterations):
        step, decrease = _newton_step(state, model, mu)
        # a step this small is the last: Newton leaves its square behind, so only the value is checked
        done = (decrease <= tolerance * state.penalised + 1e-30) | (mu > 1e7)
        if done.any():
            idx = active[done]
            out[idx], least[idx], penalised[idx] = _finish(objective.take(idx), state.part(done), step[done])
            converged[idx] = True
            keep = ~done
            active, mu, step = active[keep], mu[keep], step[keep]
            state = state.part(keep)
            if not len(active):
                break
        trial = _evaluate(objective.take(active), _moved(model, state.theta, step), state.scale)
        better = trial.penalised <= state.penalised
        mu = np.where(better, np.maximum(0.1 * mu, 1e-12), np.maximum(8.0 * mu, 1e-6))
        state = trial if better.all() else _mix(better, trial, state)
    if len(active):
        out[active], least[active], penalised[active] = state.theta, state.objective, state.penalised
    return Solutions(out, least, penalised, converged)


def _moved(model: Model, theta: Array, step: Array) -> Array:
    full = np.zeros_like(theta)
    full[:, model.free] = step
    return model.moved(theta, full)


def _finish(objective: Objective, state: "_State", step: Array) -> tuple[Array, Array, Array]:
    """Parameters, objective and penalised objective after a last step, kept where it does not rise."""
    delta, prior = objective.delta, objective.prior
    theta = _moved(objective.model, state.theta, step)
    r = objective.model.value(theta) - objective.y
    psi = np.clip(r, -delta, delta)
    least = np.einsum("ri,ri,ri->r", objective.weights, psi, r - 0.5 * psi)
    penalised = least + (0.0 if prior is None else _penalty(theta, prior))
    better = penalised <= state.penalised
    return (
        np.where(better[:, None], theta, state.theta),
        np.where(better, least, state.objective),
        np.where(better, penalised, state.penalised),
    )


def huber_sum(resid: Array, weight: Array, delta: float) -> Array:
    """Weighted sum of the Huber terms of residuals (..., n) over their last axis."""
    size = np.abs(resid)
    inner = np.minimum(size, delta)
    return (weight * inner * (size - inner / 2)).sum(axis=-1)


def _penalty(theta: Array, prior: Prior) -> Array:
    off = theta - prior.mean
    return 0.5 * (off * off) @ prior.precision


@dataclass(slots=True)
class _State:
    """One point per replicate with its derivatives by the free parameters."""

    theta: Array
    objective: Array
    penalised: Array
    gradient: Array
    hessian: Array
    scale: Array
    """Root diagonal of the Gauss-Newton matrix at the start: a metric that does not vanish at small delta."""

    def part(self, keep: Mask) -> "_State":
        return _State(*(getattr(self, name)[keep] for name in _State.__slots__))


def _mix(choose: Mask, a: _State, b: _State) -> _State:
    """Replicates of a where `choose`, of b elsewhere."""
    mixed = []
    for name in _State.__slots__:
        x, z = getattr(a, name), getattr(b, name)
        mixed.append(np.where(choose.reshape((-1,) + (1,) * (x.ndim - 1)), x, z))
    return _State(*mixed)


def _evaluate(objective: Objective, theta: Array, scale: Array) -> _State:
    model, prior = objective.model, objective.prior
    value, gradient, hessian = model.normal(theta, objective.y, objective.weights, objective.delta)
    penalised = value
    if prior is not None:
        free, k = model.free, np.arange(len(model.free))
        penalised = value + _penalty(theta, prior)
        gradient = gradient + ((theta - prior.mean) * prior.precision)[:, free]
        hessian[:, k, k] += prior.precision[free]
    # a NaN objective (overflow far outside) must count as worse than anything
    penalised = np.where(np.isfinite(penalised), penalised, np.inf)
    return _State(theta, value, penalised, gradient, hessian, scale)


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
    diagonal = np.arange(len(free))
    damped = H.copy()
    damped[:, diagonal, diagonal] += mu[:, None] + stuck
    step, bad = _solve_positive(damped, -g)
    if bad.any():
        values, vectors = np.linalg.eigh(np.where(np.isfinite(H[bad]), H[bad], 0.0))
        coords = np.einsum("rji,rj->ri", vectors, g[bad])
        coords /= np.maximum(np.abs(values), 1e-9) + mu[bad, None]
        step[bad] = -np.einsum("rij,rj->ri", vectors, coords)
    decrease = -0.5 * np.einsum("rk,rk->r", g, step)
    return step / state.scale, np.abs(decrease)


def _solve_positive(matrices: Array, right: Array) -> tuple[Array, Mask]:
    """Solutions (R, k) by elimination, and where a matrix was not positive definite (or not finite).

    Elimination over the whole batch: LAPACK takes one small matrix at a time, and stops at the first bad one.
    """
    k = right.shape[1]
    A = np.concatenate([matrices, right[:, :, None]], axis=2).transpose(1, 2, 0).copy()  # (k, k + 1, R)
    good = np.ones(len(right), dtype=bool)
    for j in range(k):
        pivot = A[j, j]
        good &= pivot > 1e-14
        A[j, j:] /= np.where(good, pivot, 1.0)
        A[j + 1 :, j + 1 :] -= A[j + 1 :, j, None] * A[j, None, j + 1 :]
    x = A[:, k]
    for j in range(k - 2, -1, -1):
        x[j] -= np.einsum("ir,ir->r", A[j, j + 1 : k], x[j + 1 :])
    good &= np.isfinite(x).all(axis=0)
    return x.T.copy(), ~good
