"""The laws as functions of free parameters: value, gradient and curvature of ln L, batched.

Parameters are those of a power mean, on centred ln N and ln D: they are visible in
the data and nearly uncorrelated, where A, B, alpha, beta are not. Every method works on a batch of parameter
vectors at once (R replicates), which is what makes a bootstrap cheap. No solver here (`newton.py`).

Shapes: R replicates, n rows, k parameters. A replicate may have its own ln Ltilde_S (R, n).
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distillaw.fitting.moments import powers, supervised_normal
from distillaw.laws.base import Array, Indices

SUPERVISED = ("e", "s0", "lw", "p", "q", "le")
"""ln E, ln S at the centre, logit of the size share w, slopes in ln N and ln D, ln eta = -ln gamma."""
STUDENT = ("s0", "lw", "p", "q", "le", "c0", "lk", "lf", "eps")
"""The student's term as above, then c0, ln kappa, ln f1, eps = 1/(c1 f1)."""


@dataclass(slots=True)
class Evaluation:
    """Of a batch of parameter vectors ln L, or one term of it, with what a Newton step needs."""

    value: Array
    """f, shape (R, n)."""
    gradient: Array
    """df/dtheta, shape (R, k, n)."""
    curvature: Callable[[Array], Array]
    """c (R, n) -> sum_i c_i d2f_i/dtheta2, shape (R, k, k)."""


def power_mean(theta: Array, n: Array, d: Array, *, derivatives: bool = True) -> Evaluation:
    """ln S(N, D) with S = e^s0 [ w e^(-eta p n) + (1-w) e^(-eta q d) ]^(1/eta), a model's or student's own term.

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
        return Evaluation(value, np.empty(0), lambda c: np.empty(0))
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

    return Evaluation(value, G, curvature)


def log_linear(theta: Array, n: Array, d: Array) -> Evaluation:
    """S = e^s0 N^-p D^-q, the student's term of the reduced forms (q fixed at 0 in the five-parameter one)."""
    R = theta.shape[0]
    value = theta[:, 0, None] - theta[:, 2, None] * n - theta[:, 3, None] * d
    G = np.zeros((R, 5, value.shape[1]))
    G[:, 0] = 1.0
    G[:, 2] = -n
    G[:, 3] = -d
    return Evaluation(value, G, lambda c: np.zeros((R, 5, 5)))


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


class Model(ABC):
    """ln L of the rows of one table as a function of a parameter vector."""

    names: tuple[str, ...]
    lower: Array
    upper: Array
    free: Indices
    """Indices of the parameters that are fitted; the others keep their start values."""
    chunk: int = 24_000
    """Replicates x rows worked on at a time: many for the overhead of a call, few for the cache."""

    @abstractmethod
    def value(self, theta: Array) -> Array:
        """F, shape (R, n), for theta (R, k)."""

    @abstractmethod
    def evaluate(self, theta: Array) -> Evaluation:
        """Value, gradient and curvature for theta (R, k)."""

    def normal(self, theta: Array, y: Array, weights: Array, delta: float) -> tuple[Array, Array, Array]:
        """Huber objective (R,), gradient (R, k) and Hessian (R, k, k) by the free parameters."""
        point = self.evaluate(theta)
        free = self.free
        r = point.value - y
        psi = np.clip(r, -delta, delta)
        c = weights * psi
        J = point.gradient if len(free) == point.gradient.shape[1] else point.gradient[:, free]
        hessian = (J * np.where(psi == r, weights, 0.0)[:, None, :]) @ J.transpose(0, 2, 1)
        hessian += point.curvature(c)[:, free[:, None], free[None, :]]
        return np.einsum("ri,ri->r", c, r - 0.5 * psi), (J @ c[:, :, None])[:, :, 0], hessian

    def moved(self, theta: Array, step: Array) -> Array:
        """The parameters (R, k) after a step (R, k) that is zero where a parameter is held, within the bounds."""
        return np.minimum(np.maximum(theta + step, self.lower), self.upper)

    def holding(self, index: int) -> "Model":
        """The same law with one more parameter kept at its start value."""
        held = copy.copy(self)
        held.free = self.free[self.free != index]
        return held

    def metric(self, theta: Array, weights: Array) -> Array:
        """Root of the diagonal of the Gauss-Newton matrix over all rows, (R, free): it never vanishes."""
        J = self.evaluate(theta).gradient[:, self.free]
        if len(J) == 1:  # one point for all replicates
            return np.sqrt(np.maximum(weights @ (J[0] * J[0]).T, 1e-300))
        return np.sqrt(np.maximum((J * J @ weights[:, :, None])[:, :, 0], 1e-300))

    def take(self, rows: slice | Indices) -> "Model":
        """The same law on a part of the replicates, where rows of data differ by replicate: itself where none do."""
        return self


