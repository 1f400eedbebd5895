"""Score against training compute: published models, your own with their error bars, and the frontier."""

import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from distillaw.figures.style import (
    DASHED,
    INK,
    MUTED,
    SERIES,
    Z90,
    current_look,
    in_style,
    new_figure,
    power_axis,
)
from distillaw.pareto.points import FRONTIERS, ScorePoint

Spot = tuple[float, float]
NAME_GAP = 0.014
"""Between a point and its name."""
POINT_SIZE = 0.009
"""Half the size of a point."""
NATURAL_WIDTH = 6.6
"""Inches."""
LABEL_CHARS = 18
LETTER = (0.0108, 0.036)
"""Width of a letter and height of a line of the names, as fractions of the axes, at the natural size."""
AXIS_CHARS = 44
"""Letters that fit beside the axis."""
LINES = {"staircase": "staircase of unbeaten models", "hull": "concave hull over log compute"}


@in_style
def models(points: Sequence[ScorePoint], *, score: str, axis: str, frontier: str = "staircase") -> Figure:
    """Score against training compute, your own models among published ones, with the frontier of all.

    Own models are filled, with a 90 % bar, others rings, chat models squares.

    Args:
        points: from `own_points` and `published_points` of `distillaw.pareto.points`.
        score: what the ordinate is, with its unit.
        axis: what the abscissa counts, in words; FLOP, logarithmic.
        frontier: `staircase` or `hull`, drawn through all points.

    Raises:
        DataError: a point without a finite compute and score.
    """
    figure, axes = new_figure(1, 1, width=NATURAL_WIDTH, height=4.3)
    ax = axes[0][0]
    corners = FRONTIERS[frontier](points)
    line = _corners(corners, stepped=frontier == "staircase")
    dashes = {"color": INK, "linewidth": 1.0, "linestyle": DASHED, "zorder": 1}
    ax.plot(*zip(*line, strict=True), **dashes, label=LINES[frontier])
    _draw_points(ax, points)
    ax.set_xscale("log")
    ax.margins(x=0.12, y=0.1)
    power_axis(ax)
    share = NATURAL_WIDTH * current_look().scale / figure.get_figwidth()  # a letter's, over its natural one
    columns, room = (2, 0.14) if share < 1.3 else (1, 0.24)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + room / (1 - room) * (high - low))
    ax.legend(loc="upper left", ncols=columns, labelcolor=INK, labelspacing=0.3)
    letter, legend = (LETTER[0] * share, LETTER[1]), ((0.0, 1 - room), (1.0, 1.0))
    _write_names(ax, points, corners, line, letter=letter, keep_off=legend)
    ax.set_xlabel(textwrap.fill(f"training compute, FLOP: {axis}", int(2 * AXIS_CHARS / share)))
    ax.set_ylabel(textwrap.fill(score, AXIS_CHARS))
    return figure


def _draw_points(ax: Axes, points: Sequence[ScorePoint]) -> None:
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
                ends = [point.score - Z90 * point.se, point.score + Z90 * point.se]
                ax.plot([point.compute] * 2, ends, color=color, linewidth=1.2)
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


def _corners(points: Sequence[ScorePoint], *, stepped: bool) -> list[Spot]:
    """(compute, score) along the frontier; a step rises where the better model is paid for."""
    corners: list[Spot] = []
    for point in points:
        if stepped and corners:
            corners.append((point.compute, corners[-1][1]))
        corners.append((point.compute, point.score))
    return corners


def _write_names(
    ax: Axes,
    points: Sequence[ScorePoint],
    corners: Sequence[ScorePoint],
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


# --- names that lie on no other name, no point and no line; all in fractions of the axes ----------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A name with its place."""

    text: str
    x: float
    y: float
    side: str
    """Which of its sides lies at x: left, right or center."""


def place_labels(
    names: Sequence[str],
    spots: Sequence[Spot],
    *,
    line: Sequence[Spot],
    letter: Spot,
    keep_off: Sequence[Spot] = (),
) -> list[Label | None]:
    """A place for each name, the first names first; None where there is none.

    Args:
        names: in order of importance.
        spots: the points they belong to.
        line: corners of a line that no name may lie on.
        letter: (width of a letter, height of a line of text).
        keep_off: lower left and upper right corner of a rectangle that is taken, e.g. by the legend.
    """
    size = POINT_SIZE
    taken = [Bbox.from_extents(x - size, y - size, x + size, y + size) for x, y in spots]
    if keep_off:
        taken.append(Bbox(keep_off))
    inked = np.array(list(_along(line)))
    found: list[Label | None] = []
    for name, (x, y) in zip(names, spots, strict=True):
        for label, box in _places(name, x, y, letter):
            if not box.count_overlaps(taken) and not (len(inked) and box.count_contains(inked)):
                taken.append(box)
                found.append(label)
                break
        else:
            found.append(None)
    return found


def _places(name: str, x: float, y: float, letter: Spot) -> Iterator[tuple[Label, Bbox]]:
    """Right, left, above, below and the corners between, as far as they are inside the axes."""
    width, height = len(name) * letter[0], letter[1]
    for dy in (0.0, height, -height):
        sides = {"left": x + NAME_GAP, "right": x - NAME_GAP - width, "center": x - width / 2}
        for side, left in sides.items():
            box = Bbox.from_extents(left, y + dy - height / 2, left + width, y + dy + height / 2)
            if box.x0 >= 0 and box.x1 <= 1.02 and box.y0 >= 0 and box.y1 <= 1:
                at = {"left": left, "right": left + width, "center": x}[side]
                yield Label(text=name, x=at, y=y + dy, side=side), box


def _along(line: Sequence[Spot], steps: int = 60) -> Iterator[Spot]:
    for (x0, y0), (x1, y1) in itertools.pairwise(line):
        for i in range(steps + 1):
            yield x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps
