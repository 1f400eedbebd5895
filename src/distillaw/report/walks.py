"""How far the weights went, in words: caption, table and sentences around figures/walks.py."""

import math
from collections.abc import Sequence
from operator import itemgetter

from distillaw.figures.walks import Walk, draw_walks
from distillaw.large_batch.noise import NoiseScale
from distillaw.report.page import Picture
from distillaw.runs.record import budget_text
from distillaw.table import Table, number, text

TITLE = "How far the weights went"
_CLOSER = {"log": "log t", "power": "power"}


def walks_picture(found: Sequence[Walk]) -> Picture:
    """Distance against step.

    Raises:
        DataError: no run kept its distances.
    """
    return Picture(
        name="diffusion",
        title=TITLE,
        figure=draw_walks(found),
        alt="Distance from the first weights against step. " + " ".join(map(_words, found)),
        caption="Euclidean distance of all weights from those of step 0; blue: with a teacher. Solid "
        "at the peak rate, dotted in warm-up and decay; dashed, a + b ln t fitted to the solid part (a straight line "
        "here). Hoffer et al. 2017 (arXiv 1705.08741) saw straight lines for image networks under SGD.",
    )


def _words(walk: Walk) -> str:
    return f"{walk.run.run_id}: {walk.distances[-1]:.3g} after {walk.steps[-1]} steps."


def walk_table(found: Sequence[Walk]) -> Table:
    """Both fits of every run, with their window, and the noise scale where it was free."""
    columns = [
        text("run"),
        text("teacher"),
        number("at the end", ".2f"),
        number("peak rate, steps", lambda window: f"{window[0]:,} to {window[1]:,}", sort=itemgetter(0)),
        number("points"),
        number("b of a + b ln t", _with_error, sort=itemgetter(0)),
        number("R²", ".3f"),
        number("p of c tᵖ", _with_error, sort=itemgetter(0)),
        number("R²", ".3f"),
        text("closer"),
        number("noise scale, tokens", _noise_words, sort=_noise_order, missing="one batch size seen"),
    ]
    rows = []
    for walk in found:
        fit, teacher = walk.fit, walk.teacher.replace(" teacher", "")
        fits = [None] * 6
        if fit is not None:
            slope, power = (fit.b, fit.b_se), (fit.p, fit.p_se)
            fits = [fit.points, slope, fit.log_r2, power, fit.power_r2, _CLOSER[fit.better]]
        rows.append([walk.run.run_id, teacher, walk.distances[-1], walk.constant, *fits, walk.noise])
    return Table(columns, rows)


def _with_error(found: tuple[float, float]) -> str:
    return f"{found[0]:.3g} ± {found[1]:.2g}"


def _noise_words(noise: NoiseScale) -> str:
    middle = budget_text(noise.value) if noise.value else "not told from infinite"
    high = "∞" if noise.high is None else budget_text(noise.high)
    return f"{middle} [{budget_text(noise.low)}, {high}]"


def _noise_order(noise: NoiseScale) -> float:
    return noise.value or math.inf


def walk_notes(found: Sequence[Walk]) -> list[str]:
    """Which law is closer, in how many runs; and what the noise scale column says and does not."""
    fitted = [walk.fit for walk in found if walk.fit is not None]
    if not fitted:
        return ["No run has enough recorded steps at its peak rate for a fit."]
    logs = sum(fit.better == "log" for fit in fitted)
    powers = sorted(fit.p for fit in fitted)
    notes = [
        f"At the peak rate a + b ln t is closer to the distance than a power of t in {logs} of {len(fitted)} runs; the "
        f"powers lie between {powers[0]:.2f} and {powers[-1]:.2f} (ordinary diffusion would be 0.5). Points of one "
        "curve are correlated, so the standard errors below are too small."
    ]
    if any(walk.noise is not None for walk in found):
        notes.append(
            "The noise scale is tr(Σ)/|G|² with its 95 % interval, from the gradient norms of a part and of the whole "
            "batch. It is a diagnostic and no critical batch: Merrill et al. 2025 (arXiv 2505.23971) find it too small "
            "by orders of magnitude. `distillaw branch` measures."
        )
    return notes