class SupervisedModel(Model):
    """ln L = LSE( e, ln S(N, D) ); `gamma_free=False` is the Chinchilla form (eta = 1)."""

    names = SUPERVISED
    chunk = 64_000

    def __init__(self, n: Array, d: Array, *, gamma_free: bool):
        """Take centred ln N and ln D."""
        self.n, self.d = n, d
        self.free = np.arange(6 if gamma_free else 5)
        self.lower = np.array([-12.0, -10.0, -25.0, -0.5, -0.5, -3.0])
        self.upper = np.array([5.0, 10.0, 25.0, 3.0, 3.0, 4.0])
        self._powers = powers(n, d)

    def normal(self, theta: Array, y: Array, weights: Array, delta: float) -> tuple[Array, Array, Array]:
        """As in `Model`, from moments: several times faster for a bootstrap."""
        free = self.free
        found = supervised_normal(theta, self.n, self.d, self._powers, y, weights, delta)
        if len(free) == 6:
            return found
        return found[0], found[1][:, free], found[2][:, free[:, None], free[None, :]]

    def metric(self, theta: Array, weights: Array) -> Array:
        """As in `Model`; replicates that begin at one point share its gradient."""
        return super().metric(theta[:1] if (theta == theta[0]).all() else theta, weights)

    def moved(self, theta: Array, step: Array) -> Array:
        """As in `Model`, along the valley."""
        return super().moved(theta, along_valley(theta, step))

    def value(self, theta: Array) -> Array:
        """Ln L, shape (R, n)."""
        term = power_mean(theta[:, 1:], self.n, self.d, derivatives=False)
        return log_sum(theta[:, 0, None], term.value)[0]

    def evaluate(self, theta: Array) -> Evaluation:
        """Value, gradient by SUPERVISED, curvature."""
        term = power_mean(theta[:, 1:], self.n, self.d)
        value, share = log_sum(theta[:, 0, None], term.value)  # share of S in L
        J = np.empty((theta.shape[0], 6, value.shape[1]))
        J[:, 0] = 1.0 - share
        np.multiply(term.gradient, share[:, None, :], out=J[:, 1:])

        def curvature(c: Array) -> Array:
            c = c * share
            spread = np.empty_like(J)
            spread[:, 0] = -1.0
            spread[:, 1:] = term.gradient
            H = (spread * (c * (1.0 - share))[:, None, :]) @ spread.transpose(0, 2, 1)
            H[:, 1:, 1:] += term.curvature(c)
            return H

        return Evaluation(value, J, curvature)


