"""The distillation law L_S(N_S, D_S, L_T): prediction, inversion, limits, and its three forms.

Busbridge et al. 2025, arXiv:2502.08606v2, Eq. 8 (primes restored), and two identifiable reductions of it. A teacher
enters only through its loss L_T, the student's own supervised loss Ltilde_S only inside the break. A form says how
its numbers are those of `laws/equation.py`, which evaluates all of them; a target out of reach gives inf or nan,
never an error in the middle of an array. No coefficients here: `laws/published.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import DataError
from distillaw.laws import equation
from distillaw.laws.base import Array, Box, Mask, log_or_unlimited, log_positive
from distillaw.laws.search import LOG_TOKENS, last_true, lowest
from distillaw.laws.supervised import SupervisedLaw

_EDGE = 1e-3
"""Share of the range of ln L_T within which an optimum counts as lying at its end: finer than any teacher is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimalTeacher:
    """The teacher loss that gives the best student."""

    teacher_loss: Array
    student_loss: Array
    at_edge: Mask
    """True where the best teacher is at an end of the range searched: a better one may lie beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentLaw:
    """L_S(N_S, D_S, L_T): a student's loss after distillation."""

    supervised: SupervisedLaw | None = None
    """Law of the student's own supervised loss; None asks the caller for `supervised_loss`."""
    range: Box = field(default_factory=Box)
    """Where it was fitted: `student_params`, `student_tokens`, `teacher_loss`, derived coordinates."""

    _names: ClassVar[tuple[str, ...]]

    @property
    def coefficients(self) -> dict[str, float]:
        """The fitted numbers by name."""
        return {name: getattr(self, name) for name in self._names}

    @property
    def derived(self) -> dict[str, float]:
        """Better identified: the effective `break` in L_T / Ltilde_S, slopes p, q of the term, eps = 1/(c1 f1)."""
        c = self.coefficients
        slopes = {"p": c["gamma"] * c["alpha"], "q": c["gamma"] * c["beta"]} if "gamma" in c else {}
        return slopes | {"break": c["kappa"] ** -c["f1"]} | ({"eps": 1 / (c["c1"] * c["f1"])} if "c1" in c else {})

    @property
    def standard(self) -> dict[str, Array]:
        """The coefficients as `laws/equation.py` takes them."""
        return equation.student_coefficients(self.coefficients)

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
        at = self._logs(student_params, student_tokens, teacher_loss, supervised_loss)
        return np.exp(equation.log_student(self.standard, *at))

    __call__ = distillation

    def limit(
        self,
        *,
        teacher_loss: ArrayLike,
        student_params: ArrayLike | None = None,
        student_tokens: ArrayLike | None = None,
    ) -> Array:
        """L_S where what is not given is unlimited: L_T itself for a student of any size on any data.

        Args:
            teacher_loss: L_T.
            student_params: N_S; None for a student of any size.
            student_tokens: D_S; None for any number of tokens.
        """
        t = log_positive("teacher_loss", teacher_loss)
        n = log_or_unlimited("student_params", student_params)
        d = log_or_unlimited("student_tokens", student_tokens)
        return np.exp(self._log_loss(n, d)(t))

    def optimal_teacher_loss(
        self,
        *,
        student_params: ArrayLike,
        student_tokens: ArrayLike,
        low: float | None = None,
        high: float | None = None,
    ) -> OptimalTeacher:
        """L_T* that minimises the student's loss, over the range of teachers that the runs span.

        Args:
            student_params: N_S.
            student_tokens: D_S.
            low: best teacher loss considered; by default the lower end of the law's fitted range.
            high: worst teacher loss considered; by default the upper end.

        Raises:
            DataError: no range given and the law states none.
        """
        first, last = np.log(self._teacher_range(low, high))
        n, d = _student(student_params, student_tokens)
        log_loss = self._log_loss(n, d)
        t = lowest(log_loss, low=first, high=last, ndim=n.ndim)
        near = _EDGE * (last - first)
        return OptimalTeacher(
            teacher_loss=np.exp(t), student_loss=np.exp(log_loss(t)), at_edge=(t - first < near) | (last - t < near)
        )

    def tokens_for_loss(self, *, student_params: ArrayLike, teacher_loss: ArrayLike, student_loss: ArrayLike) -> Array:
        """D_S at which distillation from a given teacher reaches a loss; inf where it never does.

        A student's loss falls with its tokens and ends at the teacher's or at the size's own limit.
        """
        n, t = log_positive("student_params", student_params), log_positive("teacher_loss", teacher_loss)
        n, t, target = np.broadcast_arrays(n, t, log_positive("student_loss", student_loss))

        def above(d: Array) -> Mask:
            return self._log_loss(n, d)(t) > target

        few, many = (np.full(n.shape, end) for end in LOG_TOKENS)
        return np.where(above(many), np.inf, np.exp(last_true(above, low=few, high=many)))

    def break_factor(self, ratio: ArrayLike) -> Array:
        """The factor exp(-h) in front of the student's term at r = L_T / Ltilde_S."""
        return np.exp(-equation.break_of(self.standard, log_positive("ratio", ratio)))

    def data_share(self, *, student_params: ArrayLike, student_tokens: ArrayLike) -> Array:
        """Share of B/D_S^beta in the inner sum; below about 0.02 the tokens do not inform the answer.

        0 where the data term is left out; nan for a product of powers, which has no sum.
        """
        share = equation.data_share(self.standard, *_student(student_params, student_tokens))
        return np.where(self.standard["q"] != 0, np.nan, share)

    def inside(
        self, *, student_params: ArrayLike, student_tokens: ArrayLike, teacher_loss: ArrayLike
    ) -> NDArray[np.bool_]:
        """True where the point lies in the fitted range."""
        return self.range.inside(
            {"student_params": student_params, "student_tokens": student_tokens, "teacher_loss": teacher_loss}
        )

    def _log_loss(self, n: Array, d: Array) -> Callable[[Array], Array]:
        """The logarithm of L_S by that of L_T, where Ltilde_S is that of the law's own supervised law."""
        own, c = equation.log_supervised(_supervised(self).standard, n, d), self.standard
        return lambda t: equation.log_student(c, n, d, t, own)

    def _logs(
        self, params: ArrayLike, tokens: ArrayLike, teacher_loss: ArrayLike, supervised_loss: ArrayLike | None
    ) -> tuple[Array, Array, Array, Array]:
        """Checked ln N_S, ln D_S, ln L_T, ln Ltilde_S."""
        n, d = log_positive("student_params", params), log_positive("student_tokens", tokens)
        t = log_positive("teacher_loss", teacher_loss)
        if supervised_loss is not None:
            return n, d, t, log_positive("supervised_loss", supervised_loss)
        return n, d, t, equation.log_supervised(_supervised(self).standard, n, d)

    def _teacher_range(self, low: float | None, high: float | None) -> tuple[float, float]:
        """The teacher losses to search, never below the irreducible loss."""
        stated = self.range.as_dict().get("teacher_loss")
        if stated is None and (low is None or high is None):
            raise DataError("this law states no range of teacher losses; pass low=... and high=...")
        if stated is not None:
            low, high = (stated[0] if low is None else low), (stated[1] if high is None else high)
        assert low is not None and high is not None
        floor = self.supervised.E if self.supervised is not None else 0.0
        low = max(low, floor * (1 + 1e-9))
        if not 0 < low < high:
            raise DataError(f"teacher losses from {low:.4g} to {high:.4g}: the range is empty")
        return low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerTermLaw(StudentLaw):
    """What the full and the kappa form share: L_T^(-c0) ( A/N_S^alpha + B/D_S^beta )^gamma, up to the break."""

    A: float
    B: float
    alpha: float
    beta: float
    gamma: float
    c0: float
    f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationLaw(PowerTermLaw):
    """The full, nine-parameter form of the paper.

    L_S = L_T + L_T^(-c0) [ 1 + (L_T / (Ltilde_S d1))^(1/f1) ]^(-c1 f1) ( A/N_S^alpha + B/D_S^beta )^gamma
    """

    _names = ("A", "B", "alpha", "beta", "gamma", "c0", "c1", "f1", "d1", "kappa")
    c1: float
    d1: float

    @property
    def kappa(self) -> float:
        """c1 f1 d1^(-1/f1): the one combination of (c1, d1) that data identify."""
        return self.c1 * self.f1 * self.d1 ** (-1 / self.f1)


@dataclass(frozen=True, slots=True, kw_only=True)
class KappaDistillationLaw(PowerTermLaw):
    """The eight-parameter form: the limit c1 -> infinity at fixed kappa, without the flat direction.

    L_S = L_T + L_T^(-c0) exp( -kappa (L_T/Ltilde_S)^(1/f1) ) ( A/N_S^alpha + B/D_S^beta )^gamma
    """

    _names = ("A", "B", "alpha", "beta", "gamma", "c0", "kappa", "f1")
    kappa: float


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


def _student(params: ArrayLike, tokens: ArrayLike) -> tuple[Array, Array]:
    """Checked ln N_S, ln D_S of one shape."""
    n, d = log_positive("student_params", params), log_positive("student_tokens", tokens)
    n, d = np.broadcast_arrays(n, d)
    return n, d


def _supervised(law: StudentLaw) -> SupervisedLaw:
    if law.supervised is None:
        raise DataError(
            "this distillation law has no supervised law for the student's own loss; "
            "pass supervised_loss=..., or give the law one"
        )
    return law.supervised
