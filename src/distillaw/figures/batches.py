"""What the batch does: excess loss after a fork, columns of a large-batch study; and how far weights and noise went.

Distances and noise of a study are read from distances.jsonl and metrics.jsonl of its run folders; the laws are those of
large_batch/diffusion.py, fitted to the phase of constant rate alone.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from distillaw.errors import DataError
from distillaw.figures.files import read_record_file
from distillaw.figures.style import (
    DASHED,
    DOTTED,
    INK,
    MUTED,
    PAPER,
    SERIES,
    count_axis,
    in_style,
    new_figure,
    new_panels,
    set_title,
    share_range,
)
from distillaw.large_batch.diffusion import DiffusionFit, fit_diffusion
from distillaw.large_batch.images.results import (
    ColumnScore,
    ImageRecord,
    ImageWalk,
    read_record,
    read_walks,
    score_columns,
)
from distillaw.large_batch.images.spec import COLUMNS, PaperRow, hoffer2017
from distillaw.large_batch.noise import FEWEST_STEPS, NoiseScale, noise_scale
from distillaw.planning.arms import teacher_name
from distillaw.quantities import format_count
from distillaw.runs.files import read_json_lines
from distillaw.runs.record import Run, StudyRecord

# --- a study's own runs ------------------------------------------------------------------------------------


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
        longest[run.group] = run
    found = (_walk(record, run) for run in longest.values())
    return sorted((walk for walk in found if walk is not None), key=lambda w: (w.run.params, w.teacher, w.run.run_id))


def _walk(record: StudyRecord, run: Run) -> Walk | None:
    rows = [] if run.folder is None else read_json_lines(run.folder / "distances.jsonl")
    if not rows:
        return None
    steps = [int(row["step"]) + 1 for row in rows]
    distances = [float(row["total"]) for row in rows]
    rates = [float(row["lr"]) for row in rows]
    peak = [step for step, rate in zip(steps, rates, strict=True) if rate == max(rates)]
    constant = (peak[0], peak[-1]) if len(peak) > 1 else None
    fit = None
    if constant is not None:
        with contextlib.suppress(DataError):  # too few points
            fit = fit_diffusion(steps, distances, first=constant[0], last=constant[1])
    return Walk(
        run=run,
        teacher=teacher_name(record, run.teacher_run) if run.teacher_run else "",
        steps=steps,
        distances=distances,
        constant=constant,
        fit=fit,
        noise=None if constant is None else _noise(run, *constant),
    )


def _noise(run: Run, first: int, last: int) -> NoiseScale | None:
    assert run.folder is not None  # its distances are there
    rows = [
        row
        for row in read_json_lines(run.folder / "metrics.jsonl")
        if "grad_sq_small" in row and first <= int(row["step"]) + 1 <= last
    ]
    if len(rows) < FEWEST_STEPS:
        return None
    norms = ([float(row[key]) for row in rows] for key in ("grad_sq_small", "grad_sq_big"))
    return noise_scale(*norms, small=float(rows[0]["small_tokens"]), big=run.number("batch_tokens"))


@in_style
def draw_walks(found: Sequence[Walk]) -> Figure:
    """Distance against step, one panel for each size; DataError: there are none."""
    if not found:
        raise DataError("No run kept its distances (older ones, or DISTILLAW_DISTANCES=never).")
    sizes = sorted({walk.run.params for walk in found})
    axes = {"x": "step t (updates made)", "y": "‖w(t) − w(0)‖"}
    figure, panels = new_panels(len(sizes), panel=(2.6, 2.5), most=3, **axes)
    for ax, size in zip(panels, sizes, strict=True):
        group = [walk for walk in found if walk.run.params == size]
        for walk in group:
            _draw_walk(ax, walk)
        set_title(ax, f"{group[0].run.label}, {len(group)} run{'s' * (len(group) > 1)}")
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        ax.set_ylim(bottom=0)
    return figure


def _draw_walk(ax: Axes, walk: Walk) -> None:
    color = SERIES[0] if walk.teacher else INK
    first, last = walk.constant or (0, 0)
    ax.plot(walk.steps, walk.distances, color=color, linewidth=1.0, linestyle=DOTTED, alpha=0.8, zorder=2)
    inside = [(t, d) for t, d in zip(walk.steps, walk.distances, strict=True) if first <= t <= last]
    if inside:
        ax.plot(*zip(*inside, strict=True), color=color, linewidth=1.5, alpha=0.8, zorder=3)
    if walk.fit is not None:
        ends = np.array([walk.fit.first_step, walk.fit.last_step])
        ax.plot(ends, walk.fit.line(ends), color=color, linewidth=0.9, linestyle=(0, (5, 3)))


# --- after a fork ------------------------------------------------------------------------------------------


STYLES = {"distilled": (SERIES[0], "o"), "supervised": (SERIES[1], "s")}


@in_style
def draw_excess(record: Mapping[str, Any], fork: Mapping[str, Any]) -> Figure:
    """A panel per checkpoint; one for all where each loss is branched from its own checkpoint only."""
    arms = fork["arms"]
    panels = {"each loss from its own checkpoint": arms}
    if len(arms) < 2 or any(arm["trunk"] != arm["loss"] for arm in arms):
        trunks = dict.fromkeys(arm["trunk"] for arm in arms)
        panels = {f"{trunk} checkpoint": [a for a in arms if a["trunk"] == trunk] for trunk in trunks}
    figure, axes = new_figure(1, len(panels), width=4.8 if len(panels) == 1 else 3.4 * len(panels), height=3.2)
    for ax, (title, arms) in zip(axes[0], panels.items(), strict=True):
        for shift, arm in enumerate(arms):
            _draw_arm(ax, arm, shift=1 + 0.04 * (shift - (len(arms) - 1) / 2))
        ax.axhline(0, color=INK, linewidth=0.7)
        count_axis(ax, [k * record["run"]["batch_tokens"] for k in record["test"]["multiples"]])
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        ax.set_xlabel("batch, tokens")
        set_title(ax, title)
        ax.legend(loc="upper left", fontsize="small")
    share_range(axes[0])
    axes[0][0].set_ylabel("excess loss, nats/token")
    return figure


def _draw_arm(ax: Axes, arm: Mapping[str, Any], *, shift: float) -> None:
    color, marker = STYLES[arm["loss"]]
    rows = [row for row in arm["rows"] if row["excess"] is not None]
    x, y = [row["batch_tokens"] * shift for row in rows], [row["excess"] for row in rows]
    ax.plot(x, y, marker=marker, color=color, markersize=4.5, label=arm["loss"])
    for place, row in zip(x, rows, strict=True):
        ax.plot([place, place], row["excess_interval"], color=color, linewidth=2.4, alpha=0.4)
    first = arm["decisions"][0]
    ax.axhline(first["tolerance"], color=color, linestyle=DASHED, linewidth=0.9)
    if first["status"] in ("BRACKETED", "FIRST_FAILS"):
        ax.axvline(first["critical_batch"], color=color, linestyle=":", linewidth=1.0)
    for row in arm["rows"]:
        if row["excess"] is None:
            ax.annotate("diverged", (row["batch_tokens"], 0), rotation=90, fontsize="x-small", color=MUTED)


# --- columns of a large-batch study, and its walks ---------------------------------------------------------


@in_style
def draw_columns(scores: Sequence[ColumnScore], row: PaperRow | None) -> Figure:
    """Accuracy of each column: ours with seeds and interval, the paper's single numbers beside it."""
    figure, axes = new_figure(1, 1 if row is None else 2, width=4.6 if row is None else 7.4, height=3.2)
    ax = axes[0][0]
    for place, score in enumerate(scores):
        color = INK if score.column == "SB" else SERIES[1] if score.column == "LB" else SERIES[0]
        offsets = np.linspace(-0.16, 0.16, len(score.accuracy)) if len(score.accuracy) > 1 else np.zeros(1)
        ax.plot(place + offsets, score.accuracy, ".", color=color, alpha=0.55, markersize=4)
        if score.interval is not None:
            ax.plot([place, place], score.interval, color=color, linewidth=1.6)
        ax.plot(place, score.mean, "o", color=color, markerfacecolor=PAPER, markersize=6)
    small_batch = {"color": MUTED, "linewidth": 0.9, "linestyle": DASHED, "zorder": 0}
    for score in scores:
        if score.column == "SB":
            ax.axhline(score.mean, **small_batch)
    ax.set_xticks(range(len(scores)), [score.column for score in scores])
    ax.set_ylabel("test accuracy, %")
    ax.margins(x=0.08)
    set_title(ax, "ours")
    if row is not None:
        ax = axes[0][1]
        ax.plot(range(len(row.accuracy)), list(row.accuracy.values()), "o", color=MUTED, markersize=6)
        ax.axhline(row.accuracy["SB"], **small_batch)
        ax.set_xticks(range(len(row.accuracy)), list(row.accuracy))
        ax.margins(x=0.1, y=0.12)
        set_title(ax, f"paper: {row.network} on {row.data}")
    return figure


