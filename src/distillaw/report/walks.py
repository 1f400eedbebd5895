"""How far the weights went, in words: caption, table and sentences around figures/walks.py."""

from collections.abc import Sequence

from distillaw.figures.walks import Walk, draw_walks
from distillaw.large_batch.noise import NoiseScale
from distillaw.report.content import Table, Value, number
from distillaw.report.picture import Picture
from distillaw.runs.record import budget_text

TITLE = "How far the weights went"
_CLOSER = {"log": "log t", "power": "power"}


def walks_picture(found: Sequence[Walk]) -> Picture:
    """Distance against step.

    Raises:
        DataError: no run kept its distances.
    """
    return Picture(
        name="diffusion", title=TITLE, figure=draw_walks(found),
        alt="Distance from the first weights against step. " + " ".join(map(_words, found)),
        caption="Euclidean distance of all weights from those of step 0; blue: with a teacher. Solid "
        "at the peak rate, dotted in warm-up and decay; dashed, a + b ln t fitted to the solid part (a straight line "
        "here). Hoffer et al. 2017 (arXiv 1705.08741) saw straight lines for image networks under SGD.",
    )  # fmt: skip


def _words(walk: Walk) -> str:
    return f"{walk.run.run_id}: {walk.distances[-1]:.3g} after {walk.steps[-1]} steps."


def walk_table(found: Sequence[Walk]) -> Table:
    """Both fits of every run, with their window, and the noise scale where it was free."""
    columns = ["run", "teacher", "at the end", "peak rate, steps", "points", "b of a + b ln t", "R²", "p of c tᵖ", "R²",
               "closer", "noise scale, tokens"]  # fmt: skip
    return Table(columns=columns, rows=[_row(walk) for walk in found])


def _row(walk: Walk) -> list[Value]:
    fit, empty = walk.fit, Value(text="", sort=float("-inf"))
    window = "" if walk.constant is None else f"{walk.constant[0]:,} to {walk.constant[1]:,}"
    cells = [
        _with_error(fit.b, fit.b_se), number(fit.log_r2, 3), _with_error(fit.p, fit.p_se), number(fit.power_r2, 3),
        Value(text=_CLOSER[fit.better], sort=fit.better, kind="text"),
    ] if fit else [empty] * 5  # fmt: skip
    return [
        Value(text=walk.run.run_id, sort=walk.run.run_id, kind="text"),
        Value(text=walk.teacher.replace(" teacher", ""), sort=walk.teacher, kind="text"),
        number(walk.distances[-1], 2), Value(text=window, sort=walk.constant[0] if walk.constant else 0),
        Value(text=str(fit.points) if fit else "", sort=fit.points if fit else 0), *cells, _noise_value(walk.noise),
    ]  # fmt: skip


def _with_error(value: float, se: float) -> Value:
    return Value(text=f"{value:.3g} ± {se:.2g}", sort=value)


def _noise_value(noise: NoiseScale | None) -> Value:
    if noise is None:
        return Value(text="one batch size seen", sort=float("-inf"), kind="text")
    middle = budget_text(noise.value) if noise.value else "not told from infinite"
    high = "∞" if noise.high is None else budget_text(noise.high)
    return Value(text=f"{middle} [{budget_text(noise.low)}, {high}]", sort=noise.value or float("inf"))


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
