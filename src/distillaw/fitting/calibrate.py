"""How wrong the law is where it has not been tried: the misspecification term of prediction intervals.

Bootstrap intervals alone cover about half of held-out large runs, because the misfit is systematic (spec
fitting.md section 7). So s_total^2 = s_param^2 + s_noise^2 + s_model(h)^2 with h the decades of compute
beyond the fitted runs, and s_model(h) = m0 + m1 h chosen from compute-ordered hold-outs within the data.
"""

from dataclasses import dataclass

import numpy as np

from distillaw.fitting.estimate import Estimate, Problem
from distillaw.laws.base import Array

DEFAULT_PER_DECADE = 0.01
"""s_model per decade of compute where the data cannot tell: about 1 % of L (spec fitting.md section 7.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """s_model(h) = at_edge + per_decade h, in ln L, and where it comes from."""

    at_edge: float = 0.0
    per_decade: float = DEFAULT_PER_DECADE
    num_held_out: int = 0
    """Held-out predictions it was calibrated on; 0 is the default."""
    max_decades: float = 0.0
    """Largest extrapolation that was tried; beyond it the term keeps growing and the prediction is flagged."""
    nominal: float = 0.9
    obtained: float | None = None
    """Share of the held-out runs inside their nominal intervals, with this term."""
    obtained_without: float | None = None
    """The same without it: parameters and noise alone."""

    def spread(self, decades: Array) -> Array:
        """s_model at h decades of compute beyond the fitted runs."""
        return self.at_edge + self.per_decade * np.maximum(decades, 0.0)

    @property
    def label(self) -> str:
        """What to say beside an interval."""
        if not self.num_held_out:
            return "default, not calibrated"
        return f"calibrated on {self.num_held_out} held-out runs"


def calibrate(
    problem: Problem, fitted: Estimate, compute: Array | None, *, level: float, rng: np.random.Generator
) -> Calibration:
    """The default term, 1 % of the loss per decade of compute."""
    return Calibration(nominal=level)
