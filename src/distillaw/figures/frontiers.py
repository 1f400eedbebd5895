"""Score against training compute: published models, your own with their error bars, and the frontier."""

import math
import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillaw.figures.labels import Spot, place_labels
from distillaw.figures.style import (
    DASHED,
    INK,
    MUTED,
    PAGE,
    SERIES,
    Z90,
    Look,
    in_style,
    new_figure,
    power_axis,
)
from distillaw.pareto.frontier import FRONTIERS, Point

NATURAL_WIDTH = 6.6
"""Inches."""
LABEL_CHARS = 18
LETTER = (0.0108, 0.036)
"""Width of a letter and height of a line of the names, as fractions of the axes, at the natural size."""
AXIS_CHARS = 44
"""Letters that fit beside the axis."""
LINES = {"staircase": "staircase of unbeaten models", "hull": "concave hull over log compute"}


@in_style
def draw_models(
    points: Sequence[Point], *, score: str, axis: str, frontier: str = "staircase", look: Look = PAGE
) -> Figure:
    """The drawing; own models filled with a 90 % bar, others as rings, chat models as squares.

    Args:
        points: on one axis.
        score: what the ordinate is, with its unit.
        axis: what the abscissa counts, in words.
        frontier: `staircase` or `hull`, drawn through all points.
        look: how large.
    """
    figure, axes = new_figure(1, 1, width=NATURAL_WIDTH, height=4.3, look=look)
    ax = axes[0][0]
    corners = FRONTIERS[frontier](points)
    line = _corners(corners, stepped=frontier == "staircase")
    ax.plot(
        *zip(*line, strict=True),
        color=INK,
        linewidth=1.0,
        linestyle=DASHED,
        zorder=1,
        label=LINES[frontier],
    )
    _draw_points(ax, points)
    ax.set_xscale("log")
    ax.margins(x=0.12, y=0.1)
    power_axis(ax)
    share = (
        NATURAL_WIDTH * look.scale / figure.get_figwidth()
    )  # of the natural width that there is, in letters
    columns, room = (2, 0.14) if share < 1.3 else (1, 0.24)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + room / (1 - room) * (high - low))
    ax.legend(loc="upper left", ncols=columns, labelcolor=INK, labelspacing=0.3)
    _write_names(
        ax,
        points,
        corners,
        line,
        letter=(LETTER[0] * share, LETTER[1]),
        keep_off=((0.0, 1 - room), (1.0, 1.0)),
    )
    ax.set_xlabel(textwrap.fill(f"training compute, FLOP: {axis}", int(2 * AXIS_CHARS / share)))
    ax.set_ylabel(textwrap.fill(score, AXIS_CHARS))
    return figure


def _draw_points(ax: Axes, points: Sequence[Point]) -> None:
    """One series for each kind, so that the legend tells them apart."""
    kinds = {
        (True, False): "your models",
        (True, True): "your chat models",
        (False, False): "published base models",
        (False, True): "published chat models",
    }
    for (is_own, is_chat), words in kinds.items():
        chosen = [point for point in points if (point.is_own, point.is_chat) == (is_own, is_chat)]
        color = SERIES[1] if is_own else MUTED
        for point in chosen:
            if is_own and point.se is not None:
                half = Z90 * point.se
                ax.plot(
                    [point.compute] * 2, [point.score - half, point.score + half], color=color, linewidth=1.2
                )
        if chosen:
            ax.plot(
                [p.compute for p in chosen],
                [p.score for p in chosen],
                "s" if is_chat else "o",
                color=color,
                markersize=6.5 if is_own else 4.5,
                markerfacecolor=color if is_own else "none",
                zorder=3,
                label=words,
            )


def _corners(points: Sequence[Point], *, stepped: bool) -> list[Spot]:
    """(compute, score) along the frontier; a step rises where the better model is paid for."""
    corners: list[Spot] = []
    for point in points:
        if stepped and corners:
            corners.append((point.compute, corners[-1][1]))
        corners.append((point.compute, point.score))
    return corners


def _write_names(
    ax: Axes,
    points: Sequence[Point],
    corners: Sequence[Point],
    line: Sequence[Spot],
    *,
    letter: Spot,
    keep_off: Sequence[Spot],
) -> None:
    """Own models first, then those of the frontier, then the others from the best down."""
    (left, right), (low, high) = map(math.log10, ax.get_xlim()), ax.get_ylim()

    def inside(compute: float, score: float) -> Spot:
        return (math.log10(compute) - left) / (right - left), (score - low) / (high - low)

    order = sorted(points, key=lambda p: (not p.is_own, p not in corners, -p.score))
    labels = place_labels(
        [p.name.split(" (")[0][:LABEL_CHARS] for p in order],
        [inside(p.compute, p.score) for p in order],
        line=[inside(*spot) for spot in line],
        letter=letter,
        keep_off=keep_off,
    )
    for point, label in zip(order, labels, strict=True):
        if label is not None:
            ax.text(
                label.x,
                label.y,
                label.text,
                transform=ax.transAxes,
                ha=label.side,
                va="center",
                fontsize="small",
                color=INK if point.is_own else MUTED,
            )
