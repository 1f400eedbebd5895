"""Laws fitted on a study: which may be drawn, and what they reproduce and miss of its runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from distillaw.errors import DataError
from distillaw.figures.style import DASHED, INK, SERIES, current_look, in_style, new_figure, set_title
from distillaw.fitting.result import FitResult
from distillaw.fitting.study import kept_laws
from distillaw.runs.record import StudyRecord
from distillaw.runs.table import read_table

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
def draw_fits(laws: Sequence[FittedLaw], *, of: str = "") -> Figure:
    """Predicted against measured (left) and the residuals in per cent (right), one row per law.

    Args:
        laws: to draw.
        of: first line of the titles: which study they are of, where it is not the one at hand.

    Raises:
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
        set_title(left, f"{of}\n{law.label}: {len(law.measured)} runs{status}".strip())
        left.set_ylabel("predicted, nats/token")
        right.axhline(0, color=INK, linewidth=0.8, linestyle=DASHED)
        right.axhspan(-law.rms, law.rms, color=color, alpha=0.1, linewidth=0)
        right.plot(law.measured, law.percent, "o", color=color, markersize=4, alpha=0.75)
        right.set_ylabel("predicted − measured, %")
        set_title(right, f"root mean square {law.rms:.2f} %")
    for ax in axes[-1]:
        ax.set_xlabel("measured loss, nats/token")
    return figure
