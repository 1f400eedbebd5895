"""Every search there is, on whole arrays: where a condition ends, and the lowest point of curves and of surfaces.

    last_true         bisection of a monotone condition
    lowest            the lowest points of many curves: a grid, then golden section
    lowest_on_grids   that of one curve, of which a grid costs as little as a point: ever finer grids
    deepest_valleys   of many surfaces on a grid
    newton            from there to the bottom of each

Numerics only, no equation: laws and plans call these where there is no closed form. A grid finds the right valley (a
distillation law has two branches; weak and strong teachers are two valleys), refinement the bottom of it.
"""

from collections.abc import Callable

import numpy as np

from distillaw.laws.base import Array, Indices, Mask

LOG_TOKENS = (float(np.log(1e5)), float(np.log(1e22)))
"""Tokens searched by the laws; a target that is not reached at the upper end counts as out of reach."""

_GOLDEN = (np.sqrt(5) - 1) / 2
_BISECTIONS, _GOLDEN_STEPS = 80, 40
"""To the last digit of a float, and to 4e-9 of a cell of the grid: as far as a flat bottom can be told."""


Surface = Callable[[Array, Array, Indices], Array]
"""Values at (x, y) of the surfaces with these indices; x and y have the surfaces on their last axis."""

STENCIL = 2e-3
"""Half width of the nine points. Central differences are then good to 1e-7, rounding to 1e-10 of the curvature."""
_STEPS, _LONGEST = 60, 1.0
"""Of Newton: at most so many, none longer than an e-fold."""
_OFFSETS = np.array([(i, j) for i in (-1.0, 0.0, 1.0) for j in (-1.0, 0.0, 1.0)])


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


def lowest_on_grids(
    curve: Callable[[Array], Array], low: float, high: float, *, points: int = 33, zooms: int = 5
) -> float:
    """The lowest point of one curve with several valleys: a grid, then ever finer grids around its best point."""
    best = low
    for _ in range(zooms):
        grid = np.linspace(low, high, points)
        i = int(np.argmin(curve(grid)))
        best, low, high = float(grid[i]), float(grid[max(i - 1, 0)]), float(grid[min(i + 1, points - 1)])
    return best


def deepest_valleys(values: Array, *, count: int) -> tuple[Indices, Indices]:
    """Grid points that are not above any of their eight neighbours, the lowest first.

    Args:
        values: shape (a, b, k): k surfaces on a grid of a x b points; inf where there is none.
        count: valleys per surface.

    Returns:
        Indices along the first and second axis, each of shape (count, k). Where a surface has fewer valleys, the
        next best points of its grid stand in.
    """
    a, b, k = values.shape
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), constant_values=np.inf)
    around = [padded[1 + i : 1 + i + a, 1 + j : 1 + j + b] for i, j in _OFFSETS.astype(int) if (i, j) != (0, 0)]
    is_valley = values <= np.minimum.reduce(around)
    # valleys first, each group by height: heights of the others are lifted above every valley
    finite = np.where(np.isfinite(values), values, np.finfo(float).max / 4)
    ranked = np.where(is_valley, finite, finite + np.finfo(float).max / 2).reshape(a * b, k)
    found = np.argpartition(ranked, count - 1, axis=0)[:count]
    return found // b, found % b


def newton(
    surface: Surface, x: Array, y: Array, *, is_lost: Callable[[Array, Array, Indices], Mask]
) -> tuple[Array, Array, Array]:
    """Newton's method from one start per surface; a step is taken only if it goes down.

    Args:
        surface: the function; smooth near its lowest points. It may return inf.
        x: starts, shape (k,).
        y: starts, shape (k,).
        is_lost: of (x, y, indices): where a search has left its domain and is given up.

    Returns:
        x, y and the values there, each of shape (k,); the value is inf for a search given up.
    """
    x, y = x.copy(), y.copy()
    radius = np.full(x.shape, _LONGEST)
    near = _stencil(surface, x, y, np.arange(len(x)))  # nine points cost hardly more than the one in the middle
    value = near[1, 1]
    active = np.flatnonzero(np.isfinite(value))
    for _ in range(_STEPS):
        if not len(active):
            break
        dx, dy, expected = _step(near[:, :, active], radius[active])
        there = _stencil(surface, x[active] + dx, y[active] + dy, active)
        lower = there[1, 1] < value[active]
        kept = active[lower]
        x[kept], y[kept], near[:, :, kept] = x[kept] + dx[lower], y[kept] + dy[lower], there[:, :, lower]
        length = np.hypot(dx, dy)
        radius[active] = np.where(lower, np.minimum(_LONGEST, np.maximum(radius[active], 2 * length)), length / 4)
        lost = is_lost(x[active], y[active], active)
        value[active[lost]] = np.inf
        done = lost | (expected < 1e-15 * np.abs(value[active])) | (radius[active] < 1e-7)
        active = active[~done]
    return x, y, value


def _stencil(surface: Surface, x: Array, y: Array, index: Indices) -> Array:
    """The function on the points and their eight neighbours, shape (3, 3, k)."""
    i, j = _OFFSETS[:, :1], _OFFSETS[:, 1:]
    return surface(x + STENCIL * i, y + STENCIL * j, index).reshape(3, 3, len(index))


def _step(f: Array, radius: Array) -> tuple[Array, Array, Array]:
    """The step to the bottom of the quadratic through nine points, no longer than the radius, and what it expects."""
    h = STENCIL
    is_whole = np.isfinite(f).all((0, 1))
    f = np.where(is_whole, f, f[1, 1])  # beside the domain: no slope known, and the search ends where it is
    gx, gy = (f[2, 1] - f[0, 1]) / (2 * h), (f[1, 2] - f[1, 0]) / (2 * h)
    a, c = (f[2, 1] - 2 * f[1, 1] + f[0, 1]) / h**2, (f[1, 2] - 2 * f[1, 1] + f[1, 0]) / h**2
    b = (f[2, 2] - f[2, 0] - f[0, 2] + f[0, 0]) / (4 * h**2)
    hessian = np.stack([np.stack([a, b], -1), np.stack([b, c], -1)], -1)
    curvature, axes = np.linalg.eigh(hessian)
    slope = axes[:, 0, :] * gx[:, None] + axes[:, 1, :] * gy[:, None]
    floor = 1e-9 * np.abs(f[1, 1])[:, None]
    along = -slope / np.maximum(np.abs(curvature), floor)
    along *= np.minimum(1.0, radius / np.maximum(np.hypot(*along.T), 1e-300))[:, None]
    step = np.einsum("kij,kj->ki", axes, along)
    expected = -np.sum(slope * along / 2, axis=1)
    return step[:, 0], step[:, 1], expected
