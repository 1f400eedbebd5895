"""The distillation law L_S(N_S, D_S, L_T): the full form and its two identifiable reductions.

Busbridge et al. 2025, arXiv:2502.08606v2, Eq. 8 (primes restored). What the forms share, the sum with the
teacher's loss and its inversion, is `laws/student.py`; here are the student's term T(N_S, D_S) and the break
h(L_T / Ltilde_S), with their derivatives. No coefficients here: `laws/published.py`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from distillaw.laws.base import Array, log_positive
from distillaw.laws.student import StudentLaw


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerTermLaw(StudentLaw):
    """What the full and the kappa form share: L_T^(-c0) ( A/N_S^alpha + B/D_S^beta )^gamma, up to the break."""

    A: float
    B: float
    alpha: float
    beta: float
    gamma: float
    c0: float

    def data_share(self, *, student_params: ArrayLike, student_tokens: ArrayLike) -> Array:
        """Share of B/D_S^beta in the inner sum; below about 0.02 the tokens do not inform the answer."""
        size, data = self._log_parts(
            log_positive("student_params", student_params), log_positive("student_tokens", student_tokens)
        )
        return np.exp(data - np.logaddexp(size, data))

    def _log_parts(self, n: Array, d: Array) -> tuple[Array, Array]:
        return np.log(self.A) - self.alpha * n, np.log(self.B) - self.beta * d

    def _log_term(self, n: Array, d: Array) -> Array:
        return self.gamma * np.logaddexp(*self._log_parts(n, d))

    def _c0(self) -> float:
        return self.c0

    def _term_gradient(self, n: Array, d: Array) -> dict[str, Array]:
        size, data = self._log_parts(n, d)
        inner = np.logaddexp(size, data)
        u, v = self.gamma * np.exp(size - inner), self.gamma * np.exp(data - inner)
        return {"A": u / self.A, "B": v / self.B, "alpha": -n * u, "beta": -d * v, "gamma": inner}

    def _term_slopes(self, n: Array, d: Array) -> tuple[Array, Array]:
        size, data = self._log_parts(n, d)
        inner = np.logaddexp(size, data)
        p, q = self.gamma * self.alpha, self.gamma * self.beta
        return -p * np.exp(size - inner), -q * np.exp(data - inner)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationLaw(PowerTermLaw):
    """The full, nine-parameter form of the paper.

    L_S = L_T + L_T^(-c0) [ 1 + (L_T / (Ltilde_S d1))^(1/f1) ]^(-c1 f1) ( A/N_S^alpha + B/D_S^beta )^gamma
    """

    c1: float
    f1: float
    d1: float

    @property
    def kappa(self) -> float:
        """c1 f1 d1^(-1/f1): the one combination of (c1, d1) that data identify."""
        return self.c1 * self.f1 * self.d1 ** (-1 / self.f1)

    @property
    def coefficients(self) -> dict[str, float]:
        """A B alpha beta gamma c0 c1 f1 d1 kappa."""
        names = ("A", "B", "alpha", "beta", "gamma", "c0", "c1", "f1", "d1", "kappa")
        return {name: getattr(self, name) for name in names}

    @property
    def derived(self) -> dict[str, float]:
        """Slopes p, q of the student's term, the effective break in L_T / Ltilde_S, and eps = 1/(c1 f1)."""
        slopes = {"p": self.gamma * self.alpha, "q": self.gamma * self.beta}
        return slopes | {"break": self.kappa**-self.f1, "eps": 1 / (self.c1 * self.f1)}

    def _break(self, x: Array) -> Array:
        return self.c1 * self.f1 * np.logaddexp(0.0, (x - np.log(self.d1)) / self.f1)

    def _break_slope(self, x: Array) -> Array:
        return self.c1 * np.exp(-np.logaddexp(0.0, -(x - np.log(self.d1)) / self.f1))

    def _break_gradient(self, x: Array) -> dict[str, Array]:
        z = (x - np.log(self.d1)) / self.f1
        soft, share = np.logaddexp(0.0, z), np.exp(-np.logaddexp(0.0, -z))
        return {
            "c1": self.f1 * soft,
            "f1": self.c1 * (soft - share * z),
            "d1": -self.c1 * share / self.d1,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class KappaDistillationLaw(PowerTermLaw):
    """The eight-parameter form: the limit c1 -> infinity at fixed kappa, without the flat direction.

    L_S = L_T + L_T^(-c0) exp( -kappa (L_T/Ltilde_S)^(1/f1) ) ( A/N_S^alpha + B/D_S^beta )^gamma
    """

    kappa: float
    f1: float

    @property
    def coefficients(self) -> dict[str, float]:
        """A B alpha beta gamma c0 kappa f1."""
        return {
            name: getattr(self, name) for name in ("A", "B", "alpha", "beta", "gamma", "c0", "kappa", "f1")
        }

    @property
    def derived(self) -> dict[str, float]:
        """Slopes p, q of the student's term and the effective break in L_T / Ltilde_S."""
        return {"p": self.gamma * self.alpha, "q": self.gamma * self.beta, "break": self.kappa**-self.f1}

    def _break(self, x: Array) -> Array:
        return _exponential_break(self.kappa, self.f1, x)

    def _break_slope(self, x: Array) -> Array:
        return _exponential_break(self.kappa, self.f1, x) / self.f1

    def _break_gradient(self, x: Array) -> dict[str, Array]:
        return _exponential_break_gradient(self.kappa, self.f1, x)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedDistillationLaw(StudentLaw):
    """The five-parameter kappa form, for designs in which the data term cannot be seen.

        L_S = L_T + exp( s0 - p ln N_S - q ln D_S - c0 ln L_T - kappa (L_T/Ltilde_S)^(1/f1) )

    q = 0 is the five-parameter form; a free q is the six-parameter step of the ladder.
    """

    s0: float
    p: float
    c0: float
    kappa: float
    f1: float
    q: float = 0.0

    @property
    def coefficients(self) -> dict[str, float]:
        """s0 p c0 kappa f1, and q where it is not zero."""
        names = ("s0", "p", "c0", "kappa", "f1") + (("q",) if self.q else ())
        return {name: getattr(self, name) for name in names}

    @property
    def derived(self) -> dict[str, float]:
        """The effective break in L_T / Ltilde_S."""
        return {"break": self.kappa**-self.f1}

    def data_share(self, *, student_params: ArrayLike, student_tokens: ArrayLike) -> Array:
        """0 where the data term is left out (q = 0); nan for a product of powers, which has no sum."""
        n, d = log_positive("student_params", student_params), log_positive("student_tokens", student_tokens)
        return np.zeros(np.broadcast_shapes(n.shape, d.shape)) + (np.nan if self.q else 0.0)

    def _log_term(self, n: Array, d: Array) -> Array:
        # without a data term, unlimited tokens (d = inf) must not turn 0 x inf into nan
        return self.s0 - self.p * n - (self.q * d if self.q else np.zeros_like(d))

    def _c0(self) -> float:
        return self.c0

    def _break(self, x: Array) -> Array:
        return _exponential_break(self.kappa, self.f1, x)

    def _term_gradient(self, n: Array, d: Array) -> dict[str, Array]:
        n, d = np.broadcast_arrays(n, d)
        return {"s0": np.ones_like(n), "p": -n} | ({"q": -d} if self.q else {})

    def _term_slopes(self, n: Array, d: Array) -> tuple[Array, Array]:
        return np.full_like(n, -self.p), np.full_like(d, -self.q)

    def _break_slope(self, x: Array) -> Array:
        return _exponential_break(self.kappa, self.f1, x) / self.f1

    def _break_gradient(self, x: Array) -> dict[str, Array]:
        return _exponential_break_gradient(self.kappa, self.f1, x)


def _exponential_break(kappa: float, f1: float, x: Array) -> Array:
    """Kappa r^(1/f1) at x = ln r, capped where exp(-h) is zero to rounding anyway."""
    return np.exp(np.minimum(np.log(kappa) + x / f1, 50.0))


def _exponential_break_gradient(kappa: float, f1: float, x: Array) -> dict[str, Array]:
    u = _exponential_break(kappa, f1, x)
    return {"kappa": u / kappa, "f1": -u * x / f1**2}
