"""Kernel regression in a function space: the capacity gap in closed form.

Busbridge et al. 2025 (arXiv:2502.08606v2), appendix C. A target f* = sum_i alpha_i phi_i on an orthonormal basis; a
teacher of size m is the best function in the span of the first m basis functions with coefficient norm at most T; a
student of size n is the function in the span of the first n, with norm at most D <= T, nearest to the *teacher*. Both
errors are distances to f*. Infinite data, no training, no torch.

Symbols: p coefficients, m the teacher's size, n the student's, T and D the norm budgets (D is no token count here).

    distillaw toys kernel
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distillaw.errors import ConfigError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def draw_target(size: int, *, seed: int) -> Floats:
    """The published figure's target: independent coefficients, uniform on [-1, 1], shape (size,).

    Raises:
        ConfigError: size below 1, or a negative seed.
    """
    if size < 1:
        raise ConfigError(f"size: got {size}; the target needs at least one coefficient, e.g. 1000")
    if seed < 0:
        raise ConfigError(f"seed: got {seed}; give a whole number from 0")
    return np.random.default_rng(seed).uniform(-1.0, 1.0, size)


def teacher_error(alpha: npt.ArrayLike, *, m: npt.ArrayLike, teacher_budget: float) -> Floats:
    """Distance of the teacher of size m to the target.

        C(m)  = min(1, T / ||alpha_{1..m}||)
        e_T^2 = (C(m) - 1)^2 ||alpha_{1..m}||^2 + sum_{i>m} alpha_i^2

    Args:
        alpha: coefficients of the target, shape (p,), finite.
        m: teacher's size, 0 to p, any shape.
        teacher_budget: T > 0, largest norm of the teacher's coefficients.

    Returns:
        e_T >= 0, in units of alpha, shape of m.

    Raises:
        ConfigError: a size outside 0 to p, a budget that is not positive, coefficients that are not finite.
    Validity:
        Any T; without T < ||alpha|| the budget never binds and nothing is left to see.
    Source:
        arXiv:2502.08606v2, appendix C; docs/toys.md.
    """
    energy, tail = _energies(alpha)
    sizes = _sizes(m, len(energy) - 1, "m")
    _check_budgets(teacher_budget, teacher_budget)
    return _distance(_scale(teacher_budget, energy[sizes]), energy[sizes], tail[sizes])


def student_error(
    alpha: npt.ArrayLike, *, m: npt.ArrayLike, n: npt.ArrayLike, teacher_budget: float, student_budget: float
) -> Floats:
    """Distance to the target of a student of size n that copies a teacher of size m.

        k     = min(m, n)
        Q     = min(1, D / (C(m) ||alpha_{1..k}||))
        e_S^2 = (C(m) Q - 1)^2 ||alpha_{1..k}||^2 + sum_{i>k} alpha_i^2

    Args:
        alpha: coefficients of the target, shape (p,), finite.
        m: teacher's size, 0 to p; n: student's size, 0 to p; broadcast against each other.
        teacher_budget: T.
        student_budget: D, 0 < D <= T.

    Returns:
        e_S >= 0, in units of alpha, the broadcast shape of m and n.

    Raises:
        ConfigError: as `teacher_error`, or D > T.
    Source:
        arXiv:2502.08606v2, appendix C; docs/toys.md.
    Differs from source:
        the proof's two cases of Q are interchanged in print; the formula above is the projection it means.
    """
    energy, tail = _energies(alpha)
    teachers, students = _sizes(m, len(energy) - 1, "m"), _sizes(n, len(energy) - 1, "n")
    _check_budgets(teacher_budget, student_budget)
    k = np.minimum(teachers, students)
    C = _scale(teacher_budget, energy[teachers])
    Q = _scale(student_budget, C**2 * energy[k])
    return _distance(C * Q, energy[k], tail[k])


def flat_until(alpha: npt.ArrayLike, *, n: npt.ArrayLike, teacher_budget: float, student_budget: float) -> Ints:
    """m*: the largest teacher that is as good for a student of size n as the best one, m = n.

    The student's error is constant for n <= m <= m* and rises after it:

        m* = max { m : ||alpha_{1..m}|| <= T max(1, ||alpha_{1..n}|| / D) }

    For independent coefficients of equal variance and a student whose budget binds, m* is about (T / D)^2 n.

    Args:
        alpha: coefficients, shape (p,); n: student's size, 0 to p, any shape; budgets as in `student_error`.

    Returns:
        m*, shape of n; p where the error never rises.

    Raises:
        ConfigError: as `student_error`.
    Source:
        docs/toys.md (ours; the paper shows the rise, not where it begins).
    """
    energy, _ = _energies(alpha)
    students = _sizes(n, len(energy) - 1, "n")
    _check_budgets(teacher_budget, student_budget)
    limit = teacher_budget**2 * np.maximum(1.0, energy[students] / student_budget**2)
    reached = np.searchsorted(energy, limit, side="right") - 1
    return np.maximum(reached, students)  # at D = T rounding may put the limit just below ||alpha_{1..n}||^2


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCurves:
    """Every teacher against a few students: what the published figure shows."""

    alpha: Floats
    """Target, shape (p,)."""
    teacher_budget: float
    student_budget: float
    m: Ints
    """Teachers' sizes 1 to p, shape (p,)."""
    n: Ints
    """Students' sizes, shape (students,)."""
    flat_until: Ints
    """m* of each student, shape (students,)."""
    teacher_error: Floats
    """Shape (p,)."""
    student_error: Floats
    """Shape (students, p)."""


