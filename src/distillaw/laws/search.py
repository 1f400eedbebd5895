"""One-dimensional searches on whole arrays: bisection of a monotone condition, the lowest point of a curve.

Numerics only, no equation: the laws call these for the inversions that have no closed form. A grid finds the
right valley (a distillation law has two branches), golden section the bottom of it.
"""

from collections.abc import Callable

import numpy as np

from distillaw.laws.base import Array, Mask

LOG_TOKENS = (float(np.log(1e5)), float(np.log(1e22)))
"""Tokens searched by the laws; a target that is not reached at the upper end counts as out of reach."""

_GOLDEN = (np.sqrt(5) - 1) / 2
_BISECTIONS, _GOLDEN_STEPS = 80, 40


def last_true(condition: Callable[[Array], Mask], *, low: Array, high: Array) -> Array:
    """Where a condition that holds from `low` up to some point stops holding, before `high`.

    Args:
        condition: of x, elementwise; taken to be true at `low` and false at `high`, with one change.
        low: start, any shape.
        high: end, same shape.
    """
    a, b = low, high
    for _ in range(_BISECTIONS):
        middle = (a + b) / 2
        holds = condition(middle)
        a, b = np.where(holds, middle, a), np.where(holds, b, middle)
    return a


def lowest(curve: Callable[[Array], Array], *, low: float, high: float, ndim: int, points: int = 65) -> Array:
    """The x in [low, high] at which a curve is lowest, for each entry of an array of curves.

    Args:
        curve: of x; x has one axis more than the result on the grid, the shape of the result afterwards.
        low: left end.
        high: right end.
        ndim: number of axes of the result.
        points: grid points; a valley narrower than one cell of the grid is missed.
    """
    grid = np.linspace(low, high, points).reshape((-1,) + (1,) * ndim)
    best = np.argmin(curve(grid), axis=0)
    step = (high - low) / (points - 1)
    a, b = low + np.maximum(best - 1, 0) * step, low + np.minimum(best + 1, points - 1) * step
    for _ in range(_GOLDEN_STEPS):
        left, right = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
        is_left = curve(left) < curve(right)
        a, b = np.where(is_left, a, left), np.where(is_left, right, b)
    return (a + b) / 2
