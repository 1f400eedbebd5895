"""The distillation law L_S(N_S, D_S, L_T): the full form and its two identifiable reductions.

Busbridge et al. 2025, arXiv:2502.08606v2, Eq. 8 (primes restored). A teacher enters only through its
loss L_T, the student's own supervised loss Ltilde_S only inside the break. All forms are

    ln L_S = LSE( ln L_T,  ln T(N_S, D_S) - c0 ln L_T - h(L_T / Ltilde_S) )

with T the student's term and h the break. Evaluated in log space only: the literal bracket of the paper
underflows for poor teachers. No coefficients here (`laws/published.py`), no searches (`laws/optimum.py`).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import DataError
from distillaw.laws.base import Array, Box, log_positive
from distillaw.laws.supervised import SupervisedLaw


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentLaw(ABC):
    """What the three forms share: where Ltilde_S comes from, and the sum with the teacher's loss."""

    supervised: SupervisedLaw | None = None
    """Law of the student's own supervised loss; None asks the caller for `supervised_loss`."""
    range: Box = field(default_factory=Box)
    """Where it was fitted: `student_params`, `student_tokens`, `teacher_loss`, derived coordinates."""

    def distillation(
        self,
        *,
        student_params: ArrayLike,
        student_tokens: ArrayLike,
        teacher_loss: ArrayLike,
        supervised_loss: ArrayLike | None = None,
    ) -> Array:
        """L_S, the student's cross-entropy against data after distillation, nats per token.

        Args:
            student_params: N_S, non-embedding parameters, > 0; all arguments broadcast.
            student_tokens: D_S, tokens the student is distilled on, > 0.
            teacher_loss: L_T, the teacher's cross-entropy against data, nats per token, > 0.
            supervised_loss: Ltilde_S; by default from the law's own supervised law.

        Raises:
            DataError: an argument is not positive or not finite, or Ltilde_S is not known.
        """
        n, d, t, s = self._logs(student_params, student_tokens, teacher_loss, supervised_loss)
        return np.exp(self.log_loss(n, d, t, s))

    __call__ = distillation

    def log_loss(self, n: Array, d: Array, t: Array, s: Array) -> Array:
        """Ln L_S from ln N_S, ln D_S, ln L_T, ln Ltilde_S, unchecked."""
        return np.logaddexp(t, self._log_term(n, d) - self._c0() * t - self._break(t - s))

    def gradient(
        self,
        *,
        student_params: ArrayLike,
        student_tokens: ArrayLike,
        teacher_loss: ArrayLike,
        supervised_loss: ArrayLike | None = None,
    ) -> dict[str, Array]:
        """Partial derivatives of L_S by each fitted coefficient of this law.

        The supervised law behind Ltilde_S is held. `kappa` of the full form is derived and has no entry.

        Args:
            student_params: as in `distillation`, like the others.
            student_tokens: D_S.
            teacher_loss: L_T.
            supervised_loss: Ltilde_S.
        """
        n, d, t, s = self._logs(student_params, student_tokens, teacher_loss, supervised_loss)
        x = t - s
        # what the teacher's loss does not explain: dL_S / d(its logarithm) is itself
        beyond = np.exp(self._log_term(n, d) - self._c0() * t - self._break(x))
        parts = self._term_gradient(n, d) | {"c0": -t} | {k: -v for k, v in self._break_gradient(x).items()}
        return {name: beyond * part for name, part in parts.items()}

    def _logs(
        self, params: ArrayLike, tokens: ArrayLike, teacher_loss: ArrayLike, supervised_loss: ArrayLike | None
    ) -> tuple[Array, Array, Array, Array]:
        """Checked ln N_S, ln D_S, ln L_T, ln Ltilde_S."""
        n, d = log_positive("student_params", params), log_positive("student_tokens", tokens)
        t = log_positive("teacher_loss", teacher_loss)
        if supervised_loss is not None:
            return n, d, t, log_positive("supervised_loss", supervised_loss)
        if self.supervised is not None:
            return n, d, t, self.supervised.log_loss(n, d)
        raise DataError("this distillation law has no supervised law; pass supervised_loss=...")

    def break_factor(self, ratio: ArrayLike) -> Array:
        """The factor exp(-h) in front of the student's term at r = L_T / Ltilde_S."""
        return np.exp(-self._break(log_positive("ratio", ratio)))

    def inside(
        self, *, student_params: ArrayLike, student_tokens: ArrayLike, teacher_loss: ArrayLike
    ) -> NDArray[np.bool_]:
        """True where the point lies in the fitted range."""
        return self.range.inside(
            {"student_params": student_params, "student_tokens": student_tokens, "teacher_loss": teacher_loss}
        )

    @abstractmethod
    def data_share(self, *, student_params: ArrayLike, student_tokens: ArrayLike) -> Array:
        """Share of the data term in the student's inner sum; below about 0.02 the tokens do not inform it."""

    @property
    @abstractmethod
    def coefficients(self) -> dict[str, float]:
        """The fitted numbers by name."""

    @property
    @abstractmethod
    def derived(self) -> dict[str, float]:
        """Better identified combinations; always the effective `break`."""

    @abstractmethod
    def _log_term(self, n: Array, d: Array) -> Array:
        """Ln T from ln N_S, ln D_S."""

    @abstractmethod
    def _c0(self) -> float:
        """The exponent of the teacher's loss."""

    @abstractmethod
    def _break(self, x: Array) -> Array:
        """H at x = ln (L_T / Ltilde_S)."""

    @abstractmethod
    def _term_gradient(self, n: Array, d: Array) -> dict[str, Array]:
        """Derivatives of ln T by its coefficients."""

    @abstractmethod
    def _break_gradient(self, x: Array) -> dict[str, Array]:
        """Derivatives of the break by its coefficients."""


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
        """Slopes p, q of the student's term and the effective break in L_T / Ltilde_S."""
        return {"p": self.gamma * self.alpha, "q": self.gamma * self.beta, "break": self.kappa**-self.f1}

    def _break(self, x: Array) -> Array:
        return self.c1 * self.f1 * np.logaddexp(0.0, (x - np.log(self.d1)) / self.f1)

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
        return self.s0 - self.p * n - self.q * d

    def _c0(self) -> float:
        return self.c0

    def _break(self, x: Array) -> Array:
        return _exponential_break(self.kappa, self.f1, x)

    def _term_gradient(self, n: Array, d: Array) -> dict[str, Array]:
        n, d = np.broadcast_arrays(n, d)
        return {"s0": np.ones_like(n), "p": -n} | ({"q": -d} if self.q else {})

    def _break_gradient(self, x: Array) -> dict[str, Array]:
        return _exponential_break_gradient(self.kappa, self.f1, x)


def _exponential_break(kappa: float, f1: float, x: Array) -> Array:
    """Kappa r^(1/f1) at x = ln r, capped where exp(-h) is zero to rounding anyway."""
    return np.exp(np.minimum(np.log(kappa) + x / f1, 50.0))


def _exponential_break_gradient(kappa: float, f1: float, x: Array) -> dict[str, Array]:
    u = _exponential_break(kappa, f1, x)
    return {"kappa": u / kappa, "f1": -u * x / f1**2}
