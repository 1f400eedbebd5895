"""Do intervals hold? Frozen ones against the runs, and those of a fit against runs it had not seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillaw.errors import DataError
from distillaw.figures.fits import LABELS
from distillaw.figures.style import (
    DASHED,
    INK,
    SERIES,
    current_look,
    in_style,
    new_figure,
    new_panels,
    note,
    set_title,
)
from distillaw.fitting.result import FitResult
from distillaw.fitting.study import kept_laws
from distillaw.runs.record import StudyRecord
from distillaw.verifying import scorecard
from distillaw.verifying.scorecard import Scored, wilson

QUANTITIES = {"loss": "losses", "gain": "gains over no teacher"}
NONE_SCORED = "No frozen prediction has been scored yet."


@in_style
def draw_frozen(rows: Sequence[Scored]) -> Figure:
    """Predicted minus measured in per cent of the loss with its interval, a block per forecaster.

    Raises:
        DataError: no prediction counts.
    """
    rows = [row for row in rows if row.counts]
    if not rows:
        raise DataError(NONE_SCORED)
    quantities = quantities_of(rows)
    figure, axes = new_figure(len(quantities), 1, width=7.4, height=2.7 * len(quantities))
    for ax, quantity in zip(axes, quantities, strict=True):
        _frozen_panel(ax[0], quantity, [row for row in rows if row.prediction.quantity == quantity])
    return figure


def quantities_of(rows: Sequence[Scored]) -> list[str]:
    """`loss`, `gain` or both."""
    return [q for q in ("loss", "gain") if any(row.prediction.quantity == q for row in rows)]


def _frozen_panel(ax: Axes, quantity: str, rows: Sequence[Scored]) -> None:
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


@in_style
def draw_coverage(rows: Sequence[Scored]) -> Figure:
    """Share of frozen intervals that held against the share they promised, by forecaster.

    Raises:
        DataError: no interval has been scored.
    """
    found = [one for one in scorecard.calibration(rows) if one["num"]]
    quantities = [q for q in QUANTITIES if any(one["quantity"] == q for one in found)]
    if not quantities:
        raise DataError("No frozen interval has been scored yet.")
    figure, panels, columns = new_panels(len(quantities), panel=(3.2, 2.9), margin=(0.5, 0.3))
    for place, (ax, quantity) in enumerate(zip(panels, quantities, strict=True)):
        _coverage_panel(ax, [one for one in found if one["quantity"] == quantity])
        set_title(ax, QUANTITIES[quantity])
        if place % columns == 0:
            ax.set_ylabel("measured inside, %")
    return figure


def _coverage_panel(ax: Axes, found: Sequence[Mapping]) -> None:
    names = list(dict.fromkeys(one["by"] for one in found))
    ax.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=DASHED)
    for k, name in enumerate(names):
        own = sorted((one for one in found if one["by"] == name), key=lambda one: one["level"])
        shift = 1.2 * (k - (len(names) - 1) / 2)
        x, color = [100 * one["level"] + shift for one in own], SERIES[k % len(SERIES)]
        ax.plot(
            x,
            [100 * one["obtained"] for one in own],
            "o-",
            color=color,
            markersize=4.5,
            label=f"{name}, n = {max(one['num'] for one in own)}",
        )
        for at, one in zip(x, own, strict=True):
            ax.plot([at, at], [100 * end for end in one["interval"]], color=color, linewidth=1.1, alpha=0.7)
    ax.set_xlim(40, 102)
    ax.set_ylim(0, 103)
    ax.set_xlabel("promised by the interval, %")
    ax.legend(loc="lower left", labelcolor="linecolor")


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldOutRow:
    """Predictions of held-out runs at one distance beyond those that were fitted."""

    low: float
    high: float
    """Decades of compute beyond the largest run fitted."""
    num: int
    inside: float
    """Share inside their intervals."""
    error: float
    """Root mean square, per cent of the loss."""
    half: float
    """Mean half width of the intervals, per cent of the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldOut:
    """Compute-ordered hold-outs of one fit: its smallest 40 to 80 % of runs predict the others."""

    label: str
    nominal: float
    num: int
    hits: int
    interval: tuple[float, float]
    """Wilson's, 90 %, of the share inside; predictions of one law err together, so it is too narrow."""
    without: float
    """Share inside without the misspecification term: parameters and noise alone."""
    error: float
    """Root mean square, per cent of the loss."""
    decades: float
    """How far beyond the fitted runs the farthest lies."""
    rows: Sequence[HoldOutRow]

    @property
    def share(self) -> float:
        """Of the held-out runs inside their intervals."""
        return self.hits / self.num


