"""Scores of forecasts: pure functions of predicted and measured numbers.

Proper scores as in Gneiting & Raftery 2007 (J. Am. Stat. Assoc. 102:359): the interval score rewards narrow
intervals that hold, the Brier score probabilities that are right.
"""

import math
from statistics import NormalDist


def wilson(hits: int, count: int, *, level: float = 0.9) -> tuple[float, float]:
    """Interval of a share from independent trials (Wilson 1927, J. Am. Stat. Assoc. 22:209).

    Forecasts of one law err together, so the true interval is wider.

    Example:
        >>> low, high = wilson(9, 10, level=0.95)
        >>> round(low, 3), round(high, 3)
        (0.596, 0.982)
    """
    if not count:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = hits / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def interval_score(lower: float, upper: float, value: float, *, level: float) -> float:
    """Width plus a penalty of 2 / (1 - level) for every unit that the value lies outside (Winkler 1972).

    Example:
        >>> round(interval_score(2.0, 3.0, 3.1, level=0.9), 6)
        3.0
    """
    return (upper - lower) + 2 / (1 - level) * (max(lower - value, 0.0) + max(value - upper, 0.0))


def surprise(mean: float, lower: float, upper: float, value: float, *, level: float) -> float:
    """Z: distance of the value from the mean in standard deviations of the side of the interval it lies on."""
    half = upper - mean if value >= mean else mean - lower
    sd = half / NormalDist().inv_cdf(0.5 + level / 2)
    return (value - mean) / sd if sd > 0 else math.copysign(math.inf, value - mean) if value != mean else 0.0


def brier(probability: float, came: bool) -> float:
    """Square of what a probability was off: 0 is perfect, 0.25 is what a coin gets.

    Example:
        >>> round(brier(0.9, True), 6)
        0.01
    """
    return (probability - float(came)) ** 2
