"""Start points: variable projection for the supervised laws, scaled random points for the rest.

Given (alpha, beta) the Chinchilla form is linear in E, A, B; given E and gamma too, the gamma law is linear
in A, B after a power. A grid with a small least-squares problem at each point is a global search that costs a
few matrix products.
"""

import numpy as np

from distillaw.laws.base import Array

_SLOPES = np.exp(np.linspace(np.log(0.04), np.log(1.2), 12))
"""Slopes p and q of the grid: ln S falls by this much per unit of ln N or ln D."""
_FLOORS = np.array([0.02, 0.2, 0.4, 0.6, 0.75, 0.86, 0.93, 0.97])
"""E as a share of the lowest loss."""
_GAMMAS = np.array([0.25, 0.4, 0.6, 1.0])


def variable_projection(
    n: Array, d: Array, y: Array, weights: Array, *, gamma_free: bool, tie: bool = False, count: int = 3
) -> Array:
    """The best points of a grid over (E, gamma, p, q), as SUPERVISED parameters, shape (count, 6).

    With E and gamma fixed, (L - E)^(1/gamma) = A x + B z is linear in A and B; the rows are weighted so that
    the residual is relative to the loss to first order. The best point of each gamma is a candidate.

    Args:
        n: centred ln N, shape (n,).
        d: centred ln D, shape (n,).
        y: ln of the losses.
        weights: weights of the rows, shape (n,).
        gamma_free: False keeps gamma = 1.
        tie: only points with p = q.
        count: candidates returned.
    """
    L = np.exp(y)
    E = _FLOORS * L.min()
    found = []
    for gamma in _GAMMAS if gamma_free else np.ones(1):
        z = (L - E[:, None]) ** (1 / gamma)
        relative = weights * (gamma * (L - E[:, None]) / (z * L)) ** 2  # dL = gamma (L - E)/z dz
        score, a, b, p, q = _best_linear(n / gamma, d / gamma, z, relative, tie=tie)
        best = int(np.argmin(score))
        if np.isfinite(score[best]):
            A, B = a[best], b[best]
            theta = [np.log(E[best]), gamma * np.log(A + B), np.log(A / B), p[best], q[best], -np.log(gamma)]
            found.append((score[best], theta))
    if not found:  # no point with a falling size term and a falling data term: start from a mild one
        return np.array([[np.min(y) - 0.5, np.mean(y) - 1.0, 0.0, 0.3, 0.3, 0.0]])
    found.sort(key=lambda pair: pair[0])
    return np.array([theta for _, theta in found[:count]])


def _best_linear(
    n: Array, d: Array, z: Array, w: Array, *, tie: bool
) -> tuple[Array, Array, Array, Array, Array]:
    """For each row of z (e, n) with weights w, the best a x + b v over the grid of slopes.

    Returns:
        weighted residual sum of squares (inf where no positive a, b exist), a, b, p, q, each (e,).
    """
    x, v = np.exp(-np.outer(_SLOPES, n)), np.exp(-np.outer(_SLOPES, d))
    k = len(_SLOPES)
    xx, vv = (w @ (x * x).T)[:, :, None], (w @ (v * v).T)[:, None, :]
    xv = (w @ (x[:, None] * v[None]).reshape(k * k, -1).T).reshape(-1, k, k)
    xz, vz = ((w * z) @ x.T)[:, :, None], ((w * z) @ v.T)[:, None, :]
    det = xx * vv - xv * xv
    det = np.where(det > 1e-12 * xx * vv, det, np.inf)
    a, b = (xz * vv - vz * xv) / det, (vz * xx - xz * xv) / det
    score = (w * z * z).sum(axis=1)[:, None, None] - a * xz - b * vz
    allowed = (a > 0) & (b > 0)
    if tie:
        allowed &= np.eye(k, dtype=bool)
    score = np.where(allowed, score, np.inf).reshape(len(z), -1)
    at = np.argmin(score, axis=1)
    row = np.arange(len(z))
    return (
        score[row, at],
        a.reshape(len(z), -1)[row, at],
        b.reshape(len(z), -1)[row, at],
        _SLOPES[at // k],
        _SLOPES[at % k],
    )


def random_supervised(rng: np.random.Generator, y: Array, count: int) -> Array:
    """Scaled random SUPERVISED parameters."""
    theta = np.empty((count, 6))
    theta[:, 0] = np.min(y) + np.log(rng.uniform(0.1, 0.95, count))
    theta[:, 1] = np.mean(y) + np.log(rng.uniform(0.05, 0.8, count))
    theta[:, 2] = rng.normal(size=count)
    theta[:, 3:5] = rng.uniform(0.03, 0.6, (count, 2))
    theta[:, 5] = rng.uniform(-1.2, 1.5, count)
    return theta


def random_student(rng: np.random.Generator, form: str, count: int) -> Array:
    """Scaled random STUDENT parameters; those that the form does not fit at their null values."""
    theta = np.empty((count, 9))
    theta[:, 0] = rng.uniform(-2, 3, count)
    theta[:, 1] = rng.normal(size=count)
    theta[:, 2] = rng.uniform(0.03, 0.6, count)
    theta[:, 3] = rng.uniform(0.03, 0.8, count)
    theta[:, 4] = rng.uniform(-1, 1, count)
    theta[:, 5] = rng.uniform(0, 4, count)
    theta[:, 6] = rng.uniform(-1, 2, count)
    theta[:, 7] = rng.uniform(-3.2, -0.5, count)
    theta[:, 8] = rng.uniform(0.0, 0.3, count)
    if form in ("reduced", "reduced-q"):
        theta[:, 1] = theta[:, 4] = 0.0
    if form == "reduced":
        theta[:, 3] = 0.0
    if form != "full":
        theta[:, 8] = 1e-4
    return theta
