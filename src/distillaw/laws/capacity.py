"""The law of capacity gap: the best teacher size is linear in the student size.

Zhang et al. 2023, arXiv:2311.07052 (v4 = ACL 2025, paper 1097): T* = 2.498 S - 11.498 in millions of
parameters, found with students pruned from the teacher they are distilled from. The distillation law
gives another answer for students from scratch (docs/gap.md): do not transfer the constant.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from distillaw.errors import DataError
from distillaw.laws.base import Array, Box, log_positive
from distillaw.quantities import format_count

_MILLION = 1e6
"""Unit of both sizes in the printed line."""


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
    of_cuts: bool = True
    """Students are cut out of the teacher, so that none is larger than it; others may have smaller teachers."""
    range: Box = field(default_factory=Box)
    """Where it was fitted, in `student_params` and, of a fit, in its one budget."""

    def best_teacher(self, *, student_params: ArrayLike) -> Array:
        """T*, parameters (not millions), of the best teacher for each student.

        Raises:
            DataError: a student outside `students`, where the line means nothing.
        """
        S = np.exp(log_positive("student_params", student_params))
        low, high = self.students
        if (bad := (S < low) | (S > high)).any():
            raise DataError(f"a student of {S[bad].flat[0]:.4g} parameters: {self.complaint(S[bad].flat[0])}")
        return (self.slope * S / _MILLION + self.intercept) * _MILLION

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

    @property
    def students(self) -> tuple[float, float]:
        """Student sizes, parameters, between which the line is evaluated: T* >= S of cuts, T* >= 0 of others."""
        slope = self.slope - self.of_cuts
        if slope == 0:
            return 0.0, float("inf") if self.intercept >= 0 else 0.0
        root = max(0.0, -self.intercept / slope) * _MILLION
        return (root, float("inf")) if slope > 0 else (0.0, root)

    def complaint(self, student_params: float) -> str:
        """Why the line says nothing of a student of this size; empty where it does."""
        low, high = self.students
        if low <= student_params <= high:
            return ""
        where = f"below {format_count(low)}" if student_params < low else f"above {format_count(high)}"
        why = "smaller than the student" if self.of_cuts else "less than nothing"
        return f"the line means nothing {where} parameters, where its best teacher is {why}"

    @property
    def coefficients(self) -> dict[str, float]:
        """Slope and intercept (millions)."""
        return {"slope": self.slope, "intercept": self.intercept}
