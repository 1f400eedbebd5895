"""The independent solver: SciPy L-BFGS-B on the papers' own parameters, from several starts.

It minimises the equation of `laws/equation.py`, and shares no equation, parameterisation or optimiser with `models.py`
and `newton.py`, so that an agreement means something. The relative difference in the objective is
`solver_disagreement`.
"""

import numpy as np

from distillaw.fitting.estimate import Estimate, Problem
from distillaw.fitting.models import JointModel, StudentModel, SupervisedModel, TiedModel, tied
from distillaw.laws import equation
from distillaw.laws.base import Array

_OPTIONS = {"ftol": 1e-15, "gtol": 1e-11, "maxiter": 3000, "maxfun": 5000, "maxcor": 30}
"""Of L-BFGS-B, near what doubles allow: it must end closer than `diagnostics.DISAGREEMENT` to be a check."""


def second_objective(problem: Problem, fitted: Estimate, *, rng: np.random.Generator, starts: int = 4) -> float:
    """The lowest penalised Huber sum that L-BFGS-B finds from its own starts and from a shaken estimate.

    Args:
        fitted: the estimate of the default solver; only a start, moved by 10-30 %, comes from it.
    """
    from scipy.optimize import minimize

    pool = np.concatenate([problem.random_starts(rng, starts - 1), fitted.theta[None]])
    pool[-1, problem.model.free] *= 1 + 0.2 * rng.standard_normal(len(problem.model.free))
    pool = np.clip(pool, problem.model.lower, problem.model.upper)
    best = np.inf
    for theta in pool:
        z = _to_standard(problem.model, theta)

        def objective(x: Array, z: Array = z) -> tuple[float, Array]:
            full = z.copy()
            full[problem.model.free] = x
            value, gradient = _penalised(problem, fitted, full)
            return value, gradient[problem.model.free]

        with np.errstate(all="ignore"):
            found = minimize(objective, z[problem.model.free], jac=True, method="L-BFGS-B", options=_OPTIONS)
        if np.isfinite(found.fun):
            best = min(best, float(found.fun))
    return best


def disagreement(problem: Problem, fitted: Estimate, *, rng: np.random.Generator) -> float:
    """(default - second) / second: positive where the second solver found a lower objective."""
    other = second_objective(problem, fitted, rng=rng)
    own, _ = _penalised(problem, fitted, _to_standard(problem.model, fitted.theta))
    # below 1e-8 of the loss per row both are zero to rounding
    return float((own - other) / max(other, 1e-16 * len(problem.y)))


def _to_standard(model: object, theta: Array) -> Array:
    """Power mean (s0, lw, p, q, le) -> (ln A, ln B, alpha, beta, ln gamma), other parameters unchanged."""
    theta = tied(theta) if isinstance(model, TiedModel) else theta
    z = theta.copy()
    for at in _term_positions(model):
        s0, lw, p, q, le = theta[at : at + 5]
        eta = np.exp(le)
        z[at : at + 5] = [eta * s0 - np.log1p(np.exp(-lw)), eta * s0 - np.log1p(np.exp(lw)), eta * p, eta * q, -le]
    return z


def _term_positions(model: object) -> tuple[int, ...]:
    if isinstance(model, SupervisedModel):
        return (1,)
    if isinstance(model, StudentModel):
        return (0,) if model.form in ("kappa", "full") else ()
    assert isinstance(model, JointModel)
    return (1, *(6 + at for at in _term_positions(model.students)))


def _penalised(problem: Problem, fitted: Estimate, z: Array) -> tuple[float, Array]:
    value, J = _law(problem.model, z)
    r = value - problem.y
    psi = np.clip(r, -fitted.delta, fitted.delta)
    total = float((problem.weight * psi * (r - 0.5 * psi)).sum())
    gradient = J @ (problem.weight * psi)
    if fitted.prior is None:
        return total, gradient
    theta, chain = z.copy(), np.eye(len(z))
    for at in _term_positions(problem.model):
        theta[at : at + 5], chain[at : at + 5, at : at + 5] = _power_mean_of(z[at : at + 5])
    off = (theta - fitted.prior.mean) * fitted.prior.precision
    return total + 0.5 * float(off @ (theta - fitted.prior.mean)), gradient + chain.T @ off


