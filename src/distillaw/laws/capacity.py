"""The law of capacity gap: the best teacher size is linear in the student size.

Zhang et al. 2023, arXiv:2311.07052 (v4 = ACL 2025, paper 1097): T* = 2.498 S - 11.498 in millions of
parameters, found with students pruned from the teacher they are distilled from. The distillation law
gives another answer for students from scratch (docs/gap.md): do not transfer the constant.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import DataError
from distillaw.laws.base import Array, Box, log_positive

_MILLION = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityGapLine:
    """Best teacher size as a line in the student size, both in millions of parameters.

        T* = slope S + intercept

    Example:
        >>> line = CapacityGapLine(slope=2.498, intercept=-11.498)
        >>> round(float(line.best_teacher(student_params=1e9)) / 1e9, 3)
        2.487
    """

    slope: float
    intercept: float = 0.0
    """Millions of parameters; 0 for a constant ratio T* = slope S."""
    range: Box = field(default_factory=Box)
    """Where it was fitted, in `student_params`."""

    def best_teacher(self, *, student_params: ArrayLike) -> Array:
        """T*, parameters (not millions), of the best teacher for each student.

        Raises:
            DataError: the line gives a teacher smaller than the student there, where it means nothing.
        """
        S = np.exp(log_positive("student_params", student_params))
        T = (self.slope * S / _MILLION + self.intercept) * _MILLION
        if (T < S).any():
            raise DataError(
                f"a student of {S[T < S].flat[0]:.4g} parameters: the line gives a best teacher of "
                f"{T[T < S].flat[0]:.4g} parameters, smaller than the student. It means nothing below "
                f"{self.smallest_student:.4g} parameters."
            )
        return T

    __call__ = best_teacher

    def best_student(self, *, teacher_params: ArrayLike) -> Array:
        """S, parameters, for which a given teacher is the best one: the line inverted."""
        T = np.exp(log_positive("teacher_params", teacher_params))
        S = (T / _MILLION - self.intercept) / self.slope * _MILLION
        if (S <= 0).any():
            raise DataError(
                f"a teacher of {T[S <= 0].flat[0]:.4g} parameters: no positive student size lies on the line there"
            )
        return S

    def gradient(self, *, student_params: ArrayLike) -> dict[str, Array]:
        """Derivatives of T* (parameters) by the student's size, by the slope and by the intercept (millions)."""
        S = np.exp(log_positive("student_params", student_params))
        return {
            "student_params": np.full_like(S, self.slope),
            "slope": S,
            "intercept": np.full_like(S, _MILLION),
        }

    @property
    def smallest_student(self) -> float:
        """The student size at which T* = S, parameters; below it the line is not evaluated."""
        if self.slope <= 1:
            return 0.0 if self.intercept >= 0 else float("inf")
        return max(0.0, -self.intercept / (self.slope - 1)) * _MILLION

    def inside(self, *, student_params: ArrayLike) -> NDArray[np.bool_]:
        """True where the student size lies in the fitted range."""
        return self.range.inside({"student_params": student_params})

    @property
    def coefficients(self) -> dict[str, float]:
        """Slope and intercept (millions)."""
        return {"slope": self.slope, "intercept": self.intercept}
