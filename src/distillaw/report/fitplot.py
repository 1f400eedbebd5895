"""Predicted against measured: what the fitted laws reproduce, and what they miss."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.fitting.result import FitResult
from distillaw.report.svg import INK, SERIES, Picture, new_figure, set_title, to_svg


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


def fitted_law(label: str, fit: FitResult, losses: np.ndarray) -> FittedLaw | None:
    """A law for the picture, or None where it is not to be drawn: unusable, weakly identified, other rows."""
    rows = fit.fitted_rows
    if not is_drawable(fit) or not len(rows) or rows.max() >= len(losses):
        return None
    return FittedLaw(label=label, fit=fit, measured=np.asarray(losses, dtype=float)[rows])


def is_drawable(fit: FitResult) -> bool:
    """True if it may be drawn: the runs identify it, or all of it but a parameter at the end of its range."""
    return fit.is_usable and fit.status.name in ("CONVERGED", "AT_BOUND", "SEED_NOISE_UNKNOWN")


def predicted_measured(laws: Sequence[FittedLaw], *, name: str, title: str, caption: str) -> Picture | None:
    """Predicted against measured (left) and the residuals in per cent (right), one row per law."""
    laws = [law for law in laws if len(law.measured)]
    if not laws:
        return None
    figure, axes = new_figure(len(laws), 2, width=7.4, height=2.9 * len(laws))
    words = []
    for row, law in enumerate(laws):
        left, right = axes[row]
        color = SERIES[row % len(SERIES)]
        ends = [min(law.measured.min(), law.predicted.min()), max(law.measured.max(), law.predicted.max())]
        left.plot(ends, ends, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        left.plot(law.measured, law.predicted, "o", color=color, markersize=4, alpha=0.75)
        left.set_title("")
        set_title(left, f"{law.label}: {len(law.measured)} runs, {law.fit.status.name}")
        left.set_ylabel("predicted, nats/token")
        percent = 100 * law.fit.resid
        right.axhline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        right.plot(law.measured, percent, "o", color=color, markersize=4, alpha=0.75)
        right.set_ylabel("predicted − measured, %")
        typical = float(np.sqrt(np.mean(percent**2)))
        set_title(right, f"root mean square {typical:.2f} %")
        words.append(f"{law.label}: {len(law.measured)} runs, root mean square error {typical:.2f} %.")
    for ax in axes[-1]:
        ax.set_xlabel("measured loss, nats/token")
    alt = f"{title}. " + " ".join(words)
    return Picture(name=name, title=title, caption=caption, alt=alt, svg=to_svg(figure, name=name, alt=alt))
