"""The misspecification term of a prediction's interval; how it is found is in calibrate.py.

A prediction needs the term alone, so nothing of the fitter is imported here.
"""

from dataclasses import dataclass

import numpy as np

from distillaw.laws.base import Array

DEFAULT_AT_EDGE, DEFAULT_PER_DECADE = 0.002, 0.01
"""s_model where the data cannot tell: about 1 % of L per decade of compute (docs/fitting.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """s_model(h) = at_edge + per_decade h, in ln L, and where it comes from."""

    at_edge: float = DEFAULT_AT_EDGE
    per_decade: float = DEFAULT_PER_DECADE
    num_held_out: int = 0
    """Held-out rows it was calibrated on; 0 is the default."""
    max_decades: float = 0.0
    """Largest extrapolation that was tried; beyond it the term keeps growing and the prediction is flagged."""
    nominal: float = 0.9
    obtained: float | None = None
    """Share of the held-out rows inside their nominal intervals, with this term."""
    obtained_without: float | None = None
    """The same without it: parameters and noise alone."""
    error: float | None = None
    """Root mean square error of the held-out predictions, in ln L."""

    def spread(self, decades: Array) -> Array:
        """s_model at h decades of compute beyond the fitted runs."""
        return self.at_edge + self.per_decade * np.maximum(decades, 0.0)

    @property
    def label(self) -> str:
        """What to say beside an interval."""
        if not self.num_held_out:
            return "default, not calibrated"
        return f"calibrated on {self.num_held_out} held-out predictions up to {self.max_decades:.1f} decades"