@in_style
def draw_error_curves(record: ImageRecord) -> Figure:
    """Test error on the way, per cent, mean over seeds: against epochs on the left, against updates on the right."""
    figure, axes = new_figure(1, 2, width=7.4, height=3.2)
    columns = [column for column in COLUMNS if record.done(column)]
    for place, column in enumerate(columns):
        cells = list(record.done(column).values())
        updates = np.array(cells[0]["curves"]["evaluated"])
        error = 100 - np.mean([cell["curves"]["accuracy"] for cell in cells], axis=0)
        style = {"color": INK if column == "SB" else SERIES[place % len(SERIES)], "label": column, "markersize": 3}
        axes[0][0].plot(updates / cells[0]["steps_per_epoch"], error, "o-", **style)
        axes[0][1].plot(updates, error, "o-", **style)
    for ax, what in zip(axes[0], ("epochs", "updates"), strict=True):
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_xlabel(what)
    axes[0][1].set_xscale("log")
    axes[0][0].set_ylabel("test error, %")
    axes[0][1].legend(loc="best")
    return figure


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
            _draw_image_walk(ax, walk, SERIES[sizes.index(walk.batch) % len(SERIES)])
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
        handles=[Line2D([], [], color=SERIES[i % len(SERIES)], label=f"batch {size}") for i, size in enumerate(sizes)],
        loc="lower right",
    )
    return figure


