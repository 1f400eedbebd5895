"""Objective and derivatives of the supervised law for one parameter vector, in few array calls.

A fit on a few hundred rows is dominated by the overhead of small array calls, not by arithmetic. `moments.py`
has the same algebra for a batch; equal to rounding (tests/fitting/test_derivatives.py).
"""

from math import exp, log1p

import numpy as np

from distillaw.fitting.moments import softplus_and_share
from distillaw.laws.base import Array

_BLOCK = 16_384
"""Rows whose arrays stay in the cache; a million at once wait for memory."""


def _blocks(size: int) -> list[slice]:
    return [slice(first, first + _BLOCK) for first in range(0, size, _BLOCK)]


def supervised_one(
    theta: Array, n: Array, d: Array, basis: Array, y: Array, weights: Array, delta: float
) -> tuple[float, Array, Array]:
    """Huber objective, gradient (6,) and Hessian (6, 6) by (e, s0, lw, p, q, le); `moments.py` has the algebra.

    Args:
        theta: (6,), within the bounds of the model.
        n: centred ln N, shape (n,).
        d: centred ln D, shape (n,).
        basis: `moments.powers(n, d)`.
        y: ln of the losses, shape (n,).
        weights: shape (n,).
        delta: Huber threshold.
    """
    if len(n) > _BLOCK:  # every sum is over rows
        parts = [
            supervised_one(theta, n[rows], d[rows], basis[rows], y[rows], weights[rows], delta)
            for rows in _blocks(len(n))
        ]
        value, gradient, H = zip(*parts, strict=True)
        return sum(value), np.sum(gradient, axis=0), np.sum(H, axis=0)
    e, s0, lw, p, q, le = theta.tolist()
    eta = exp(le)
    b, P, r, w = _shares(e, s0, lw, eta * p, eta * q, eta, n, d)
    r -= y
    psi = np.minimum(np.maximum(r, -delta), delta)
    inside = weights * (psi == r)
    c = weights * psi
    r -= 0.5 * psi
    objective = float(c @ r)
    Q = 1.0 - P
    cP, cQ, wQ = c * P, c * Q, inside * Q
    inside *= P
    inside += cQ
    inside *= P

    T = _gradient_of_term(p, q, eta, w)
    sums = b @ cP
    gradient, H = np.empty(6), np.empty((6, 6))
    gradient[0] = cQ.sum()
    gradient[1:] = T @ sums
    H[0, 0] = Q @ (wQ + cP)
    wQ -= cQ
    wQ *= P
    H[0, 1:] = H[1:, 0] = T @ (b @ wQ)
    H[1:, 1:] = T @ ((b * inside) @ b.T) @ T.T
    cP *= b[1]
    cP *= 1.0 - b[1]
    H[2:, 2:] += _term_curvature(cP @ basis, gradient, float(sums[4]) / eta, p, q, eta, w)
    return objective, gradient, H


def supervised_metric(theta: Array, n: Array, d: Array, weights: Array) -> Array:
    """sum_i w_i (df_i/dtheta)^2 by SUPERVISED, shape (6,); arguments as in `supervised_one`."""
    if len(n) > _BLOCK:
        parts = [supervised_metric(theta, n[rows], d[rows], weights[rows]) for rows in _blocks(len(n))]
        return np.sum(parts, axis=0)
    e, s0, lw, p, q, le = theta.tolist()
    eta = exp(le)
    b, P, _, w = _shares(e, s0, lw, eta * p, eta * q, eta, n, d)
    J = np.empty((6, len(n)))
    np.subtract(1.0, P, out=J[0])
    np.matmul(_gradient_of_term(p, q, eta, w), b, out=J[1:])
    J[1:] *= P
    return (J * J) @ weights


def _shares(
    e: float, s0: float, lw: float, by_size: float, by_data: float, eta: float, n: Array, d: Array
) -> tuple[Array, Array, Array, float]:
    """Rows 1, s, s n, (1-s) d, Z, the share of S in L, ln L, and w."""
    tail = exp(-abs(lw))
    log_v, w = -(max(lw, 0.0) + log1p(tail)), (1.0 if lw >= 0 else tail) / (1.0 + tail)
    b = np.empty((5, len(n)))
    b[0] = 1.0
    _, s, size, rest, Z = b
    data = by_data * d
    gap = data - by_size * n
    gap += lw
    softplus_and_share(gap, Z, s)
    Z -= data
    Z += log_v
    np.multiply(s, n, out=size)
    np.multiply(s, d, out=rest)
    np.subtract(d, rest, out=rest)
    lift = np.multiply(Z, 1.0 / eta, out=data)
    lift += s0 - e
    value, P = softplus_and_share(lift, gap, np.empty_like(gap))
    value += e
    return b, P, value, w


def _gradient_of_term(p: float, q: float, eta: float, w: float) -> Array:
    """Derivatives of ln S by (s0, lw, p, q, le) as combinations of the rows of `_shares`."""
    return np.array([[1.0, 0.0, 0.0, 0.0, 0.0], [-w / eta, 1.0 / eta, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0, 0.0],
                     [0.0, 0.0, 0.0, -1.0, 0.0], [0.0, 0.0, -p, -q, -1.0 / eta]])  # fmt: skip


def _term_curvature(
    spread: Array, gradient: Array, Z: float, p: float, q: float, eta: float, w: float
) -> Array:
    """sum_i c_i d2T_i by (lw, p, q, le), as `moments._add_term_curvature` for one vector."""
    one, n, d, nn, nd, dd = spread.tolist()
    _, total, by_lw, by_p, by_q, _ = gradient.tolist()
    lw_le = q * d - p * n - by_lw
    p_le, q_le = eta * (p * nn - q * nd), eta * (q * dd - p * nd)
    return np.array([
        [(one - total * w * (1.0 - w)) / eta, -n, d, lw_le],
        [-n, eta * nn, -eta * nd, p_le],
        [d, -eta * nd, eta * dd, q_le],
        [lw_le, p_le, q_le, p * p_le + q * q_le + Z - p * by_p - q * by_q],
    ])  # fmt: skip
