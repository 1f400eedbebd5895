"""The loss of a model and of a distilled student, with their gradients: the one place where the equation is evaluated.

    L(N, D)              = E + S                  ln S = gamma ln( A/N^alpha + B/D^beta ) - q ln D
    L_S(N, D, L_T, L~_S) = L_T + T                ln T = ln S' - c0 ln L_T - h(L_T / L~_S)
    h(r) = ln(1 + eps u) / eps,  u = kappa r^(1/f1)                         (eps = 0: h = u)

S' has coefficients of its own. Every form of the distillation law is one of these (`student_coefficients`): the full
form of Busbridge et al. 2025, arXiv:2502.08606v2, Eq. 8, has kappa = c1 f1 d1^(-1/f1) and eps = 1/(c1 f1), since its
literal bracket underflows for poor teachers; eps = 0 is the limit c1 -> infinity at fixed kappa; and the reduced form
has gamma = 1 and no data term but D^-q.

Arguments are natural logarithms n = ln N, d = ln D, t = ln L_T, s = ln L~_S, unchecked. A coefficient is a number or
an array that broadcasts with them: one law, a law per member on the first axis, a law per draw. The objects that
people call are in supervised.py, distillation.py and ensemble.py; what a fit minimises, in other parameters and
with second derivatives, is fitting/models.py, and the planner page has web/src/laws/law.ts; both are tested against
this file.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from distillaw.laws.base import Array

SUPERVISED = ("log_E", "log_A", "log_B", "alpha", "beta", "gamma")
STUDENT = ("log_A", "log_B", "alpha", "beta", "gamma", "q", "c0", "log_kappa", "f1", "eps")
Coefficients = Mapping[str, Array]

_CAP = 300.0
"""Largest ln u: exp(-h) is zero to rounding long before, and products with e^300 do not overflow."""
_SAFE = 600.0
"""Spread of logarithms whose exponentials neither over- nor underflow beside each other."""
_MANY = 2048
"""Cells from which that pays for its further calls (measured: numpy's logaddexp takes 15 ns a cell)."""


def log_sum(a: Array, b: Array) -> Array:
    """ln(e^a + e^b); rows against columns need an exponential per row and column only, and a logarithm per cell."""
    if a.shape != b.shape and np.broadcast(a, b).size > max(_MANY, 4 * a.size, 4 * b.size):
        top = max(a.max(), b.max())
        if top - min(a.min(), b.min()) < _SAFE:
            total = np.exp(a - top) + np.exp(b - top)
            return np.add(np.log(total, out=total), top, out=total)
    return np.logaddexp(a, b)


def log_reducible(c: Coefficients, n: Array, d: Array) -> Array:
    """ln S, what is left to learn: ln (L - E) of a model, or what a student has left of its teacher's."""
    power = log_sum(*_size_and_data(c, n, d))
    power *= c["gamma"]
    return power - c["q"] * d if "q" in c and c["q"].any() else power


def supervised(c: Coefficients, n: Array, d: Array) -> Array:
    """L(N, D), nats per token."""
    return np.exp(c["log_E"]) + np.exp(log_reducible(c, n, d))


def log_supervised(c: Coefficients, n: Array, d: Array) -> Array:
    """ln L(N, D)."""
    return log_sum(c["log_E"], log_reducible(c, n, d))


def log_lag(c: Coefficients, n: Array, d: Array, t: Array, s: Array) -> Array:
    """ln T: what the student's loss lies above its teacher's."""
    return log_reducible(c, n, d) - c["c0"] * t - break_of(c, t - s)


def log_student(c: Coefficients, n: Array, d: Array, t: Array, s: Array) -> Array:
    """ln L_S of a student of a teacher with ln L_T = t, whose own supervised loss would be e^s."""
    return log_sum(t, log_lag(c, n, d, t, s))


def break_of(c: Coefficients, x: Array) -> Array:
    """H at x = ln (L_T / L~_S): exp(-h) stands before the student's term."""
    u = np.asarray(x / c["f1"])
    u += c["log_kappa"]
    np.exp(np.minimum(u, _CAP, out=u), out=u)
    eps = c["eps"]
    if not eps.any():
        return u
    h = np.log1p(eps * u)
    h /= np.where(eps > 0, eps, 1.0)
    return h if eps.all() else np.where(eps > 0, h, u)


def data_share(c: Coefficients, n: Array, d: Array) -> Array:
    """Share of B/D^beta in the inner sum; near 0 the tokens do not inform the answer."""
    size, data = _size_and_data(c, n, d)
    return np.exp(data - log_sum(size, data))


def log_tokens_for(c: Coefficients, n: Array, loss: Array) -> Array:
    """ln D at which supervised training of a size reaches ln L = loss; inf where the size alone keeps it above.

    D = [ B / ( (L - E)^(1/gamma) - A / N^alpha ) ]^(1/beta)
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # out of reach
        inner = np.log(np.exp(loss) - np.exp(c["log_E"])) / c["gamma"]
        size = c["log_A"] - c["alpha"] * n
        found = (c["log_B"] - np.log(np.exp(inner) - np.exp(size))) / c["beta"]
    return np.where(np.isnan(found), np.inf, found)


def supervised_gradient(c: Coefficients, n: Array, d: Array) -> dict[str, Array]:
    """Derivatives of ln L by `n`, by `d`, and by each of SUPERVISED."""
    share, by = _reducible_gradient(c, n, d)
    loss = supervised(c, n, d)
    weight = share / loss
    return {name: weight * value for name, value in by.items()} | {"log_E": np.exp(c["log_E"]) / loss}


def student_gradient(c: Coefficients, n: Array, d: Array, t: Array, s: Array) -> dict[str, Array]:
    """Derivatives of ln L_S by `n`, `d`, `t`, by `s` (each with the others held), and by each of STUDENT."""
    _, by = _reducible_gradient(c, n, d)
    lag = log_lag(c, n, d, t, s)
    share = np.exp(lag - log_sum(t, lag))
    x, eps, f1 = t - s, c["eps"], c["f1"]
    u = np.exp(np.minimum(c["log_kappa"] + x / f1, _CAP))
    bend = u / (1 + eps * u)  # dh / d ln u
    safe = np.where(eps > 0, eps, 1.0)
    by |= {
        "q": -np.broadcast_to(d, np.shape(share)),
        "c0": -t,
        "log_kappa": -bend,
        "f1": bend * x / f1**2,
        "eps": np.where(eps > 0, (break_of(c, x) - bend) / safe, u * u / 2),
    }
    found = {name: share * value for name, value in by.items()}
    return found | {"t": 1 - share * (1 + c["c0"] + bend / f1), "s": share * bend / f1}


def supervised_coefficients(numbers: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """SUPERVISED from E A B alpha beta [gamma] as papers name them; numbers or arrays over members."""
    given = {name: np.asarray(value, dtype=np.float64) for name, value in numbers.items()}
    with np.errstate(divide="ignore"):  # E = 0, the form of Kaplan et al.: ln E = -inf adds nothing
        logs = {f"log_{name}": np.log(given[name]) for name in ("E", "A", "B")}
    gamma = given.get("gamma", np.ones_like(given["alpha"]))
    return logs | {"alpha": given["alpha"], "beta": given["beta"], "gamma": gamma}


def student_coefficients(numbers: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """STUDENT from the numbers of any form of the distillation law, named as in the papers."""
    given = {name: np.asarray(value, dtype=np.float64) for name, value in numbers.items()}
    f1, zero = given["f1"], np.zeros_like(given["kappa"])
    eps = 1 / (given["c1"] * f1) if "c1" in given else zero
    found = {"q": given.get("q", zero), "c0": given["c0"], "log_kappa": np.log(given["kappa"])}
    found |= {"f1": f1, "eps": eps}
    if "s0" in given:
        nothing = {"log_B": zero - np.inf, "beta": zero, "gamma": zero + 1}
        return found | nothing | {"log_A": given["s0"], "alpha": given["p"]}
    power = {name: given[name] for name in ("alpha", "beta", "gamma")}
    return found | power | {f"log_{name}": np.log(given[name]) for name in ("A", "B")}


def _size_and_data(c: Coefficients, n: Array, d: Array) -> tuple[Array, Array]:
    return c["log_A"] - c["alpha"] * n, c["log_B"] - c["beta"] * d


def _reducible_gradient(c: Coefficients, n: Array, d: Array) -> tuple[Array, dict[str, Array]]:
    """S, and the derivatives of ln S by n, d and the coefficients of the power term."""
    size, data = _size_and_data(c, n, d)
    inner = log_sum(size, data)
    u, v = c["gamma"] * np.exp(size - inner), c["gamma"] * np.exp(data - inner)
    q = c.get("q", np.asarray(0.0))
    by = {"n": -c["alpha"] * u, "d": -c["beta"] * v - q, "log_A": u, "log_B": v}
    return np.exp(log_reducible(c, n, d)), by | {"alpha": -n * u, "beta": -d * v, "gamma": inner}