def hold_outs(record: StudyRecord) -> list[HoldOut]:
    """Of the laws of a study that had runs enough to hold some out."""
    kept = kept_laws(record).fits
    laws = ((LABELS[name], kept[name]) for name in LABELS if name in kept)
    return [_hold_out(label, fit) for label, fit in laws if fit.is_usable and fit.calibration.num_held_out]


def _hold_out(label: str, fit: FitResult) -> HoldOut:
    c = fit.calibration
    hits = round((c.obtained or 0.0) * c.num_held_out)
    rows = [
        HoldOutRow(
            low=r["from"],
            high=r["to"],
            num=int(r["num"]),
            inside=r["inside"],
            error=100 * r["error"],
            half=100 * r["half_width"],
        )
        for r in fit.details.get("calibration_by_decade") or ()
    ]
    return HoldOut(
        label=label,
        nominal=c.nominal,
        num=c.num_held_out,
        hits=hits,
        interval=wilson(hits, c.num_held_out),
        without=c.obtained_without or 0.0,
        error=100 * (c.error or 0.0),
        decades=c.max_decades,
        rows=rows,
    )


@in_style
def draw_hold_outs(found: Sequence[HoldOut]) -> Figure:
    """Error of held-out predictions beside the half width they were given, by distance, a panel for each law.

    Raises:
        DataError: no fit held runs out.
    """
    found = [one for one in found if one.rows]
    if not found:
        raise DataError("No law of this study had runs enough to hold some out.")
    columns = current_look().columns(len(found), panel=3.7)
    rows = -(-len(found) // columns)
    figure, axes = new_figure(rows, columns, width=3.7 * columns + 0.3, height=2.8 * rows)
    panels = [ax for line in axes for ax in line]
    for place, (ax, one) in enumerate(zip(panels, found, strict=False)):
        _hold_out_panel(ax, one)
        if place % columns == 0:
            ax.set_ylabel("% of the loss")
    return figure


def _hold_out_panel(ax: Axes, one: HoldOut) -> None:
    for x, row in enumerate(one.rows):
        ax.bar(x, row.half, width=0.62, color=SERIES[0], alpha=0.22)
        ax.plot(x, row.error, "o", color=SERIES[1], markersize=6)
        note(ax, f"{round(row.inside * row.num)} of {row.num}\ninside", (x, row.half), (0, 3), ha="center")
    ax.set_xticks(range(len(one.rows)), [f"{row.low:.2g} to {row.high:.2g}" for row in one.rows])
    ax.set_ylim(0, 1.35 * max(max(row.half, row.error) for row in one.rows))
    ax.set_xlim(-0.6, len(one.rows) - 0.4)
    last = one.rows[-1]
    note(ax, "error", (len(one.rows) - 1, last.error), (7, 0), color=SERIES[1], va="center")
    half = f"half of the\n{100 * one.nominal:.0f} % interval"
    at = (len(one.rows) - 1, last.half)
    note(ax, half, at, (0, -4), color=SERIES[0], ha="center", va="top", size="x-small")
    ax.set_xlabel("decades of compute beyond the fitted runs")
    set_title(ax, one.label)
