"""Score against training compute: published models, your own with their error bars, and the frontier."""

import math
import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from distillaw.pareto.frontier import FRONTIERS, Point
from distillaw.pareto.words import place_words
from distillaw.report.content import Z90
from distillaw.report.labels import Spot, place_labels
from distillaw.report.spending import power_text
from distillaw.report.svg import INK, MUTED, SERIES, Picture, new_figure, to_svg

LABEL_CHARS = 18
LETTER = (0.0102, 0.036)
"""Width of a letter and height of a line of the names, as fractions of the axes."""
AXIS_CHARS = 44
"""Letters that fit beside the axis."""
LINES = {"staircase": "staircase of unbeaten models", "hull": "concave hull over log compute"}


def pareto_figure(points: Sequence[Point], *, score: str, axis: str, frontier: str = "staircase") -> Figure:
    """The drawing; own models filled with a 90 % bar, others as rings, chat models as squares.

    Args:
        points: on one axis.
        score: what the ordinate is, with its unit.
        axis: what the abscissa counts, in words.
        frontier: `staircase` or `hull`, drawn through all points.
    """
    figure, axes = new_figure(1, 1, width=6.6, height=4.3)
    ax = axes[0][0]
    corners = FRONTIERS[frontier](points)
    line = _corners(corners, stepped=frontier == "staircase")
    ax.plot(
        *zip(*line, strict=True),
        color=INK,
        linewidth=1.0,
        linestyle=(0, (4, 3)),
        zorder=1,
        label=LINES[frontier],
    )
    _draw_points(ax, points)
    ax.set_xscale("log")
    ax.margins(x=0.12, y=0.1)
    _mark_compute(ax)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.18 * (high - low))  # room for the legend
    ax.legend(loc="upper left", frameon=False, fontsize=8, ncols=2, labelcolor=INK)
    _write_names(ax, points, corners, line)
    ax.set_xlabel(textwrap.fill(f"training compute, FLOP: {axis}", 2 * AXIS_CHARS))
    ax.set_ylabel(textwrap.fill(score, AXIS_CHARS))
    return figure


def pareto_picture(points: Sequence[Point], *, score: str, axis: str, frontier: str = "staircase") -> Picture:
    """The drawing for a page; arguments as of `pareto_figure`."""
    figure = pareto_figure(points, score=score, axis=axis, frontier=frontier)
    words = "; ".join(place_words(point, points) for point in points if point.is_own)
    alt = f"{score} against training compute for {len(points)} models. {words}"
    others = "" if all(point.is_own for point in points) else " Open: published ones."
    return Picture(
        name="pareto", title="Score against training compute", alt=alt, svg=to_svg(figure, name="pareto", alt=alt),
        caption=f"Filled: your models, with the 90 % interval of the score; squares are chat models.{others} The line "
        f"is the {frontier} of all points"
        + (": what nobody beats at equal or less compute." if frontier == "staircase"
           else ": the concave hull over the logarithm of compute."),
    )  # fmt: skip


def _draw_points(ax: Axes, points: Sequence[Point]) -> None:
    """One series for each kind, so that the legend tells them apart."""
    kinds = {(True, False): "your models", (True, True): "your chat models",
             (False, False): "published base models", (False, True): "published chat models"}  # fmt: skip
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
            ax.plot([p.compute for p in chosen], [p.score for p in chosen], "s" if is_chat else "o", color=color,
                    markersize=6.5 if is_own else 4.5, markerfacecolor=color if is_own else "none", zorder=3,
                    label=words)  # fmt: skip


def _mark_compute(ax: Axes) -> None:
    """Powers of ten; within a decade, a few round numbers."""
    low, high = ax.get_xlim()
    decades = math.log10(high / low) >= 2
    ticks = LogLocator(numticks=8) if decades else FixedLocator(MaxNLocator(4).tick_values(low, high))
    ax.xaxis.set_major_locator(ticks)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_text(value)))
    ax.set_xlim(low, high)


def _corners(points: Sequence[Point], *, stepped: bool) -> list[Spot]:
    """(compute, score) along the frontier; a step rises where the better model is paid for."""
    corners: list[Spot] = []
    for point in points:
        if stepped and corners:
            corners.append((point.compute, corners[-1][1]))
        corners.append((point.compute, point.score))
    return corners


def _write_names(ax: Axes, points: Sequence[Point], corners: Sequence[Point], line: Sequence[Spot]) -> None:
    """Own models first, then those of the frontier, then the others from the best down."""
    (left, right), (low, high) = map(math.log10, ax.get_xlim()), ax.get_ylim()

    def inside(compute: float, score: float) -> Spot:
        return (math.log10(compute) - left) / (right - left), (score - low) / (high - low)

    order = sorted(points, key=lambda p: (not p.is_own, p not in corners, -p.score))
    labels = place_labels(
        [p.name.split(" (")[0][:LABEL_CHARS] for p in order], [inside(p.compute, p.score) for p in order],
        line=[inside(*spot) for spot in line], letter=LETTER, keep_off=((0.0, 0.86), (0.85, 1.0)),
    )  # fmt: skip
    for point, label in zip(order, labels, strict=True):
        if label is not None:
            ax.text(label.x, label.y, label.text, transform=ax.transAxes, ha=label.side, va="center", fontsize=7.5,
                    color=INK if point.is_own else MUTED)  # fmt: skip
