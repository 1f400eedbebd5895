"""What every form of the distillation law shares: prediction, gradient, inversion, limits.

A teacher enters only through its loss L_T, the student's own supervised loss Ltilde_S only inside the break:

    ln L_S = LSE( ln L_T,  ln T(N_S, D_S) - c0 ln L_T - h(L_T / Ltilde_S) )

with T the student's term and h the break, which the forms in `laws/distillation.py` define. Evaluated in log
space only: the literal bracket of the paper (arXiv:2502.08606v2, Eq. 8) underflows for poor teachers. A target
out of reach gives inf or nan, never an error in the middle of an array.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import DataError
from distillaw.laws.base import Array, Box, Mask, log_or_unlimited, log_positive
from distillaw.laws.search import LOG_TOKENS, last_true, lowest
from distillaw.laws.supervised import SupervisedLaw

_EDGE = 1e-3
"""Share of the range of ln L_T within which an optimum counts as lying at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestTeacher:
    """The teacher loss that gives the best student."""

    teacher_loss: Array
    student_loss: Array
    at_edge: Mask
    """True where the best teacher is at an end of the range searched: a better one may lie beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentLaw(ABC):
    """L_S(N_S, D_S, L_T): a student's loss after distillation."""

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
        return np.logaddexp(t, self._log_beyond(n, d, t, s))

    def gradient(
        self,
        *,
        student_params: ArrayLike,
        student_tokens: ArrayLike,
        teacher_loss: ArrayLike,
        supervised_loss: ArrayLike | None = None,
    ) -> dict[str, Array]:
        """Derivatives of L_S by its four coordinates and by each fitted coefficient of this law.

        By `supervised_loss` with all else held. By `student_params` and `student_tokens` with Ltilde_S following
        the law's own supervised law, or held where it was given. The coefficients of the supervised law are held;
        `kappa` of the full form is derived and has no entry.

        Args:
            student_params: as in `distillation`, like the others.
            student_tokens: D_S.
            teacher_loss: L_T.
            supervised_loss: Ltilde_S.
        """
        n, d, t, s = self._logs(student_params, student_tokens, teacher_loss, supervised_loss)
        x = t - s
        # what the teacher's loss does not explain: dL_S / d(its logarithm) is itself
        beyond = np.exp(self._log_beyond(n, d, t, s))
        bend = self._break_slope(x)
        by_n, by_d = self._term_slopes(n, d)
        if supervised_loss is None:
            own_n, own_d = _supervised(self).log_slopes(n, d)
            by_n, by_d = by_n + bend * own_n, by_d + bend * own_d
        coordinates = {
            "student_params": beyond * by_n * np.exp(-n),
            "student_tokens": beyond * by_d * np.exp(-d),
            "teacher_loss": 1 - beyond * (self._c0() + bend) * np.exp(-t),
            "supervised_loss": beyond * bend * np.exp(-s),
        }
        parts = self._term_gradient(n, d) | {"c0": -t} | {k: -v for k, v in self._break_gradient(x).items()}
        return coordinates | {name: beyond * part for name, part in parts.items()}

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
        return np.exp(self.log_loss(n, d, t, _supervised(self).log_loss(n, d)))

    def optimal_teacher_loss(
        self, *, student_params: ArrayLike, student_tokens: ArrayLike, low: float | None = None,
        high: float | None = None,
    ) -> BestTeacher:  # fmt: skip
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
        n, d, s = self._student(student_params, student_tokens)
        t = lowest(lambda x: self.log_loss(n, d, x, s), low=first, high=last, ndim=n.ndim)
        near = _EDGE * (last - first)
        return BestTeacher(
            teacher_loss=np.exp(t), student_loss=np.exp(self.log_loss(n, d, t, s)),
            at_edge=(t - first < near) | (last - t < near),
        )  # fmt: skip

    def teacher_loss_for(
        self, *, student_params: ArrayLike, student_tokens: ArrayLike, student_loss: ArrayLike,
        low: float | None = None, high: float | None = None,
    ) -> Array:  # fmt: skip
        """The worst (cheapest) teacher that brings a student to a loss; nan where none in the range does.

        The student's loss falls and then rises as the teacher improves, so up to two teachers give the same
        student; this is the weaker one.
        """
        low, high = self._teacher_range(low, high)
        best = self.optimal_teacher_loss(
            student_params=student_params, student_tokens=student_tokens, low=low, high=high
        )
        n, d, s = self._student(student_params, student_tokens)
        n, d, s, target, strongest, reached = np.broadcast_arrays(
            n,
            d,
            s,
            log_positive("student_loss", student_loss),
            np.log(best.teacher_loss),
            np.log(best.student_loss),
        )
        weakest = np.full(n.shape, np.log(high))
        good_enough = self.log_loss(n, d, weakest, s) <= target
        found = last_true(lambda x: self.log_loss(n, d, x, s) <= target, low=strongest, high=weakest)
        return np.where(reached <= target, np.exp(np.where(good_enough, weakest, found)), np.nan)

    def tokens_for_loss(
        self, *, student_params: ArrayLike, teacher_loss: ArrayLike, student_loss: ArrayLike
    ) -> Array:
        """D_S at which distillation from a given teacher reaches a loss; inf where it never does.

        A student's loss falls with its tokens and ends at the teacher's or at the size's own limit.
        """
        n, t = log_positive("student_params", student_params), log_positive("teacher_loss", teacher_loss)
        n, t, target = np.broadcast_arrays(n, t, log_positive("student_loss", student_loss))
        supervised = _supervised(self)

        def above(d: Array) -> Mask:
            return self.log_loss(n, d, t, supervised.log_loss(n, d)) > target

        few, many = (np.full(n.shape, end) for end in LOG_TOKENS)
        return np.where(above(many), np.inf, np.exp(last_true(above, low=few, high=many)))

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
    def _term_slopes(self, n: Array, d: Array) -> tuple[Array, Array]:
        """Derivatives of ln T by ln N_S and by ln D_S."""

    @abstractmethod
    def _term_gradient(self, n: Array, d: Array) -> dict[str, Array]:
        """Derivatives of ln T by its coefficients."""

    @abstractmethod
    def _c0(self) -> float:
        """The exponent of the teacher's loss."""

    @abstractmethod
    def _break(self, x: Array) -> Array:
        """H at x = ln (L_T / Ltilde_S)."""

    @abstractmethod
    def _break_slope(self, x: Array) -> Array:
        """Derivative of the break by x."""

    @abstractmethod
    def _break_gradient(self, x: Array) -> dict[str, Array]:
        """Derivatives of the break by its coefficients."""

    def _log_beyond(self, n: Array, d: Array, t: Array, s: Array) -> Array:
        """Ln (L_S - L_T): what the student lacks of its teacher."""
        return self._log_term(n, d) - self._c0() * t - self._break(t - s)

    def _logs(
        self, params: ArrayLike, tokens: ArrayLike, teacher_loss: ArrayLike, supervised_loss: ArrayLike | None
    ) -> tuple[Array, Array, Array, Array]:
        """Checked ln N_S, ln D_S, ln L_T, ln Ltilde_S."""
        n, d = log_positive("student_params", params), log_positive("student_tokens", tokens)
        t = log_positive("teacher_loss", teacher_loss)
        if supervised_loss is not None:
            return n, d, t, log_positive("supervised_loss", supervised_loss)
        return n, d, t, _supervised(self).log_loss(n, d)

    def _student(self, params: ArrayLike, tokens: ArrayLike) -> tuple[Array, Array, Array]:
        """Checked ln N_S, ln D_S, ln Ltilde_S of one shape."""
        n, d = np.broadcast_arrays(
            log_positive("student_params", params), log_positive("student_tokens", tokens)
        )
        return n, d, _supervised(self).log_loss(n, d)

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


def _supervised(law: StudentLaw) -> SupervisedLaw:
    if law.supervised is None:
        raise DataError(
            "this distillation law has no supervised law for the student's own loss; "
            "pass supervised_loss=..., or give the law one"
        )
    return law.supervised
