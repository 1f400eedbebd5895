"""Laws turned round: tokens for a loss, the compute-optimal size, the best teacher of a student.

Closed forms where they exist (spec laws.md section 2), otherwise one-dimensional solves on whole arrays:
bisection where the law is monotone, a grid with golden-section refinement where it has a minimum. A target
that no number of tokens reaches gives inf, never an error in the middle of an array. Searches over teachers
stay inside the given range of L_T and say when they end at its edge.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import DataError
from distillaw.laws.base import Array, log_positive
from distillaw.laws.distillation import StudentLaw
from distillaw.laws.supervised import SupervisedLaw

_LOG_TOKENS = (np.log(1e5), np.log(1e22))
"""Tokens searched by the bisections; beyond them a target counts as out of reach."""


def tokens_for_loss(law: SupervisedLaw, *, params: ArrayLike, loss: ArrayLike) -> Array:
    """D at which ordinary training reaches a loss; inf where the size alone keeps it above.

        D = [ B / ( (L - E)^(1/gamma) - A / N^alpha ) ]^(1/beta)

    Args:
        law: the supervised law.
        params: N, > 0.
        loss: L to reach, nats per token.
    """
    n, target = log_positive("params", params), np.exp(log_positive("loss", loss))
    return _invert(target - law.E, law.A * np.exp(-law.alpha * n), law.B, law.beta, law.gamma)


def params_for_loss(law: SupervisedLaw, *, tokens: ArrayLike, loss: ArrayLike) -> Array:
    """N at which a model trained on D tokens reaches a loss; inf where the data alone keep it above."""
    d, target = log_positive("tokens", tokens), np.exp(log_positive("loss", loss))
    return _invert(target - law.E, law.B * np.exp(-law.beta * d), law.A, law.alpha, law.gamma)


def _invert(gap: Array, known: Array, coefficient: float, exponent: float, gamma: float) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = np.where(gap > 0, np.abs(gap) ** (1 / gamma), 0.0) - known
        return np.where(rest > 0, (coefficient / np.where(rest > 0, rest, 1.0)) ** (1 / exponent), np.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The best split of a compute budget between size and tokens."""

    params: Array
    tokens: Array
    loss: Array


def compute_optimal(
    law: SupervisedLaw, *, compute: ArrayLike, flop_per_param_token: float = 6.0
) -> Allocation:
    """N*, D* and the loss at a budget, under C = 6 N D.

        N* = ( alpha A / (beta B) )^(1/(alpha+beta)) (C/6)^(beta/(alpha+beta))      (gamma does not enter)

    Args:
        law: the supervised law.
        compute: C, FLOP.
        flop_per_param_token: 6 for training; the approximation leaves out attention and the head.
    """
    c = log_positive("compute", compute) - np.log(flop_per_param_token)
    total = law.alpha + law.beta
    n = (np.log(law.alpha * law.A) - np.log(law.beta * law.B) + law.beta * c) / total
    return Allocation(params=np.exp(n), tokens=np.exp(c - n), loss=np.exp(law.log_loss(n, c - n)))


@dataclass(frozen=True, slots=True, kw_only=True)
class BestTeacher:
    """The teacher loss that gives the best student."""

    teacher_loss: Array
    student_loss: Array
    at_edge: NDArray[np.bool_]
    """True where the best teacher is at an end of the range searched: a better one may lie beyond."""


def optimal_teacher_loss(
    law: StudentLaw, *, student_params: ArrayLike, student_tokens: ArrayLike, low: float | None = None,
    high: float | None = None, points: int = 65,
) -> BestTeacher:  # fmt: skip
    """L_T* that minimises the student's loss, over the range of teachers that the runs span.

    Args:
        law: a distillation law with its supervised law.
        student_params: N_S.
        student_tokens: D_S.
        low: best teacher loss considered; by default the lower end of the law's fitted range.
        high: worst teacher loss considered; by default the upper end.
        points: grid points before the golden-section refinement.

    Raises:
        DataError: no range given and the law states none.
    """
    low, high = _teacher_range(law, low, high)
    n, d, s = _student(law, student_params, student_tokens)
    grid = np.linspace(np.log(low), np.log(high), points).reshape((-1,) + (1,) * n.ndim)
    best = np.argmin(law.log_loss(n[None], d[None], grid, s[None]), axis=0)
    step = (np.log(high) - np.log(low)) / (points - 1)
    a = np.log(low) + np.maximum(best - 1, 0) * step
    b = np.log(low) + np.minimum(best + 1, points - 1) * step
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(40):
        left, right = b - golden * (b - a), a + golden * (b - a)
        lower = law.log_loss(n, d, left, s) < law.log_loss(n, d, right, s)
        a, b = np.where(lower, a, left), np.where(lower, right, b)
    t = (a + b) / 2
    width = np.log(high) - np.log(low)
    edge = (t - np.log(low) < 1e-3 * width) | (np.log(high) - t < 1e-3 * width)
    return BestTeacher(teacher_loss=np.exp(t), student_loss=np.exp(law.log_loss(n, d, t, s)), at_edge=edge)


