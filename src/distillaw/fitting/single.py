"""One parameter vector at a time: the same Newton method and derivatives with a tenth of the numpy calls.

A fit on a few hundred rows is dominated by the overhead of small array calls, not by arithmetic. The batched
path of `newton.py` and `moments.py` serves bootstraps; this one serves the single estimate. Equal to it to
rounding (tests/fitting/test_derivatives.py). No starts, no thresholds here.
"""

from collections.abc import Callable
from functools import cache
from math import exp, isfinite, log1p

import numpy as np

from distillaw.laws.base import Array, Mask


def supervised_one(
    theta: Array, basis: Array, y: Array, weights: Array, delta: float
) -> tuple[float, Array, Array]:
    """Huber objective, gradient (6,) and Hessian (6, 6) by (e, s0, lw, p, q, le).

    Args:
        theta: (6,), within the bounds of the model.
        basis: rows 1, n, d of the centred logs, shape (3, n).
        y: ln of the losses, shape (n,).
        weights: shape (n,).
        delta: Huber threshold.
    """
    e, s0, lw, p, q, le = theta.tolist()
    n, d = basis[1], basis[2]
    eta = exp(le)
    tail = exp(-abs(lw))
    log_v, w = -(max(lw, 0.0) + log1p(tail)), (1.0 if lw >= 0 else tail) / (1.0 + tail)
    data = (eta * q) * d
    gap = lw - (eta * p) * n
    gap += data
    Z, s = _softplus(gap)
    Z += log_v
    Z -= data
    Z /= eta
    r, P = _softplus(Z + (s0 - e))
    r += e
    r -= y
    psi = np.minimum(np.maximum(r, -delta), delta)
    c = weights * psi
    objective = float(c @ (r - 0.5 * psi))

    K = np.empty((6, len(n)))  # (-1, gradient of ln S): the direction in which the share of S grows
    K[0] = -1.0
    K[1] = 1.0
    np.multiply(s - w, 1.0 / eta, out=K[2])
    np.multiply(s, n, out=K[3])
    np.negative(K[3], out=K[3])
    np.multiply(s - 1.0, d, out=K[4])
    np.subtract(p * K[3] + q * K[4], Z, out=K[5])
    J = K * P
    J[0] += 1.0
    cP = c * P
    H = (J * (weights * (psi == r))) @ J.T
    H += (K * (cP * (1.0 - P))) @ K.T
    gradient = J @ c
    by = gradient.tolist()

    spread = (basis * (cP * s * (1.0 - s))) @ basis.T  # of X - Y by (lw, p, q, le), as rows of (1, n, d)
    U = np.array([[1.0, 0.0, 0.0], [0.0, -eta, 0.0], [0.0, 0.0, eta], [0.0, -eta * p, eta * q]])
    H[2:, 2:] += U @ spread @ (U.T / eta)
    H[2, 2] -= by[1] * w * (1.0 - w) / eta
    H[2, 5] -= by[2]
    H[5, 2] -= by[2]
    H[5, 5] += float(cP @ Z) - p * by[3] - q * by[4]
    return objective, gradient, H


def _softplus(x: Array) -> tuple[Array, Array]:
    """ln(1 + e^x) and e^x / (1 + e^x)."""
    tail = np.exp(-np.abs(x))
    one = 1.0 + tail
    share = np.where(x >= 0, 1.0, tail)
    share /= one
    np.log(one, out=one)
    one += np.maximum(x, 0.0)
    return one, share


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