def _draw_image_walk(ax: Axes, walk: ImageWalk, color: str) -> None:
    for curve in walk.curves.values():
        ax.plot(*zip(*curve, strict=True), color=color, linewidth=1.0, alpha=0.55)
    fits = list(walk.fits.values())
    t = np.geomspace(min(fit.first_step for fit in fits), walk.last_step, 80)
    line = np.mean([fit.line(t) for fit in fits], axis=0)
    power = np.mean([fit.power(t) for fit in fits], axis=0)
    ax.plot(t, np.where(line > 0, line, np.nan), color=color, linewidth=0.9, linestyle=(0, (4, 2)))
    ax.plot(t, power, color=color, linewidth=1.0, linestyle=DOTTED)


# --- of folders --------------------------------------------------------------------------------------------


@in_style
def branch(folder: str | Path, *, fork: int = -1) -> Figure:
    """What larger batches cost after a fork: excess loss, nats/token, against the batch in tokens, by loss.

    Bars: the interval of the test's level over orders and held-out documents; dashed: the tolerance; dotted: the
    critical batch.

    Args:
        folder: what `distillaw branch` wrote.
        fork: which of its forks, in the order of training; by default the last.

    Raises:
        CacheError: no branch.json there.
    """
    record = read_record_file(Path(folder) / "branch.json", "distillaw branch")
    return draw_excess(record, record["forks"][fork])


@in_style
def large_batch(folder: str | Path) -> Figure:
    """Test accuracy of each column of a large-batch study, per cent, beside the paper's single numbers.

    Dots: seeds; rings: means with the 95 % interval for other seeds and test images.

    Args:
        folder: what `distillaw large-batch run` wrote.

    Raises:
        CacheError: there is no such study.
        DataError: no cell has finished.
    """
    record = read_record(Path(folder))
    if not record.results:
        raise DataError(f"{folder}: no cell has finished yet")
    row = hoffer2017().row(record.study.paper) if record.study.paper else None
    scores = score_columns(record, row.accuracy if row else {})
    return draw_columns(scores, row)


@in_style
def large_batch_distances(folder: str | Path) -> Figure:
    """Distance from the first weights against the logarithm of the update, a panel before and one after corrections.

    Args:
        folder: what `distillaw large-batch run` wrote.

    Raises:
        CacheError: there is no such study.
        DataError: no run kept its distances.
    """
    walks = read_walks(read_record(Path(folder)))
    if not walks:
        raise DataError(f"{folder}: no cell kept its distances")
    return draw_image_walks(walks)
