"""The terms that the laws are made of, with derivatives: S(N, D), its reduced form, and the break of a student.

In the power-mean parameters of `models.py`, for a batch of parameter vectors. No data and no objective here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distillaw.laws.base import Array


@dataclass(slots=True)
class Term:
    """ln of the student's or model's own term S(N, D), with derivatives by (s0, lw, p, q, le)."""

    value: Array
    gradient: Array
    """(R, 5, n)."""
    curvature: Callable[[Array], Array]


def power_mean(theta: Array, n: Array, d: Array, *, derivatives: bool = True) -> Term:
    """S = e^s0 [ w e^(-eta p n) + (1-w) e^(-eta q d) ]^(1/eta).

    Args:
        theta: (R, 5): s0, logit w, p, q, ln eta.
        n: centred ln N, shape (n,).
        d: centred ln D, shape (n,).
        derivatives: False leaves gradient and curvature empty.
    """
    s0, lw, p, q, le = (theta[:, i, None] for i in range(5))
    eta = np.exp(le)
    log_w, log_v = -np.logaddexp(0.0, -lw), -np.logaddexp(0.0, lw)
    pn, qd = (eta * p) * n, (eta * q) * d
    gap = (log_w - log_v) - pn + qd  # X - Y
    # softplus by hand: numpy's logaddexp is an order of magnitude slower than exp and log1p
    tail = np.exp(-np.abs(gap))
    Z = np.maximum(gap, 0.0) + np.log1p(tail) + (log_v - qd)
    value = s0 + Z / eta
    if not derivatives:
        return Term(value, np.empty(0), lambda c: np.empty(0))
    share = np.where(gap >= 0, 1.0, tail) / (1.0 + tail)  # of the size term
    w = np.exp(log_w)
    G = np.empty((theta.shape[0], 5, value.shape[1]))
    G[:, 0] = 1.0
    G[:, 1] = (share - w) / eta
    np.multiply(share, -n, out=G[:, 2])
    np.multiply(share - 1.0, d, out=G[:, 3])
    G[:, 4] = p * G[:, 2] + q * G[:, 3] - Z / eta

    def curvature(c: Array) -> Array:
        spread = np.empty((theta.shape[0], 4, value.shape[1]))  # derivative of X - Y by lw, p, q, le
        spread[:, 0] = 1.0
        spread[:, 1] = -eta * n
        spread[:, 2] = eta * d
        spread[:, 3] = qd - pn
        weight = c * share * (1.0 - share)
        H = np.zeros((theta.shape[0], 5, 5))
        H[:, 1:, 1:] = (spread * weight[:, None, :]) @ spread.transpose(0, 2, 1)
        total = c.sum(axis=1)
        by = np.einsum("ri,rki->rk", c, G[:, 1:])  # sum c T_k
        one = eta[:, 0]
        H[:, 1, 1] -= total * (w * (1 - w))[:, 0]
        # Z_pp' etc. vanish; Z_p,le = eta T_p, Z_le,le = eta (p T_p + q T_q), and dividing by eta brings 1/eta
        H[:, 1:, 1:] /= one[:, None, None]
        H[:, 2, 4] += by[:, 1]
        H[:, 4, 2] += by[:, 1]
        H[:, 3, 4] += by[:, 2]
        H[:, 4, 3] += by[:, 2]
        H[:, 4, 4] += p[:, 0] * by[:, 1] + q[:, 0] * by[:, 2]
        # T = s0 + Z / eta: the division itself depends on le
        H[:, 1:4, 4] -= by[:, :3]
        H[:, 4, 1:4] -= by[:, :3]
        Zc = np.einsum("ri,ri->r", c, Z) / one
        H[:, 4, 4] += -2 * (p[:, 0] * by[:, 1] + q[:, 0] * by[:, 2]) + Zc
        return H

    return Term(value, G, curvature)


def log_linear(theta: Array, n: Array, d: Array) -> Term:
    """S = e^s0 N^-p D^-q, the student's term of the reduced forms (q fixed at 0 in the five-parameter one)."""
    R = theta.shape[0]
    value = theta[:, 0, None] - theta[:, 2, None] * n - theta[:, 3, None] * d
    G = np.zeros((R, 5, value.shape[1]))
    G[:, 0] = 1.0
    G[:, 2] = -n
    G[:, 3] = -d
    return Term(value, G, lambda c: np.zeros((R, 5, 5)))


class Break:
    """h = ln(1 + eps u) / eps with u = kappa e^(x / f1); eps = 0 gives h = u."""

    def __init__(self, theta: Array, x: Array, *, with_eps: bool):
        lk, lf = theta[:, 6, None], theta[:, 7, None]
        self.with_eps = with_eps
        self.xi = x * np.exp(-lf)
        self.u = u = np.exp(np.minimum(lk + self.xi, 50.0))
        if not with_eps:
            self.h = self.v = self.v2 = u
            return
        eps = theta[:, 8, None]
        z = eps * u
        self.h = np.log1p(z) / eps
        self.v = u / (1.0 + z)
        self.v2 = self.v / (1.0 + z)
        small = z < 1e-3  # the closed forms cancel there
        self.h_eps = np.where(small, u * u * (-0.5 + z * (2 / 3 - 0.75 * z)), (self.v - self.h) / eps)
        closed = -(self.v * self.v + 2 * self.h_eps) / eps
        self.h_eps_eps = np.where(small, u**3 * (2 / 3 - 1.5 * z), closed)

    def add_curvature(self, H: Array, c: Array) -> None:
        """Add sum_i c_i d2(-h_i) to the block of (ln kappa, ln f1, eps)."""
        a = c * self.v2
        xi = self.xi
        H[:, 6, 6] -= a.sum(axis=1)
        cross = (a * xi).sum(axis=1)
        H[:, 6, 7] += cross
        H[:, 7, 6] += cross
        H[:, 7, 7] -= (a * xi * xi + c * self.v * xi).sum(axis=1)
        if self.with_eps:
            b = c * self.v * self.v
            by_k, by_f = b.sum(axis=1), (b * xi).sum(axis=1)
            H[:, 6, 8] += by_k
            H[:, 8, 6] += by_k
            H[:, 7, 8] -= by_f
            H[:, 8, 7] -= by_f
            H[:, 8, 8] -= (c * self.h_eps_eps).sum(axis=1)


def log_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """ln(e^a + e^b) and the share of e^b in it."""
    gap = b - a
    tail = np.exp(-np.abs(gap))
    return a + np.maximum(gap, 0.0) + np.log1p(tail), np.where(gap >= 0, 1.0, tail) / (1.0 + tail)
