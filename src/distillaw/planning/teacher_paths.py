"""Lines of teachers (ln N_T, ln D_T) along which a search for the best one needs a single coordinate.

    cheapest      for every loss, the teacher that reaches it with the least compute (delta_Lgt = delta_Pre = 0)
    overtrained   the most tokens allowed, else the smallest size (delta_Pre = 0: teacher training is free)
    edges         the edges of the whole box, for plans that end at a bound

The searches of `optimum_search.py` walk along them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distillaw.laws.base import Array
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.search import last_true

Transform = Callable[[Array], Array]

_SPACING = 0.25
"""Distance of the vertices of a path in e-folds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The teachers allowed: natural logarithms of the smallest and largest size and tokens."""

    params: tuple[float, float]
    tokens: tuple[float, float]

    @property
    def has_inside(self) -> bool:
        """False if size or tokens are given, so that every teacher lies on the edge."""
        return self.params[0] < self.params[1] and self.tokens[0] < self.tokens[1]


@dataclass(frozen=True, slots=True)
class Path:
    """A polygon of teachers; the coordinate along it counts vertices, close enough to be the grid of a search."""

    n: Array
    """Ln N_T of the vertices."""
    d: Array
    """Ln D_T of the vertices."""

    def at(self, x: Array) -> tuple[Array, Array]:
        """Ln N_T and ln D_T at a coordinate between 0 and `end`."""
        vertices = np.arange(len(self.n))
        return np.interp(x, vertices, self.n), np.interp(x, vertices, self.d)

    @property
    def end(self) -> float:
        """The coordinate of the last vertex."""
        return float(len(self.n) - 1)


@dataclass(frozen=True, slots=True)
class Edges:
    """Straight lines of teachers, side by side; the coordinate along each goes from 0 to 1."""

    start: Array
    """Ln N_T and ln D_T where each begins, shape (2, lines, 1)."""
    stop: Array

    @property
    def count(self) -> int:
        """How many lines there are."""
        return self.start.shape[1]


def agree_on_teachers(ensemble: LawEnsemble) -> bool:
    """True if all laws have one supervised half, so that a teacher's loss stands for its size and tokens."""
    return all(np.all(values == values[0]) for values in ensemble.plain.values())


def edges(bounds: Bounds) -> Edges:
    """All four edges of the box, those of `overtrained` first."""
    (small, large), (few, many) = bounds.params, bounds.tokens
    start = [(small, few), (small, many), (small, few), (large, few)]
    stop = [(small, many), (large, many), (large, few), (large, many)]
    return Edges(np.array(start).T[..., None], np.array(stop).T[..., None])


def overtrained(bounds: Bounds) -> Edges:
    """The smallest teacher on any tokens, and any teacher on the most tokens."""
    whole = edges(bounds)
    return Edges(whole.start[:, :2], whole.stop[:, :2])


def cheapest(
    ensemble: LawEnsemble, bounds: Bounds, *, forward: Transform, effective_tokens: Transform | None
) -> Path:
    """Compute-optimal teachers of growing compute; where a bound is met, along the bound.

        alpha A / N^alpha = (d ln F / d ln N) (d ln D' / d ln D) beta B / D'^beta

    Laws that disagree give each its own tokens for a size; the path takes the mean of their logarithms.

    Args:
        ensemble: the laws.
        bounds: the teachers allowed.
        forward: F(N), FLOP per token.
        effective_tokens: ln D' of ln D where data are repeated, else None.
    """
    (small, large), (few, many) = bounds.params, bounds.tokens
    n = _steps(small, large) if large > small else np.array([small])
    d = _balanced_tokens(ensemble, n, forward=forward)
    if effective_tokens is not None:
        d = _repeated_tokens(d, effective_tokens, float(np.mean(ensemble.plain["beta"])), bounds.tokens)
    d = np.clip(d, few, many)
    before, after = _steps(few, float(d[0]))[:-1], _steps(float(d[-1]), many)[1:]
    n = np.concatenate([np.full_like(before, small), n, np.full_like(after, large)])
    d = np.concatenate([before, d, after])
    return Path(n, d) if len(n) > 1 else Path(n.repeat(2), d.repeat(2))


def _balanced_tokens(ensemble: LawEnsemble, n: Array, *, forward: Transform) -> Array:
    """Mean over laws of the ln D that is compute-optimal for each ln N, data seen once."""
    h = 1e-4
    slope = (np.log(forward(np.exp(n + h))) - np.log(forward(np.exp(n - h)))) / (2 * h)
    c = {k: v[:, None] for k, v in ensemble.plain.items()}
    ratio = c["log_B"] + np.log(c["beta"]) - c["log_A"] - np.log(c["alpha"])
    return np.mean((c["alpha"] * n + ratio + np.log(slope)) / c["beta"], axis=0)


def _repeated_tokens(d: Array, effective: Transform, beta: float, limits: tuple[float, float]) -> Array:
    """Ln D for which D' and the worth of one more token balance as fresh tokens d would."""
    h = 1e-4

    def falls_short(x: Array) -> np.ndarray:
        worth = np.maximum((effective(x + h) - effective(x - h)) / (2 * h), 1e-300)
        return effective(x) - np.log(worth) / beta < d

    return last_true(falls_short, low=np.full_like(d, limits[0]), high=np.full_like(d, limits[1]))


def _steps(low: float, high: float) -> Array:
    """Points from low to high; one if they are the same."""
    return np.linspace(low, high, int(np.ceil((high - low) / _SPACING)) + 1)
