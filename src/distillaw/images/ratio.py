"""Fieller's interval of a ratio of two estimates that may have either sign (Fieller 1954, JRSS B 16:175)."""

import math

import numpy as np


def share_interval(top: float, bottom: float, cov: np.ndarray, t: float) -> tuple[float, float] | None:
    """All ratios r with (top - r bottom)^2 <= t^2 var(top - r bottom), if they are an interval.

    Args:
        top: the numerator's estimate.
        bottom: the denominator's.
        cov: their covariance, in this order, shape (2, 2).
        t: quantile of Student's t.

    Returns:
        Both ends; None where the denominator is not distinct from zero, and the set has no end.
    """
    a = bottom**2 - t**2 * float(cov[1, 1])
    b = top * bottom - t**2 * float(cov[0, 1])
    c = top**2 - t**2 * float(cov[0, 0])
    if a <= 0:
        return None
    root = math.sqrt(max(0.0, b * b - a * c))
    return (b - root) / a, (b + root) / a
