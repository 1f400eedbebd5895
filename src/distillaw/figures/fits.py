"""Laws fitted on a study: which may be drawn, what they reproduce and miss of its runs, and whether intervals hold.

Intervals are those frozen before the runs, and those of a fit for runs it had not seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillaw.errors import DataError
from distillaw.figures.style import DASHED, INK, SERIES, current_look, in_style, new_figure, new_panels, note, set_title
from distillaw.fitting.result import FitResult
from distillaw.fitting.study import kept_laws
from distillaw.fitting.uncertainty import Calibration
from distillaw.runs.record import StudyRecord
from distillaw.runs.table import read_table
from distillaw.verifying import scorecard
from distillaw.verifying.scorecard import Scored

LABELS = {"supervised": "supervised law", "distillation-reduced": "distillation law"}
"""The families of a study that are drawn, and what they are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedLaw:
    """A usable fit with the losses it was fitted to."""

    label: str
    fit: FitResult
    measured: np.ndarray
    """Loss of each fitted row, nats/token."""

    @property
    def predicted(self) -> np.ndarray:
        """The law at the estimate for each fitted row, nats/token."""
        return self.measured * np.exp(self.fit.resid)

    @property
    def percent(self) -> np.ndarray:
        """Predicted minus measured in per cent, by ln predicted - ln measured."""
        return 100 * self.fit.resid

    @property
    def rms(self) -> float:
        """Root mean square of `percent`."""
        return float(np.sqrt(np.mean(self.percent**2)))


def fitted_law(label: str, fit: FitResult, losses: np.ndarray) -> FittedLaw | None:
    """A law for the picture, or None where it is not to be drawn: unusable, weakly identified, other rows."""
    rows = fit.fitted_rows
    if not is_drawable(fit) or not len(rows) or rows.max() >= len(losses):
        return None
    return FittedLaw(label=label, fit=fit, measured=np.asarray(losses, dtype=float)[rows])


def is_drawable(fit: FitResult) -> bool:
    """True if it may be drawn: the runs identify it, or all of it but a parameter at the end of its range."""
    return fit.is_usable and fit.status.name in ("CONVERGED", "AT_BOUND", "SEED_NOISE_UNKNOWN")


def study_laws(record: StudyRecord) -> dict[str, FitResult]:
    """The laws of a study that may be drawn, by family."""
    kept = kept_laws(record).fits
    return {name: kept[name] for name in LABELS if name in kept and is_drawable(kept[name])}


def fitted_laws(record: StudyRecord) -> list[FittedLaw]:
    """The same with the losses they were fitted to."""
    laws = study_laws(record)
    if not laws:
        return []
    losses = read_table(record.folder)["loss"]
    found = [fitted_law(LABELS[name], fit, losses) for name, fit in laws.items()]
    return [law for law in found if law is not None and len(law.measured)]


@in_style
def draw_fits(laws: Sequence[FittedLaw]) -> Figure:
    """Predicted against measured (left) and the residuals in per cent (right), one row per law.

    DataError: there is no law.
    """
    if not laws:
        raise DataError("No law is drawn through this study.")
    figure, axes = new_figure(len(laws), 2, width=7.4, height=2.9 * len(laws))
    for row, law in enumerate(laws):
        left, right = axes[row]
        color = SERIES[row % len(SERIES)]
        ends = [min(law.measured.min(), law.predicted.min()), max(law.measured.max(), law.predicted.max())]
        left.plot(ends, ends, color=INK, linewidth=0.8, linestyle=DASHED)
        left.plot(law.measured, law.predicted, "o", color=color, markersize=4, alpha=0.75)
        status = f", {law.fit.status.name}" * (current_look().width is None)
        set_title(left, f"{law.label}: {len(law.measured)} runs{status}")
        left.set_ylabel("predicted, nats/token")
        right.axhline(0, color=INK, linewidth=0.8, linestyle=DASHED)
        right.axhspan(-law.rms, law.rms, color=color, alpha=0.1, linewidth=0)
        right.plot(law.measured, law.percent, "o", color=color, markersize=4, alpha=0.75)
        right.set_ylabel("predicted − measured, %")
        set_title(right, f"root mean square {law.rms:.2f} %")
    for ax in axes[-1]:
        ax.set_xlabel("measured loss, nats/token")
    return figure