def along_valley(theta: Array, step: Array) -> Array:
    """The step bent so that what the runs fix stays fixed; equal to `step` to first order.

    The objective of the power-mean law has a curved valley: E can fall if S rises. A straight step leaves it
    and is refused. Along this one the loss at the centre, e^e + e^s0, and its slopes, (share of S) p and
    (share of S) q, move by their first-order change exactly. A Newton step that is bent in this way converges
    as fast at the end, and from far it takes a third of the evaluations. Held parameters (step 0) stay.

    Args:
        theta: (R, 6), SUPERVISED.
        step: (R, 6).
    """
    e, s0 = theta[:, 0], theta[:, 1]
    move = step[:, 1] - step[:, 0]
    P = 1 / (1 + np.exp(e - s0))
    centre = np.logaddexp(e, s0) + step[:, 0] + P * move
    odds = np.clip(s0 - e + move, -30.0, 30.0)
    bent = step.copy()
    bent[:, 0] = centre - np.logaddexp(0.0, odds) - e
    bent[:, 1] = bent[:, 0] + e + odds - s0
    ratio = np.clip(P * (1 + np.exp(-odds)), 0.25, 4.0)[:, None]
    slopes = theta[:, 3:5]
    bent[:, 3:5] = ratio * (step[:, 3:5] + slopes * (1 + (1 - P) * move)[:, None]) - slopes
    held = step == 0
    held[:, :2] = held[:, :1] | held[:, 1:2]  # e and s0 bend together or not at all
    held[:, 3:5] |= held[:, :1]
    return np.where(held, step, bent)


class TiedModel(SupervisedModel):
    """The supervised law with alpha = beta: q follows p, and is not among the free parameters."""

    def __init__(self, n: Array, d: Array, *, gamma_free: bool):
        """Take centred ln N and ln D."""
        super().__init__(n, d, gamma_free=gamma_free)
        self.free = self.free[self.free != 4]

    def normal(self, theta: Array, y: Array, weights: Array, delta: float) -> tuple[Array, Array, Array]:
        """As in `Model`, by the chain rule."""
        found = supervised_normal(tied(theta), self.n, self.d, self._powers, y, weights, delta)
        free, gradient, hessian = self.free, found[1] @ _TIE, _TIE.T @ found[2] @ _TIE
        return found[0], gradient[:, free], hessian[:, free[:, None], free[None, :]]

    def value(self, theta: Array) -> Array:
        """Ln L, shape (R, n)."""
        return super().value(tied(theta))

    def evaluate(self, theta: Array) -> Evaluation:
        """Value, gradient by SUPERVISED (that by q is zero), curvature."""
        point = super().evaluate(tied(theta))
        return Evaluation(point.value, _TIE.T @ point.gradient, lambda c: _TIE.T @ point.curvature(c) @ _TIE)


_TIE = np.eye(6)
_TIE[4] = _TIE[3]
"""d(e, s0, lw, p, q, le) / d(the same) where q = p."""


def tied(theta: Array) -> Array:
    """The parameters with q = p, shape (..., 6)."""
    return theta @ _TIE.T


class StudentModel(Model):
    """ln L_S = LSE( ln L_T, ln S(N_S, D_S) - c0 ln L_T - h(L_T / Ltilde_S) ), all four forms."""

    names = STUDENT

    def __init__(self, n: Array, d: Array, t: Array, s: Array, *, form: str):
        """Take centred ln N_S and ln D_S, ln L_T, and ln Ltilde_S as (n,) or (R, n)."""
        self.n, self.d, self.t, self.s, self.form = n, d, t, s, form
        self.free = np.array(FREE[form])
        self.lower = np.array([-10.0, -8.0, -0.5, -0.5, -3.0, -5.0, -8.0, np.log(0.01), 1e-4])
        self.upper = np.array([10.0, 8.0, 3.0, 3.0, 4.0, 15.0, 8.0, np.log(3.0), 5.0])

    def take(self, rows: slice | Indices) -> "StudentModel":
        """The replicates' own Ltilde_S, where they have one each."""
        return self if self.s.ndim == 1 else self.with_supervised(self.s[rows])

    def with_supervised(self, s: Array) -> "StudentModel":
        """The same rows with ln Ltilde_S of each replicate, (R, n)."""
        return StudentModel(self.n, self.d, self.t, s, form=self.form)

    def _term(self, theta: Array, *, derivatives: bool = True) -> Evaluation:
        if self.form in ("reduced", "reduced-q"):
            return log_linear(theta[:, :5], self.n, self.d)
        return power_mean(theta[:, :5], self.n, self.d, derivatives=derivatives)

    def value(self, theta: Array) -> Array:
        """Ln L_S, shape (R, n)."""
        broken = Break(theta, self.t - self.s, with_eps=self.form == "full")
        g = self._term(theta, derivatives=False).value - theta[:, 5, None] * self.t - broken.h
        return np.logaddexp(self.t, g)

    def evaluate(self, theta: Array) -> Evaluation:
        """Value, gradient by STUDENT, curvature."""
        value, J, curvature, _ = self.evaluate_with_supervised(theta, self.s)
        return Evaluation(value, J, curvature)

    def evaluate_with_supervised(self, theta: Array, s: Array) -> tuple[Array, Array, Callable[[Array], Array], Array]:
        """As `evaluate` at a given ln Ltilde_S, with d ln L_S / d ln Ltilde_S as the last item."""
        term, full = self._term(theta), self.form == "full"
        broken = Break(theta, self.t - s, with_eps=full)
        g = term.value - theta[:, 5, None] * self.t - broken.h
        value, share = log_sum(self.t, g)
        G = np.zeros((theta.shape[0], 9, value.shape[1]))
        G[:, :5] = term.gradient
        G[:, 5] = -self.t
        G[:, 6] = -broken.v
        G[:, 7] = broken.v * broken.xi
        if full:
            G[:, 8] = -broken.h_eps

        def curvature(c: Array) -> Array:
            c = c * share
            H = (G * (c * (1.0 - share))[:, None, :]) @ G.transpose(0, 2, 1)
            H[:, :5, :5] += term.curvature(c)
            broken.add_curvature(H, c)
            return H

        return value, G * share[:, None, :], curvature, share * broken.v * np.exp(-theta[:, 7, None])


