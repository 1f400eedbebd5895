"""The figures of a large-batch report: columns beside the paper's, and distance from the start against log t."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from distillaw.figures.style import DASHED, DOTTED, INK, MUTED, PAPER, SERIES, in_style, new_figure, set_title
from distillaw.large_batch.images.results import ColumnScore, ImageWalk
from distillaw.large_batch.images.spec import PaperRow
from distillaw.quantities import format_count


@in_style
def draw_columns(scores: Sequence[ColumnScore], row: PaperRow | None) -> Figure:
    """Accuracy of each column: ours with seeds and interval, the paper's single numbers beside it."""
    figure, axes = new_figure(1, 1 if row is None else 2, width=4.6 if row is None else 7.4, height=3.2)
    _own_panel(axes[0][0], scores)
    if row is not None:
        _paper_panel(axes[0][1], row)
    return figure


def _own_panel(ax: Axes, scores: Sequence[ColumnScore]) -> None:
    for place, score in enumerate(scores):
        color = INK if score.column == "SB" else SERIES[1] if score.column == "LB" else SERIES[0]
        offsets = np.linspace(-0.16, 0.16, len(score.accuracy)) if len(score.accuracy) > 1 else np.zeros(1)
        ax.plot(place + offsets, score.accuracy, ".", color=color, alpha=0.55, markersize=4)
        if score.interval is not None:
            ax.plot([place, place], score.interval, color=color, linewidth=1.6)
        ax.plot(place, score.mean, "o", color=color, markerfacecolor=PAPER, markersize=6)
    _small_batch_line(ax, next((score.mean for score in scores if score.column == "SB"), None))
    ax.set_xticks(range(len(scores)), [score.column for score in scores])
    ax.set_ylabel("test accuracy, %")
    ax.margins(x=0.08)
    set_title(ax, "ours")


def _paper_panel(ax: Axes, row: PaperRow) -> None:
    ax.plot(range(len(row.accuracy)), list(row.accuracy.values()), "o", color=MUTED, markersize=6)
    _small_batch_line(ax, row.accuracy["SB"])
    ax.set_xticks(range(len(row.accuracy)), list(row.accuracy))
    ax.margins(x=0.1, y=0.12)
    set_title(ax, f"paper: {row.network} on {row.data}")


def _small_batch_line(ax: Axes, level: float | None) -> None:
    if level is not None:
        ax.axhline(level, color=MUTED, linewidth=0.9, linestyle=DASHED, zorder=0)


@in_style
def draw_image_walks(walks: Sequence[ImageWalk]) -> Figure:
    """||w_t - w_0|| against log t, a panel before and one after LR + GBN."""
    kinds = [kind for kind in (False, True) if any(walk.is_corrected == kind for walk in walks)]
    figure, axes = new_figure(1, len(kinds), width=3.9 * len(kinds) + 0.6, height=3.4)
    top = max(distance for walk in walks for curve in walk.curves.values() for _, distance in curve)
    sizes = sorted({walk.batch for walk in walks})
    for ax, kind in zip(axes[0], kinds, strict=True):
        group = [walk for walk in walks if walk.is_corrected == kind]
        for walk in group:
            _curve(ax, walk, SERIES[sizes.index(walk.batch) % len(SERIES)])
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
        ax.set_xlim(0.9, 1.3 * max(walk.last_step for walk in walks))
        ax.set_ylim(0, 1.06 * top)
        ax.set_xlabel("update t")
        set_title(ax, "after LR + GBN" if kind else "before")
    axes[0][0].set_ylabel("‖w − w₀‖, all parameters")
    kinds_of_fit = axes[0][0].legend(
        handles=[
            Line2D([], [], color=MUTED, linestyle=(0, (4, 2)), linewidth=1.1, label="a + b ln t"),
            Line2D([], [], color=MUTED, linestyle=DOTTED, linewidth=1.3, label="c t^p"),
        ],
        loc="upper left",
    )
    if len(kinds) == 1:
        axes[0][0].add_artist(kinds_of_fit)  # the second legend would replace it
    axes[0][-1].legend(
        handles=[
            Line2D([], [], color=SERIES[i % len(SERIES)], label=f"batch {size}")
            for i, size in enumerate(sizes)
        ],
        loc="lower right",
    )
    return figure


def _curve(ax: Axes, walk: ImageWalk, color: str) -> None:
    for curve in walk.curves.values():
        ax.plot(*zip(*curve, strict=True), color=color, linewidth=1.0, alpha=0.55)
    fits = list(walk.fits.values())
    t = np.geomspace(min(fit.first_step for fit in fits), walk.last_step, 80)
    line = np.mean([fit.line(t) for fit in fits], axis=0)
    power = np.mean([fit.power(t) for fit in fits], axis=0)
    ax.plot(t, np.where(line > 0, line, np.nan), color=color, linewidth=0.9, linestyle=(0, (4, 2)))
    ax.plot(t, power, color=color, linewidth=1.0, linestyle=DOTTED)