def teacher_loss_for(
    law: StudentLaw, *, student_params: ArrayLike, student_tokens: ArrayLike, student_loss: ArrayLike,
    low: float | None = None, high: float | None = None,
) -> Array:  # fmt: skip
    """The worst (cheapest) teacher that brings a student to a loss; nan where none in the range does.

    The student's loss falls and then rises as the teacher improves, so up to two teachers give the same
    student; this is the weaker one.
    """
    low, high = _teacher_range(law, low, high)
    n, d, s = _student(law, student_params, student_tokens)
    target = log_positive("student_loss", student_loss)
    best = optimal_teacher_loss(
        law, student_params=student_params, student_tokens=student_tokens, low=low, high=high
    )
    n, d, s, target = np.broadcast_arrays(n, d, s, target)
    a, b = np.broadcast_to(np.log(best.teacher_loss), n.shape), np.full(n.shape, np.log(high))
    reached = np.broadcast_to(np.log(best.student_loss), n.shape) <= target
    everywhere = law.log_loss(n, d, b, s) <= target
    for _ in range(80):
        middle = (a + b) / 2
        good = law.log_loss(n, d, middle, s) <= target
        a, b = np.where(good, middle, a), np.where(good, b, middle)
    return np.where(reached, np.exp(np.where(everywhere, np.log(high), a)), np.nan)


def student_tokens_for_loss(
    law: StudentLaw, *, student_params: ArrayLike, teacher_loss: ArrayLike, student_loss: ArrayLike
) -> Array:
    """D_S at which distillation from a given teacher reaches a loss; inf where it never does.

    A student's loss falls with its tokens and ends at the teacher's or at the size's own limit.
    """
    n, t = log_positive("student_params", student_params), log_positive("teacher_loss", teacher_loss)
    n, t, target = np.broadcast_arrays(n, t, log_positive("student_loss", student_loss))
    supervised = _supervised(law)

    def above(d: Array) -> NDArray[np.bool_]:
        return law.log_loss(n, d, t, supervised.log_loss(n, d)) > target

    a, b = np.full(n.shape, _LOG_TOKENS[0]), np.full(n.shape, _LOG_TOKENS[1])
    never = above(b)
    for _ in range(80):
        middle = (a + b) / 2
        high = above(middle)
        a, b = np.where(high, middle, a), np.where(high, b, middle)
    return np.where(never, np.inf, np.exp(b))


def _teacher_range(law: StudentLaw, low: float | None, high: float | None) -> tuple[float, float]:
    stated = law.range.as_dict().get("teacher_loss")
    if stated is None and (low is None or high is None):
        raise DataError("this law states no range of teacher losses; pass low=... and high=...")
    low, high = (stated[0] if low is None else low), (stated[1] if high is None else high)  # type: ignore[index]
    floor = law.supervised.E if law.supervised is not None else 0.0
    low = max(low, floor * (1 + 1e-9))  # no teacher is below the irreducible loss
    if not 0 < low < high:
        raise DataError(f"teacher losses from {low:.4g} to {high:.4g}: the range is empty")
    return low, high


def _supervised(law: StudentLaw) -> SupervisedLaw:
    if law.supervised is None:
        raise DataError("this distillation law has no supervised law, which the search needs")
    return law.supervised


def _student(law: StudentLaw, params: ArrayLike, tokens: ArrayLike) -> tuple[Array, Array, Array]:
    n, d = np.broadcast_arrays(log_positive("student_params", params), log_positive("student_tokens", tokens))
    return n, d, _supervised(law).log_loss(n, d)