class JointModel(Model):
    """Supervised rows first, then distilled rows whose Ltilde_S is the supervised law being fitted."""

    names = tuple(f"sup_{name}" for name in SUPERVISED) + STUDENT

    def __init__(self, rows: SupervisedModel, cells: SupervisedModel, students: StudentModel):
        """`rows` has the no-teacher rows, `cells` the distilled rows' own (N_S, D_S), same centre."""
        self.rows, self.cells, self.students = rows, cells, students
        self.free = np.concatenate([rows.free, 6 + students.free])
        self.lower = np.concatenate([rows.lower, students.lower])
        self.upper = np.concatenate([rows.upper, students.upper])

    def moved(self, theta: Array, step: Array) -> Array:
        """As in `Model`, the supervised part along its valley."""
        step = step.copy()
        step[:, :6] = along_valley(theta[:, :6], step[:, :6])
        return super().moved(theta, step)

    def value(self, theta: Array) -> Array:
        """Ln L of the no-teacher rows, then ln L_S of the distilled ones."""
        students = self.students.with_supervised(self.cells.value(theta[:, :6]))
        return np.concatenate([self.rows.value(theta[:, :6]), students.value(theta[:, 6:])], axis=1)

    def evaluate(self, theta: Array) -> Evaluation:
        """Value and gradient exact; the curvature leaves out the cross terms of the distilled rows."""
        own = self.rows.evaluate(theta[:, :6])
        cells = self.cells.evaluate(theta[:, :6])
        value, J, curve, by_supervised = self.students.evaluate_with_supervised(theta[:, 6:], cells.value)
        m, total = own.value.shape[1], own.value.shape[1] + value.shape[1]
        full = np.zeros((theta.shape[0], 15, total))
        full[:, :6, :m] = own.gradient
        full[:, :6, m:] = cells.gradient * by_supervised[:, None, :]
        full[:, 6:, m:] = J

        def curvature(c: Array) -> Array:
            H = np.zeros((theta.shape[0], 15, 15))
            H[:, :6, :6] = own.curvature(c[:, :m])
            H[:, 6:, 6:] = curve(c[:, m:])
            return H

        return Evaluation(np.concatenate([own.value, value], axis=1), full, curvature)


FREE = {
    "reduced": (0, 2, 5, 6, 7),
    "reduced-q": (0, 2, 3, 5, 6, 7),
    "kappa": (0, 1, 2, 3, 4, 5, 6, 7),
    "full": (0, 1, 2, 3, 4, 5, 6, 7, 8),
}
"""Which of STUDENT each form fits."""
