"""How far each run's weights went from where they began, against the logarithm of the step; and its gradient noise.

Read from distances.jsonl and metrics.jsonl of the run folders; the laws are those of regime/diffusion.py, fitted to the
phase of constant rate alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from distillaw.errors import DataError
from distillaw.planning.measured import teacher_name
from distillaw.planning.record import Run, StudyRecord, budget_text
from distillaw.regime.diffusion import DiffusionFit, fit_diffusion
from distillaw.regime.noise import FEWEST_STEPS, NoiseScale, noise_scale
from distillaw.report.content import Table, Value, number
from distillaw.report.svg import INK, SERIES, Picture, new_figure, set_title, to_svg
from distillaw.runs.files import read_json_lines

TITLE = "How far the weights went"
_CLOSER = {"log": "log t", "power": "power"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """One run's way from its first weights."""

    run: Run
    teacher: str
    """Its name; empty without one."""
    steps: Sequence[int]
    """Updates made, t >= 1."""
    distances: Sequence[float]
    """||w_t - w_0|| over all weights."""
    constant: tuple[int, int] | None
    """First and last step at the peak rate; None where fewer than two were recorded."""
    fit: DiffusionFit | None
    """None where the constant phase holds too few points."""
    noise: NoiseScale | None
    """Tokens; None where the run saw one batch size only."""


def walks(record: StudyRecord) -> list[Walk]:
    """The longest run of every trunk that kept its distances: trunks share their way."""
    longest: dict[str, Run] = {}
    for run in sorted((*record.every_teacher.values(), *record.students), key=lambda run: run.tokens):
        longest[str(run.row.get("group") or run.run_id)] = run
    found = (_walk(record, run) for run in longest.values())
    return sorted(
        (walk for walk in found if walk is not None), key=lambda w: (w.run.params, w.teacher, w.run.run_id)
    )


def _walk(record: StudyRecord, run: Run) -> Walk | None:
    rows = [] if run.folder is None else read_json_lines(run.folder / "distances.jsonl")
    if not rows:
        return None
    steps = [int(str(row["step"])) + 1 for row in rows]
    distances = [float(str(row["total"])) for row in rows]
    rates = [float(str(row["lr"])) for row in rows]
    peak = [step for step, rate in zip(steps, rates, strict=True) if rate == max(rates)]
    constant = (peak[0], peak[-1]) if len(peak) > 1 else None
    return Walk(
        run=run, teacher=teacher_name(record, run.teacher_run) if run.teacher_run else "", steps=steps,
        distances=distances, constant=constant, fit=_fit(steps, distances, constant), noise=_noise(run, constant),
    )  # fmt: skip


def _fit(
    steps: Sequence[int], distances: Sequence[float], window: tuple[int, int] | None
) -> DiffusionFit | None:
    if window is None:
        return None
    try:
        return fit_diffusion(steps, distances, first=window[0], last=window[1])
    except DataError:  # too few points
        return None


def _noise(run: Run, window: tuple[int, int] | None) -> NoiseScale | None:
    if run.folder is None or window is None:
        return None
    rows = [row for row in read_json_lines(run.folder / "metrics.jsonl")
            if "grad_sq_small" in row and window[0] <= int(str(row["step"])) + 1 <= window[1]]  # fmt: skip
    if len(rows) < FEWEST_STEPS:
        return None
    norms = ([float(str(row[key])) for row in rows] for key in ("grad_sq_small", "grad_sq_big"))
    return noise_scale(*norms, small=float(str(rows[0]["small_tokens"])), big=run.number("batch_tokens"))


def walk_curves(found: Sequence[Walk]) -> Picture | None:
    """Distance against step, one panel for each size."""
    if not found:
        return None
    sizes = sorted({walk.run.params for walk in found})
    columns = min(3, len(sizes))
    rows = -(-len(sizes) // columns)
    figure, axes = new_figure(rows, columns, width=2.5 * columns + 0.6, height=2.5 * rows + 0.2)
    panels = [ax for line in axes for ax in line]
    for ax, size in zip(panels, sizes, strict=False):
        group = [walk for walk in found if walk.run.params == size]
        for walk in group:
            _draw(ax, walk)
        set_title(ax, f"{group[0].run.label}, {len(group)} run{'s' * (len(group) > 1)}")
        ax.set_xscale("log")
        ax.set_ylim(bottom=0)
        ax.set_xlabel("step t (updates made)")
    for ax in panels[len(sizes) :]:
        ax.set_axis_off()
    for line in axes:
        line[0].set_ylabel("‖w(t) − w(0)‖")
    name, alt = "diffusion", "Distance from the first weights against step. " + " ".join(map(_words, found))
    return Picture(
        name=name, title=TITLE, alt=alt, svg=to_svg(figure, name=name, alt=alt),
        caption="Euclidean distance of all weights from those of step 0: black without a teacher, blue with one. Solid "
        "at the peak rate, dotted in warm-up and decay; dashed, a + b ln t fitted to the solid part (a straight line "
        "here). Hoffer et al. 2017 (arXiv 1705.08741) saw straight lines for image networks under SGD.",
    )  # fmt: skip


def _draw(ax: Axes, walk: Walk) -> None:
    color = SERIES[0] if walk.teacher else INK
    first, last = walk.constant or (0, 0)
    ax.plot(
        walk.steps, walk.distances, color=color, linewidth=1.0, linestyle=(0, (1, 1.5)), alpha=0.8, zorder=2
    )
    inside = [(t, d) for t, d in zip(walk.steps, walk.distances, strict=True) if first <= t <= last]
    if inside:
        ax.plot(*zip(*inside, strict=True), color=color, linewidth=1.5, alpha=0.8, zorder=3)
    if walk.fit is not None:
        ends = np.array([walk.fit.first_step, walk.fit.last_step])
        ax.plot(ends, walk.fit.line(ends), color=color, linewidth=0.9, linestyle=(0, (5, 3)))


def _words(walk: Walk) -> str:
    return f"{walk.run.run_id}: {walk.distances[-1]:.3g} after {walk.steps[-1]} steps."


def walk_table(found: Sequence[Walk]) -> Table | None:
    """Both fits of every run, with their window, and the noise scale where it was free."""
    if not found:
        return None
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
    if not found:
        return ["No run kept its distances (older ones, or DISTILLAW_DISTANCES=never)."]
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
