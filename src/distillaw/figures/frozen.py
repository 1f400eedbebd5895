"""Predictions frozen before the runs against what was measured, and how often their intervals held."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillaw.errors import DataError
from distillaw.figures.style import DASHED, INK, PAGE, SERIES, Look, in_style, new_figure, set_title
from distillaw.verifying import scorecard
from distillaw.verifying.scoring import Scored

NONE_SCORED = "No frozen prediction has been scored yet."


@in_style
def draw_frozen(rows: Sequence[Scored], *, look: Look = PAGE) -> Figure:
    """Predicted minus measured in per cent of the loss with its interval, a block per forecaster.

    Raises:
        DataError: no prediction counts.
    """
    rows = [row for row in rows if row.counts]
    if not rows:
        raise DataError(NONE_SCORED)
    quantities = quantities_of(rows)
    figure, axes = new_figure(len(quantities), 1, width=7.4, height=2.7 * len(quantities), look=look)
    for ax, quantity in zip(axes, quantities, strict=True):
        _panel(ax[0], quantity, [row for row in rows if row.prediction.quantity == quantity])
    return figure


def quantities_of(rows: Sequence[Scored]) -> list[str]:
    """`loss`, `gain` or both."""
    return [q for q in ("loss", "gain") if any(row.prediction.quantity == q for row in rows)]


def _panel(ax: Axes, quantity: str, rows: Sequence[Scored]) -> None:
    place, ticks = 0.0, []
    for k, one in enumerate(scorecard.by_forecaster(rows)):
        own = sorted(
            (r for r in rows if r.prediction.by == one.by), key=lambda r: (r.factor_beyond, r.prediction.mean)
        )
        for row in own:
            _bar(ax, place, row, SERIES[k % len(SERIES)])
            place += 1
        ticks.append((place - len(own) / 2 - 0.5, f"{one.by}\n{one.hits} of {one.num_intervals} held"))
        place += 1.5
    ax.axhline(0, color=INK, linewidth=0.8, linestyle=DASHED)
    ax.set_xticks([x for x, _ in ticks], [text for _, text in ticks])
    ax.set_ylabel("predicted − measured,\n% of the loss")
    set_title(ax, "Loss of a run" if quantity == "loss" else "Gain over no teacher")


def _bar(ax: Axes, x: float, row: Scored, color: str) -> None:
    if row.interval is not None:
        low, high = (100 * (end - row.measured) / row.scale for end in row.interval)
        ax.plot([x, x], [low, high], color=color, linewidth=1.6, alpha=0.55, solid_capstyle="butt")
    marker = "x" if row.is_hit() is False else "o"
    ax.plot([x], [100 * row.share], marker, color=color, markersize=4)
