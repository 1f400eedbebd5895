"""The points behind a law's intervals, and intervals: the same for every law and every question, and so the page's too.

    u_id = (i a^d mod R) / R,    i = 0 ... R-1 points,    d = 0, 1, 2 ... coordinates

A Korobov lattice: all its coordinates take each of R values once, and any few of them fill their cube evenly. What is
averaged over it errs less than over 20,000 pseudo-random draws (`benchmarks/verdict/draws.py`), and a reader of another
language needs two integers and two short tables for it, no generator.
"""

from dataclasses import asdict, dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from distillaw.laws.base import Array
from distillaw.planning.gains import LAW_DOF, LAW_SCALE

POINTS = 4093
"""R, prime: the points of a full-period congruential generator and zero are a lattice."""
MULTIPLIER = 352
"""a. By the spectral test 0.64 to 0.78 of the bound in each of 2 to 8 dimensions (tests/planning/test_draws.py
computes the first); recalled as one of L'Ecuyer 1999, Math. Comp. 68:249, Table 2."""
LEVELS = 1024
"""Quantiles that a variate is rounded to: a thousandth of a probability, far below what the laws know."""
MEMBER, TAIL, SHARED, PRETRAIN, OPTIONS = range(5)
"""Coordinates: which law of an ensemble, how heavy the tail, the discrepancy that distilled students share, that of
pretraining; from OPTIONS on two for each option: its part of the law's discrepancy, and its own."""


@cache
def _place(coordinate: int) -> NDArray[np.int64]:
    """R u of one coordinate, moved by a half so that no point lies in a corner, shape (R,)."""
    step = pow(MULTIPLIER, coordinate, POINTS)
    return (np.arange(POINTS) * step + POINTS // 2) % POINTS


def members(count: int) -> NDArray[np.int64]:
    """Indices of `count` laws, each as often as any other up to one, shape (R,)."""
    return _place(MEMBER) * count // POINTS


@cache
def normals(coordinate: int) -> Array:
    """Standard normal variates of one coordinate, shape (R,)."""
    return normal_levels()[_place(coordinate) * LEVELS // POINTS]


@cache
def tails() -> Array:
    """Scale of a law's discrepancy over its standard deviation: normal times this is t with LAW_DOF, shape (R,)."""
    return tail_levels()[_place(TAIL) * LEVELS // POINTS]


@cache
def normal_levels() -> Array:
    """Quantiles of the standard normal distribution, to the digits that the page is given, shape (LEVELS,)."""
    quantile = NormalDist().inv_cdf
    return np.array([round(quantile((k + 0.5) / LEVELS), 6) for k in range(LEVELS)])


@cache
def tail_levels() -> Array:
    """LAW_SCALE sqrt(dof / chi-square) at the same quantiles, shape (LEVELS,)."""
    assert LAW_DOF == 4  # whose distribution has a closed form
    x = np.linspace(0, 60, 60_001)
    below = 1 - (1 + x / 2) * np.exp(-x / 2)
    chi_square = np.interp((np.arange(LEVELS) + 0.5) / LEVELS, below, x)
    return np.round(LAW_SCALE * np.sqrt(LAW_DOF / chi_square), 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its interval."""

    mean: float
    lower: float
    upper: float

    @classmethod
    def of(cls, draws: np.ndarray, level: float) -> "Interval":
        """Mean and central interval of draws."""
        tail = 50 * (1 - level)
        lower, upper = np.percentile(draws, [tail, 100 - tail])
        return cls(mean=float(draws.mean()), lower=float(lower), upper=float(upper))

    def to_json(self) -> dict[str, float]:
        """`{mean, lower, upper}`."""
        return asdict(self)
