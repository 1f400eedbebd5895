"""Gradient and Hessian of the supervised objective from weighted moments, for cheap bootstraps.

Every derivative of the power-mean law is a combination, replicate by replicate, of the five rows
b = (1, s, s n, (1-s) d, Z) with s the share of the size term. So the Hessian of all replicates needs only
sums of the form sum_i omega_i n_i^a d_i^b: one product of the weights (R, n) with a fixed (n, 6) matrix
instead of one (k, n) x (n, k) product per replicate. Equal to the generic path of `newton.py` to rounding.
"""

import numpy as np

from distillaw.laws.base import Array

_ONE, _N, _D, _NN, _ND, _DD = range(6)
_BLOCK = 16_384
"""Replicates x rows whose arrays stay in the cache; a million at once wait for memory."""


def powers(n: Array, d: Array) -> Array:
    """Columns 1, n, d, n^2, n d, d^2 of the centred logs."""
    return np.stack([np.ones_like(n), n, d, n * n, n * d, d * d], axis=1)


def _pair_map() -> Array:
    """Moments of (w, ws, wss, wZ, wsZ, wZZ) x powers, flat 36, to the 5 x 5 sums of w b b^T, flat 25."""
    W, WS, WSS, WZ, WSZ, WZZ = range(6)
    entries: dict[tuple[int, int], list[tuple[int, int, int]]] = {
        (0, 0): [(W, _ONE, 1)],
        (0, 1): [(WS, _ONE, 1)],
        (0, 2): [(WS, _N, 1)],
        (0, 3): [(W, _D, 1), (WS, _D, -1)],
        (0, 4): [(WZ, _ONE, 1)],
        (1, 1): [(WSS, _ONE, 1)],
        (1, 2): [(WSS, _N, 1)],
        (1, 3): [(WS, _D, 1), (WSS, _D, -1)],
        (1, 4): [(WSZ, _ONE, 1)],
        (2, 2): [(WSS, _NN, 1)],
        (2, 3): [(WS, _ND, 1), (WSS, _ND, -1)],
        (2, 4): [(WSZ, _N, 1)],
        (3, 3): [(W, _DD, 1), (WS, _DD, -2), (WSS, _DD, 1)],
        (3, 4): [(WZ, _D, 1), (WSZ, _D, -1)],
        (4, 4): [(WZZ, _ONE, 1)],
    }
    out = np.zeros((36, 5, 5))
    for (i, j), terms in entries.items():
        for array, power, factor in terms:
            out[array * 6 + power, i, j] = out[array * 6 + power, j, i] = factor
    return out.reshape(36, 25)


def _single_map() -> Array:
    """Moments of (w, ws, wZ) x powers, flat 18, to the sums of w b, 5."""
    out = np.zeros((18, 5))
    for column, terms in enumerate(
        [[(0, _ONE, 1)], [(1, _ONE, 1)], [(1, _N, 1)], [(0, _D, 1), (1, _D, -1)], [(2, _ONE, 1)]]
    ):
        for array, power, factor in terms:
            out[array * 6 + power, column] = factor
    return out


_PAIRS, _SINGLES = _pair_map(), _single_map()


def supervised_normal(
    theta: Array, n: Array, d: Array, basis: Array, y: Array, weights: Array, delta: float
) -> tuple[Array, Array, Array]:
    """Huber objective (R,), gradient (R, 6) and Hessian (R, 6, 6) by (e, s0, lw, p, q, le).

    Where all replicates are at one point, as a bootstrap is when it begins, every sum is linear in their weights: the
    rows are worked out once and one product with the weights gives all sums.

    Args:
        theta: (R, 6).
        n: centred ln N, shape (n,).
        d: centred ln D, shape (n,).
        basis: `powers(n, d)`.
        y: ln of the losses.
        weights: (R, n).
    """
    if len(theta) > 1 or len(n) <= _BLOCK:
        return _sums(theta, n, d, basis, y, weights, delta)
    cuts = (slice(first, first + _BLOCK) for first in range(0, len(n), _BLOCK))
    parts = [_sums(theta, n[i], d[i], basis[i], y[i], weights[:, i], delta) for i in cuts]
    objective, gradient, hessian = (sum(part[1:], start=part[0]) for part in zip(*parts, strict=True))
    return objective, gradient, hessian


