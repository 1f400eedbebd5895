"""How far each run's weights went from where they began, against the logarithm of the step; and its gradient noise.

Read from distances.jsonl and metrics.jsonl of the run folders; the laws are those of large_batch/diffusion.py, fitted
to the phase of constant rate alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from distillaw.errors import DataError
from distillaw.figures.style import DOTTED, INK, SERIES, in_style, new_panels, set_title
from distillaw.large_batch.diffusion import DiffusionFit, fit_diffusion
from distillaw.large_batch.noise import FEWEST_STEPS, NoiseScale, noise_scale
from distillaw.planning.arms import teacher_name
from distillaw.runs.files import read_json_lines
from distillaw.runs.record import Run, StudyRecord


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
        run=run,
        teacher=teacher_name(record, run.teacher_run) if run.teacher_run else "",
        steps=steps,
        distances=distances,
        constant=constant,
        fit=_fit(steps, distances, constant),
        noise=_noise(run, constant),
    )


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
    rows = [
        row
        for row in read_json_lines(run.folder / "metrics.jsonl")
        if "grad_sq_small" in row and window[0] <= int(str(row["step"])) + 1 <= window[1]
    ]
    if len(rows) < FEWEST_STEPS:
        return None
    norms = ([float(str(row[key])) for row in rows] for key in ("grad_sq_small", "grad_sq_big"))
    return noise_scale(*norms, small=float(str(rows[0]["small_tokens"])), big=run.number("batch_tokens"))


@in_style
def draw_walks(found: Sequence[Walk]) -> Figure:
    """Distance against step, one panel for each size.

    Raises:
        DataError: there are none.
    """
    if not found:
        raise DataError("No run kept its distances (older ones, or DISTILLAW_DISTANCES=never).")
    sizes = sorted({walk.run.params for walk in found})
    figure, panels, columns = new_panels(len(sizes), panel=(2.6, 2.5), most=3)
    for place, (ax, size) in enumerate(zip(panels, sizes, strict=True)):
        group = [walk for walk in found if walk.run.params == size]
        for walk in group:
            _draw(ax, walk)
        set_title(ax, f"{group[0].run.label}, {len(group)} run{'s' * (len(group) > 1)}")
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        ax.set_ylim(bottom=0)
        ax.set_xlabel("step t (updates made)")
        if place % columns == 0:
            ax.set_ylabel("‖w(t) − w(0)‖")
    return figure


def _draw(ax: Axes, walk: Walk) -> None:
    color = SERIES[0] if walk.teacher else INK
    first, last = walk.constant or (0, 0)
    ax.plot(walk.steps, walk.distances, color=color, linewidth=1.0, linestyle=DOTTED, alpha=0.8, zorder=2)
    inside = [(t, d) for t, d in zip(walk.steps, walk.distances, strict=True) if first <= t <= last]
    if inside:
        ax.plot(*zip(*inside, strict=True), color=color, linewidth=1.5, alpha=0.8, zorder=3)
    if walk.fit is not None:
        ends = np.array([walk.fit.first_step, walk.fit.last_step])
        ax.plot(ends, walk.fit.line(ends), color=color, linewidth=0.9, linestyle=(0, (5, 3)))