def _power_mean_of(z: Array) -> tuple[Array, Array]:
    """(s0, lw, p, q, le) of (ln A, ln B, alpha, beta, ln gamma), and its Jacobian."""
    a, b, alpha, beta, lg = z
    gamma, total = np.exp(lg), np.logaddexp(a, b)
    w = np.exp(a - total)
    theta = np.array([gamma * total, a - b, gamma * alpha, gamma * beta, -lg])
    chain = np.zeros((5, 5))
    chain[0] = [gamma * w, gamma * (1 - w), 0, 0, gamma * total]
    chain[1, :2] = [1, -1]
    chain[2, 2], chain[2, 4] = gamma, gamma * alpha
    chain[3, 3], chain[3, 4] = gamma, gamma * beta
    chain[4, 4] = -1
    return theta, chain


def _law(model: object, z: Array) -> tuple[Array, Array]:
    """Ln L and its Jacobian (k, n) in standard parameters."""
    if isinstance(model, TiedModel):
        value, J = _supervised(model.n, model.d, np.concatenate([z[:4], z[3:4], z[5:]]))
        J[3] += J[4]
        return value, J
    if isinstance(model, SupervisedModel):
        return _supervised(model.n, model.d, z)
    if isinstance(model, StudentModel):
        s = model.s if model.s.ndim == 1 else model.s.mean(axis=0)
        value, J, _ = _student(model, s, z)
        return value, J
    assert isinstance(model, JointModel)
    own, J_own = _supervised(model.rows.n, model.rows.d, z[:6])
    cell, J_cell = _supervised(model.cells.n, model.cells.d, z[:6])
    value, J, by_s = _student(model.students, cell, z[6:])
    m = len(own)
    full = np.zeros((15, m + len(value)))
    full[:6, :m], full[:6, m:], full[6:, m:] = J_own, J_cell * by_s, J
    return np.concatenate([own, value]), full


def _supervised(n: Array, d: Array, z: Array) -> tuple[Array, Array]:
    c = dict(zip(equation.SUPERVISED, (*z[:5], np.exp(z[5])), strict=True))
    by = equation.supervised_gradient(c, n, d)
    J = np.stack([by[name] for name in equation.SUPERVISED])
    J[5] *= c["gamma"]
    return equation.log_supervised(c, n, d), J


def _student(model: StudentModel, s: Array, z: Array) -> tuple[Array, Array, Array]:
    """ln L_S, its Jacobian (9, n), and its derivative by ln Ltilde_S."""
    zero = np.float64(0.0)
    is_power = model.form in ("kappa", "full")
    names = ("log_A", "log_B", "alpha", "beta", "gamma", "c0", "log_kappa", "f1", "eps")
    c = dict(zip(names, (*z[:4], np.exp(z[4]), *z[5:7], np.exp(z[7]), z[8]), strict=True)) | {"q": zero}
    if not is_power:
        c |= {"log_B": zero - np.inf, "beta": zero, "gamma": zero + 1, "q": z[3]}
    has_eps = model.form == "full" and z[8] > 0
    c["eps"] = z[8] if has_eps else zero
    at = model.n, model.d, model.t, s
    by = equation.student_gradient(c, *at)
    by["eps"] *= has_eps
    by |= {"gamma": by["gamma"] * c["gamma"], "f1": by["f1"] * c["f1"]}  # of their logarithms
    if not is_power:
        by |= {"log_B": 0 * s, "beta": by["q"], "gamma": 0 * s}
    return equation.log_student(c, *at), np.stack([by[name] for name in names]), by["s"]