def _sums(
    theta: Array, n: Array, d: Array, basis: Array, y: Array, weights: Array, delta: float
) -> tuple[Array, Array, Array]:
    """As `supervised_normal`, over rows that are worked on at once."""
    R, replicates = len(theta), weights
    is_one_point = R > 1 and bool((theta == theta[0]).all())
    if is_one_point:
        theta, weights = theta[:1], np.ones((1, len(n)))
    e, s0, lw, p, q, le = (theta[:, i, None] for i in range(6))
    eta = np.exp(le)
    log_v = -np.logaddexp(0.0, lw)
    gap = lw - (eta * p) * n
    gap += (eta * q) * d
    Z, s = _softplus_and_share(gap)
    Z += log_v - (eta * q) * d
    lift = Z / eta
    lift += s0 - e
    r, P = _softplus_and_share(lift)
    r += e - y
    psi = np.minimum(np.maximum(r, -delta), delta)
    c = weights * psi
    inside = np.where(psi == r, weights, 0.0)
    Q = 1.0 - P

    stack = np.empty((13, len(theta), len(n)))
    np.multiply(P, inside * P + c * Q, out=stack[0])
    np.multiply(stack[0], s, out=stack[1])
    np.multiply(stack[1], s, out=stack[2])
    np.multiply(stack[0], Z, out=stack[3])
    np.multiply(stack[1], Z, out=stack[4])
    np.multiply(stack[3], Z, out=stack[5])
    np.multiply(P * Q, inside - c, out=stack[6])
    np.multiply(c, P, out=stack[9])
    for base in (6, 9):
        np.multiply(stack[base], s, out=stack[base + 1])
        np.multiply(stack[base], Z, out=stack[base + 2])
    np.multiply(stack[10], 1.0 - s, out=stack[12])
    if is_one_point:
        moments = _weighted(stack[:, 0], basis, replicates)
        objective, by_e, by_ee = (
            replicates @ row[0] for row in (c * (r - 0.5 * psi), c * Q, Q * (inside * Q + stack[9]))
        )
    else:
        moments = (stack.reshape(13 * R, -1) @ basis).reshape(13, R, 6)
        objective, by_e, by_ee = (
            np.einsum("ri,ri->r", a, b) for a, b in ((c, r - 0.5 * psi), (c, Q), (Q, inside * Q + stack[9]))
        )

    eta, p, q, w = eta[:, 0], p[:, 0], q[:, 0], 1 / (1 + np.exp(-lw[:, 0]))
    T = _rows_of_gradient(eta, p, q, w)
    flat = moments.transpose(1, 0, 2)
    pairs = (flat[:, :6].reshape(R, 36) @ _PAIRS).reshape(R, 5, 5)
    cross = (T @ (flat[:, 6:9].reshape(R, 18) @ _SINGLES)[:, :, None])[:, :, 0]
    by = (T @ (flat[:, 9:12].reshape(R, 18) @ _SINGLES)[:, :, None])[:, :, 0]

    gradient = np.concatenate([by_e[:, None], by], axis=1)
    H = np.empty((R, 6, 6))
    H[:, 0, 0] = by_ee
    H[:, 0, 1:] = H[:, 1:, 0] = cross
    H[:, 1:, 1:] = T @ pairs @ T.transpose(0, 2, 1)
    _add_term_curvature(H[:, 1:, 1:], moments[9, :, 0], by, moments[11, :, 0] / eta, moments[12], eta, p, q, w)
    return objective, gradient, H


def _weighted(rows: Array, basis: Array, weights: Array) -> Array:
    """sum_i w_i row_i power_i for every row (13, n), power (n, 6) and replicate (R, n): (13, R, 6)."""
    products = rows.T[:, :, None] * basis[:, None, :]
    return (weights @ products.reshape(len(basis), -1)).reshape(len(weights), *products.shape[1:]).swapaxes(0, 1)


def _softplus_and_share(x: Array) -> tuple[Array, Array]:
    """ln(1 + e^x) and e^x / (1 + e^x)."""
    share = np.minimum(x, 700.0)  # e^709 is the largest double
    np.exp(share, out=share)
    softplus = share + 1.0
    share /= softplus
    np.log(softplus, out=softplus)  # exact to 1e-16 absolute, which is what a residual needs
    np.maximum(softplus, x, out=softplus)
    return softplus, share


def _rows_of_gradient(eta: Array, p: Array, q: Array, w: Array) -> Array:
    """dT/d(s0, lw, p, q, le) as combinations of b, shape (R, 5, 5)."""
    T = np.zeros((len(eta), 5, 5))
    T[:, 0, 0] = 1.0
    T[:, 1, 0], T[:, 1, 1] = -w / eta, 1 / eta
    T[:, 2, 2] = T[:, 3, 3] = -1.0
    T[:, 4, 2], T[:, 4, 3], T[:, 4, 4] = -p, -q, -1 / eta
    return T


def _add_term_curvature(
    H: Array, total: Array, by: Array, Z: Array, spread: Array, eta: Array, p: Array, q: Array, w: Array
) -> None:
    """Add sum_i c_i d2T_i to H (R, 5, 5), the same terms as `power_mean` in models.py.

    `spread` holds sum c s (1-s) times powers(n, d); `by` holds sum c dT; `Z` holds sum c Z / eta.
    """
    U = np.zeros((len(eta), 4, 3))  # derivative of X - Y by (lw, p, q, le) as combinations of (1, n, d)
    U[:, 0, 0] = 1.0
    U[:, 1, 1], U[:, 2, 2] = -eta, eta
    U[:, 3, 1], U[:, 3, 2] = -eta * p, eta * q
    M = spread[:, [_ONE, _N, _D, _N, _NN, _ND, _D, _ND, _DD]].reshape(-1, 3, 3)
    H[:, 1:, 1:] += U @ M @ U.transpose(0, 2, 1) / eta[:, None, None]
    H[:, 1, 1] -= total * w * (1 - w) / eta
    pull = np.concatenate([-by[:, 1:2], np.zeros((len(by), 2))], axis=1)  # T_p,le: +by - by cancels, likewise q
    H[:, 1:4, 4] += pull
    H[:, 4, 1:4] += pull
    H[:, 4, 4] += Z - p * by[:, 2] - q * by[:, 3]
