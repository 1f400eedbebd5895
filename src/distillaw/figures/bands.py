"""Curves with bands: solid and filled where a law was fitted, dashed and hatched where it is only drawn on."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from distillaw.figures.style import DASHED, HATCH
from distillaw.laws.base import Array, Mask


def draw_band(
    ax: Axes,
    x: Array,
    *,
    mean: Array,
    inside: Mask,
    color: str,
    lower: Array | None = None,
    upper: Array | None = None,
    alpha: float = 0.16,
    linewidth: float = 1.5,
) -> None:
    """A curve over x with its band, shapes (p,).

    Args:
        ax: where.
        x: ascending.
        mean: the curve.
        inside: True where the law was fitted; elsewhere the curve is dashed and the band hatched.
        color: of both.
        lower: of the band; None, or nan where there is none.
        upper: likewise.
        alpha: of the band's colour.
        linewidth: of the curve.
    """
    for part, is_inside in stretches(inside):
        if lower is not None and upper is not None:
            band = ax.fill_between(x[part], lower[part], upper[part], linewidth=0)
            band.set(
                facecolor=color if is_inside else "none",
                alpha=alpha if is_inside else 0.5,
                edgecolor=color,
                hatch=None if is_inside else HATCH,
            )
        ax.plot(x[part], mean[part], color=color, linewidth=linewidth, linestyle="-" if is_inside else DASHED)


def stretches(flags: Mask) -> Iterator[tuple[slice, bool]]:
    """Runs of equal flags; each goes on to the first point of the next, so that a curve has no gaps."""
    changes = [0, *(np.flatnonzero(flags[1:] != flags[:-1]) + 1), len(flags)]
    for first, last in pairwise(changes):
        yield slice(int(first), int(min(last + 1, len(flags)))), bool(flags[first])