# --- do intervals hold? ------------------------------------------------------------------------------------


QUANTITIES = {"loss": "losses", "gain": "gains over no teacher"}
NONE_SCORED = "No frozen prediction has been scored yet."


@in_style
def draw_frozen(rows: Sequence[Scored]) -> Figure:
    """Predicted minus measured in per cent of the loss with its interval, a block per forecaster.

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
        own = sorted((r for r in rows if r.prediction.by == one.by), key=lambda r: (r.factor_beyond, r.prediction.mean))
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

    DataError: no interval has been scored.
    """
    found = [one for one in scorecard.calibration(rows) if one["num"]]
    quantities = [q for q in QUANTITIES if any(one["quantity"] == q for one in found)]
    if not quantities:
        raise DataError("No frozen interval has been scored yet.")
    axes = {"x": "promised by the interval, %", "y": "measured inside, %"}
    figure, panels = new_panels(len(quantities), panel=(3.2, 2.9), margin=(0.5, 0.3), **axes)
    for ax, quantity in zip(panels, quantities, strict=True):
        _coverage_panel(ax, [one for one in found if one["quantity"] == quantity])
        set_title(ax, QUANTITIES[quantity])
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
    ax.legend(loc="lower left", labelcolor="linecolor")


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldOut:
    """Compute-ordered hold-outs of one fit: its smallest 40 to 80 % of runs predict the others."""

    label: str
    hits: int
    """Held-out runs inside their intervals, of `found.num_held_out`."""
    found: Calibration
    rows: Sequence[Mapping[str, float]]
    """At each distance, decades of compute beyond the largest run fitted (`from`, `to`): how many (`num`), share inside
    (`inside`), root mean square `error` and mean `half_width` of the intervals, shares of the loss."""


def hold_outs(record: StudyRecord) -> list[HoldOut]:
    """Of the laws of a study that had runs enough to hold some out."""
    kept = kept_laws(record).fits
    laws = ((LABELS[name], kept[name]) for name in LABELS if name in kept)
    return [
        HoldOut(
            label=label,
            hits=round((fit.calibration.obtained or 0.0) * fit.calibration.num_held_out),
            found=fit.calibration,
            rows=fit.details.get("calibration_by_decade") or (),
        )
        for label, fit in laws
        if fit.is_usable and fit.calibration.num_held_out
    ]


@in_style
def draw_hold_outs(found: Sequence[HoldOut]) -> Figure:
    """Error of held-out predictions beside the half width they were given, by distance, a panel for each law.

    DataError: no fit held runs out.
    """
    found = [one for one in found if one.rows]
    if not found:
        raise DataError("No law of this study had runs enough to hold some out.")
    axes = {"x": "decades of compute beyond the fitted runs", "y": "% of the loss"}
    figure, panels = new_panels(len(found), panel=(3.7, 2.8), margin=(0.3, 0.0), **axes)
    for ax, one in zip(panels, found, strict=True):
        _hold_out_panel(ax, one)
    return figure


def _hold_out_panel(ax: Axes, one: HoldOut) -> None:
    halves, errors = ([100 * row[name] for row in one.rows] for name in ("half_width", "error"))
    for x, (row, half, error) in enumerate(zip(one.rows, halves, errors, strict=True)):
        ax.bar(x, half, width=0.62, color=SERIES[0], alpha=0.22)
        ax.plot(x, error, "o", color=SERIES[1], markersize=6)
        num = int(row["num"])
        note(ax, f"{round(row['inside'] * num)} of {num}\ninside", (x, half), (0, 3), ha="center")
    ax.set_xticks(range(len(one.rows)), [f"{row['from']:.2g} to {row['to']:.2g}" for row in one.rows])
    ax.set_ylim(0, 1.35 * max(halves + errors))
    ax.set_xlim(-0.6, len(one.rows) - 0.4)
    last = len(one.rows) - 1
    note(ax, "error", (last, errors[-1]), (7, 0), color=SERIES[1], va="center")
    words = f"half of the\n{100 * one.found.nominal:.0f} % interval"
    note(ax, words, (last, halves[-1]), (0, -4), color=SERIES[0], ha="center", va="top", size="x-small")
    set_title(ax, one.label)