def make_curves(
    alpha: npt.ArrayLike, *, students: npt.ArrayLike, teacher_budget: float, student_budget: float
) -> KernelCurves:
    """Errors of students of the given sizes under teachers of every size.

    Args:
        alpha: coefficients, shape (p,); students: sizes n, 1 to p, shape (students,); budgets T and D.

    Raises:
        ConfigError: as `student_error`; no student; a student of size 0; T not below ||alpha||.
    """
    target = np.asarray(alpha, dtype=float)
    sizes = _sizes(students, len(target), "students")
    if sizes.ndim != 1 or not len(sizes) or sizes.min() < 1:
        raise ConfigError(f"students: got {sizes.tolist()}; give at least one size from 1 to {len(target)}")
    norm = float(np.linalg.norm(target))
    if teacher_budget >= norm:
        raise ConfigError(
            f"teacher_budget {teacher_budget:g}: the target's norm is {norm:.4g}, so the largest teacher would reach"
            " it and no budget would bind; give a teacher budget below that norm"
        )
    m = np.arange(1, len(target) + 1)
    budgets = {"teacher_budget": teacher_budget, "student_budget": student_budget}
    return KernelCurves(
        alpha=target,
        **budgets,
        m=m,
        n=sizes,
        flat_until=flat_until(target, n=sizes, **budgets),
        teacher_error=teacher_error(target, m=m, teacher_budget=teacher_budget),
        student_error=student_error(target, m=m, n=sizes[:, None], **budgets),
    )


def _energies(alpha: npt.ArrayLike) -> tuple[Floats, Floats]:
    """||alpha_{1..j}||^2 and the rest of ||alpha||^2, for j = 0 to p."""
    target = np.asarray(alpha, dtype=float)
    if target.ndim != 1 or not np.isfinite(target).all():
        raise ConfigError(f"alpha: got shape {target.shape}; give one row of finite coefficients")
    energy = np.concatenate([[0.0], np.cumsum(target**2)])
    return energy, energy[-1] - energy


def _scale(budget: float, energy: Floats) -> Floats:
    """The factor that brings a vector of this squared norm into the ball: min(1, budget / norm)."""
    with np.errstate(divide="ignore"):
        return np.minimum(1.0, budget / np.sqrt(energy))


def _distance(scale: Floats, energy: Floats, tail: Floats) -> Floats:
    return np.sqrt((scale - 1.0) ** 2 * energy + tail)


def _sizes(values: npt.ArrayLike, largest: int, name: str) -> Ints:
    sizes = np.asarray(values)
    whole = sizes.astype(np.int64)
    if (whole != sizes).any() or (whole < 0).any() or (whole > largest).any():
        raise ConfigError(f"{name}: got {sizes.tolist()}; sizes are whole numbers from 0 to {largest}")
    return whole


def _check_budgets(teacher_budget: float, student_budget: float) -> None:
    for name, budget in (("teacher_budget", teacher_budget), ("student_budget", student_budget)):
        if not (np.isfinite(budget) and budget > 0):
            raise ConfigError(f"{name}: got {budget:g}; a norm budget is a positive number")
    if student_budget > teacher_budget:
        raise ConfigError(
            f"student_budget {student_budget:g} is above teacher_budget {teacher_budget:g}; the student is the smaller "
            "model: give D <= T"
        )
