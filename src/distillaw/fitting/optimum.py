"""The best teacher of each student, from its losses with teachers of several sizes: a local fit in t = ln T.

    L(t) = m + h g(t - t*),    g(x) = (exp(-k x) + k x - 1) / k^2,    h >= 0

A parabola for k = 0. Gaining a power of T while the bottom rises slowly gives k > 0, which the curves of the
distillation law have (about 1.5 near T = 7 S); a parabola through such a curve has its bottom 1.5 times too high. One k
serves all students of a fit and is averaged over, since one student's runs do not tell it; level, depth and t* are each
student's own. With t* and k held, the rest is linear least squares, so that the sum of squares over t* is exact: an
interval from it (Fieller's, for k = 0) is open where the runs do not bound the optimum. Runs of one seed share a level,
so that what a seed does to all teachers of a student cancels. Teachers far from the bottom fade out (tricube weights;
Cleveland 1979, JASA 74:829), since no curve is a U of this form everywhere. The width of the window, and how often the
intervals hold: `benchmarks/capacity_gap/simulated.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillaw.laws.base import Array

SKEWS = np.arange(-0.5, 3.1, 0.25)
"""k; curves of `surrogate-s1` to `-s3` and `busbridge2025` have -0.3 to 1.6."""
WINDOW = float(np.log(8))
"""Distance in ln T from the bottom at which a teacher no longer counts; the benchmark compares others."""
FEWEST_TEACHERS = 4
"""Sizes that a window holds at least: one more than level, depth and t* need."""
STEP = 0.04
"""Of the grid in ln T: an optimum is not told closer than 4 %."""
_PAD = float(np.log(8))
"""How far beyond the teachers tried an optimum is looked for; what lies there is a bound, not a number."""
_ROUNDS = 2
"""Of placing the windows."""
_SMALLEST_NOISE = 1e-6
"""Nats, below what a float32 loss resolves: curves without noise have an interval of one step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The runs of one student on one number of tokens."""

    params: float
    tokens: float
    t: Array
    """ln of the teacher's size, (n,)."""
    loss: Array
    block: NDArray[np.int64]
    """Runs that share a level: those of one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiles:
    """How well each t* fits each cell, for each k."""

    grid: Array
    """t*, (G,)."""
    skews: Array
    """k, (K,)."""
    squares: Array
    """Weighted sum of squares, scaled so that its rise over noise^2 is chi-squared, (cells, K, G)."""
    depth: Array
    """h at its best, same shape; 0 where no U with its bottom there fits."""
    weights: Sequence[Array]
    """Of each cell's runs, (n,): 0 outside its window."""
    noise: float
    """Standard deviation of a run about its curve, nats."""
    dof: float
    """Degrees of freedom behind it; infinite where it was given."""


def measure(cells: Sequence[Cell], *, noise: float | None = None) -> Profiles:
    """Profiles of students, with windows about the bottoms found.

    Args:
        cells: students with three teachers or more.
        noise: of a run, for cells that leave no degree of freedom to measure it.
    """
    every = np.concatenate([cell.t for cell in cells])
    grid = np.arange(every.min() - _PAD, every.max() + _PAD, STEP)
    weights = [np.ones(len(cell.t)) for cell in cells]
    for _ in range(_ROUNDS):
        squares, _ = _scan(cells, weights, grid)
        best = _best_skew(squares)
        tried = [
            np.where((grid >= c.t.min()) & (grid <= c.t.max()), s[best], np.inf)
            for c, s in zip(cells, squares, strict=True)
        ]
        weights = [_tricube(c.t - grid[row.argmin()]) for c, row in zip(cells, tried, strict=True)]
    squares, depth = _scan(cells, weights, grid)
    best = _best_skew(squares)
    spare, gain = np.transpose(
        [
            _spare(cell, w, float(grid[rows[best].argmin()]), float(SKEWS[best]))
            for cell, w, rows in zip(cells, weights, squares, strict=True)
        ]
    )
    dof = spare.sum() - 1  # for k
    if dof < 1:
        found = float("nan") if noise is None else max(noise, _SMALLEST_NOISE)
        dof = 0.0 if noise is None else float("inf")
    else:
        found = max(float(np.sqrt(squares[:, best].min(axis=-1).sum() / dof)), _SMALLEST_NOISE)
    return Profiles(
        grid=grid,
        skews=SKEWS,
        squares=squares * gain[:, None, None],
        depth=depth,
        weights=weights,
        noise=found,
        dof=float(dof),
    )


def shape(x: Array, skew: float) -> Array:
    """g, a U with its bottom at 0 and g'' = 1 there."""
    return x * x / 2 if abs(skew) < 1e-6 else (np.exp(-skew * x) + skew * x - 1) / skew**2


def _scan(cells: Sequence[Cell], weights: Sequence[Array], grid: Array) -> tuple[Array, Array]:
    """Sum of squares and depth at every t* and k, (cells, K, G) each."""
    squares, depths = [], []
    for cell, weight in zip(cells, weights, strict=True):
        within = np.eye(len(cell.t))
        for block in np.unique(cell.block):
            member = cell.block == block
            if (total := weight[member].sum()) > 0:
                within[np.ix_(member, member)] -= weight[member] / total
        left = within @ cell.loss
        x = cell.t - grid[:, None]
        g = np.stack([shape(x, skew) for skew in SKEWS]) @ within.T
        along = (g * (weight * left)).sum(axis=-1)
        depths.append(np.maximum(along, 0.0) / np.maximum((g * g * weight).sum(axis=-1), 1e-30))
        squares.append(np.maximum((weight * left**2).sum() - depths[-1] * along, 0.0))
    return np.stack(squares), np.stack(depths)


def _best_skew(squares: Array) -> int:
    return int(squares.min(axis=-1).sum(axis=0).argmin())


def _tricube(x: Array) -> Array:
    """Weights by the distance from the bottom; the window widens until it holds `FEWEST_TEACHERS` sizes."""
    away = np.sort(np.abs(np.unique(x)))
    width = max(WINDOW, 1.2 * away[min(FEWEST_TEACHERS, len(away)) - 1])
    return np.clip(1 - (np.abs(x) / width) ** 3, 0.0, None) ** 3


def _spare(cell: Cell, weight: Array, at: float, skew: float) -> tuple[float, float]:
    """Degrees of freedom that a weighted fit of level, depth and t* leaves, E[sum of squares] / noise^2; and its gain.

    The gain is the variance of t* read off the weighted squares over its own: weights that fade out are no variances.
    """
    x = cell.t - at
    slope = x if abs(skew) < 1e-6 else (1 - np.exp(-skew * x)) / skew
    levels = (cell.block[:, None] == np.unique(cell.block)).astype(float)
    design = np.column_stack([levels, shape(x, skew), slope])
    inverse = np.linalg.pinv((design.T * weight) @ design)
    middle = inverse @ ((design.T * weight**2) @ design)
    own = (middle @ inverse)[-1, -1]
    spare = max(0.0, float(weight.sum() - np.trace(middle)))
    return spare, float(inverse[-1, -1] / own) if own > 0 else 1.0
