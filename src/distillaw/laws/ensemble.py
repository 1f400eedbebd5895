"""Several laws as one: every coefficient is an array over members, so that one call evaluates them all.

Members are whatever is believed at once: bootstrap replicates of a fit, contradicting published sets, or a single
law. All forms of the distillation law are one equation (`laws/equation.py`), so they can stand side by side.

    LawEnsemble.of([(law.supervised, law.distillation) for law in map(published, ("surrogate-s1", "surrogate-s2"))])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from distillaw.errors import DataError
from distillaw.laws import equation
from distillaw.laws.base import Array, log_positive
from distillaw.laws.distillation import StudentLaw
from distillaw.laws.equation import STUDENT, SUPERVISED
from distillaw.laws.supervised import SupervisedLaw


@dataclass(frozen=True, slots=True, kw_only=True)
class LawEnsemble:
    """m laws, each a supervised law with the distillation law that goes with it."""

    plain: Mapping[str, Array]
    """Supervised coefficients named in `SUPERVISED`, each of shape (m,)."""
    student: Mapping[str, Array]
    """Distillation coefficients named in `STUDENT`, each of shape (m,); empty for laws without this half."""

    @classmethod
    def of(cls, laws: Sequence[tuple[SupervisedLaw, StudentLaw | None]]) -> "LawEnsemble":
        """The ensemble of given law objects.

        Raises:
            DataError: no law at all, or some have a distillation half and others not.
        """
        if not laws or len({student is None for _, student in laws}) > 1:
            raise DataError("an ensemble needs laws, all of them with a distillation half or none")
        plain = [law.standard for law, _ in laws]
        student = [law.standard for _, law in laws if law is not None]
        return cls(plain=_stack(plain, SUPERVISED), student=_stack(student, STUDENT) if student else {})

    @property
    def size(self) -> int:
        """M, the number of members."""
        return len(self.plain["alpha"])

    @property
    def irreducible(self) -> Array:
        """E of each member, nats/token, shape (m,)."""
        return np.exp(self.plain["log_E"])

    def take(self, members: ArrayLike) -> "LawEnsemble":
        """The ensemble of the members with these indices; repeats are allowed."""
        index = np.atleast_1d(members)
        plain, student = ({k: v[index] for k, v in half.items()} for half in (self.plain, self.student))
        return LawEnsemble(plain=plain, student=student)

    def supervised(self, *, params: ArrayLike, tokens: ArrayLike) -> Array:
        """L(N, D) by member, nats/token.

        Args:
            params: N, non-embedding parameters; arguments broadcast to a shape s.
            tokens: D.

        Returns:
            Shape (m, *s).
        """
        n, d = _member_axis(params=params, tokens=tokens)
        return np.exp(self.log_supervised(n, d))

    def distillation(self, *, student_params: ArrayLike, student_tokens: ArrayLike, teacher_loss: ArrayLike) -> Array:
        """L_S(N_S, D_S, L_T) by member, nats/token, shape (m, *s).

        Args:
            student_params: N_S; arguments broadcast to a shape s.
            student_tokens: D_S.
            teacher_loss: L_T, nats/token. For a loss that differs by member use `log_distilled`.
        """
        n, d, t = _member_axis(student_params=student_params, student_tokens=student_tokens, teacher_loss=teacher_loss)
        with np.errstate(over="ignore"):  # a teacher far below the law's floor: who asks refuses infinities
            return np.exp(self.log_distilled(n, d, t))

    def log_supervised(self, n: Array, d: Array) -> Array:
        """ln L from ln N, ln D, unchecked; each has a first axis of length m or 1 for the members."""
        return equation.log_supervised(_columns(self.plain, n, d), n, d)

    def log_tokens_for(self, n: Array, loss: Array) -> Array:
        """ln D at which supervised training of size N reaches a loss, from ln N and ln L; inf where it never does."""
        return equation.log_tokens_for(_columns(self.plain, n, loss), n, loss)

    def log_distilled(self, n: Array, d: Array, t: Array) -> Array:
        """ln L_S from ln N_S, ln D_S, ln L_T, unchecked; first axes as in `log_supervised`."""
        c = _columns(self.student, n, d, t)
        return equation.log_student(c, n, d, t, self.log_supervised(n, d))

    def break_factor(self, x: Array) -> Array:
        """exp(-h) at x = ln(L_T / Ltilde_S), in front of the student's term; first axis as in `log_supervised`."""
        return np.exp(-equation.break_of(_columns(self.student, x), x))


def _member_axis(**coords: ArrayLike) -> list[Array]:
    """Checked logs of one number of axes, with an axis for the members in front."""
    logs = [log_positive(name, value) for name, value in coords.items()]
    axes = max(x.ndim for x in logs)
    return [x.reshape((1,) * (1 + axes - x.ndim) + x.shape) for x in logs]


def _columns(coefficients: Mapping[str, Array], *coords: Array) -> dict[str, Array]:
    """Coefficients of shape (m, 1, ..., 1), as many axes as the coordinates have."""
    axes = max(np.ndim(x) for x in coords) - 1
    return {k: v.reshape((-1,) + (1,) * axes) for k, v in coefficients.items()}


def _stack(members: Sequence[Mapping[str, Array]], names: Sequence[str]) -> dict[str, Array]:
    return {name: np.concatenate([np.atleast_1d(one[name]) for one in members]) for name in names}
