"""Score against training compute: published models, your own with their error bars, and the frontier."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from distillaw.pareto.frontier import Point, hull, staircase
from distillaw.pareto.words import place_words
from distillaw.report.spending import power_text
from distillaw.report.svg import INK, MUTED, SERIES, Picture, new_figure, to_svg

LABEL_CHARS = 18
FRONTIERS = {"staircase": staircase, "hull": hull}
Z90 = 1.6449


def pareto_figure(points: Sequence[Point], *, score: str, axis: str, frontier: str = "staircase") -> Figure:
    """The drawing; own models filled with a 90 % bar, others as rings.

    Args:
        points: on one axis.
        score: what the ordinate is, with its unit.
        axis: what the abscissa counts, in words.
        frontier: `staircase` or `hull`, drawn through all points.
    """
    figure, axes = new_figure(1, 1, width=6.6, height=4.3)
    ax = axes[0][0]
    _draw_frontier(ax, FRONTIERS[frontier](points), frontier)
    for point in points:
        color = SERIES[1] if point.is_own else MUTED
        if point.is_own and point.se is not None:
            ax.plot([point.compute] * 2, [point.score - Z90 * point.se, point.score + Z90 * point.se], color=color,
                    linewidth=1.2)  # fmt: skip
        ax.plot(point.compute, point.score, "o", markersize=6.5 if point.is_own else 4.5, color=color,
                markerfacecolor=color if point.is_own else "none", zorder=3)  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(numticks=8))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_text(value)))
    ax.margins(x=0.12, y=0.1)
    _label(ax, points)
    ax.set_xlabel(f"training compute, FLOP: {axis}")
    ax.set_ylabel(score)
    return figure


def pareto_picture(points: Sequence[Point], *, score: str, axis: str, frontier: str = "staircase") -> Picture:
    """The drawing for a page; arguments as of `pareto_figure`."""
    figure = pareto_figure(points, score=score, axis=axis, frontier=frontier)
    words = "; ".join(place_words(point, points) for point in points if point.is_own)
    alt = f"{score} against training compute for {len(points)} models. {words}"
    return Picture(
        name="pareto", title="Score against training compute", alt=alt, svg=to_svg(figure, name="pareto", alt=alt),
        caption=f"Filled: your models, with the 90 % interval of the score; rings: published ones. The line is the "
        f"{frontier} of all points"
        + (": what nobody beats at equal or less compute." if frontier == "staircase"
           else ": the concave hull over the logarithm of compute."),
    )  # fmt: skip


def _draw_frontier(ax: Axes, corners: Sequence[Point], kind: str) -> None:
    x, y = [p.compute for p in corners], [p.score for p in corners]
    style = "steps-post" if kind == "staircase" else "default"
    ax.plot(x, y, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), drawstyle=style, zorder=1)


def _label(ax: Axes, points: Sequence[Point]) -> None:
    """Names beside the points; one that would lie on another goes to the other side, or below."""
    low, high = ax.get_ylim()
    left, right = (math.log10(value) for value in ax.get_xlim())
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (not p.is_own, -p.score)):
        x = (math.log10(point.compute) - left) / (right - left)
        y = (point.score - low) / (high - low)
        options = (((0.012, 0.0), "left"), ((-0.012, 0.0), "right"), ((0.012, -0.032), "left"),
                   ((-0.012, 0.032), "right"))  # fmt: skip
        for (dx, dy), side in options:
            where = (x + dx + (0.09 if side == "left" else -0.09), y + dy)
            if all(abs(where[0] - a) > 0.17 or abs(where[1] - b) > 0.031 for a, b in taken):
                taken.append(where)
                ax.text(x + dx, y + dy, point.name[:LABEL_CHARS], transform=ax.transAxes, ha=side, va="center",
                        fontsize=7.5 if not point.is_own else 8.5, color=INK if point.is_own else MUTED)  # fmt: skip
                break
