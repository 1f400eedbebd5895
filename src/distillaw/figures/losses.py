"""The two pictures of a study's losses: against the teacher's loss (the capacity gap) and against tokens."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillaw.errors import DataError
from distillaw.figures.style import (
    DASHED,
    INK,
    MUTED,
    PAPER,
    SERIES,
    count_axis,
    current_look,
    draw_band,
    in_style,
    label_ends,
    new_figure,
    new_panels,
    set_title,
)
from distillaw.fitting.result import FitResult, PredictedLoss
from distillaw.planning.measured import DistilledPoint, MeasuredPoint
from distillaw.runs.record import StudyRecord, budget_text

LINE = 0.062
"""Height of a line of text over that of a panel of token curves."""
MOST = 3
"""Panels side by side: more are too small to read on a page."""
MOST_NAMED = 4
"""Of more teachers in one panel only the worst, the best for this student and the strongest are named."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""The colours come again with the next of these where teachers are more than colours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherStyle:
    """Colour and marker of one teacher's students."""

    color: str
    marker: str = "o"


NO_TEACHER = TeacherStyle(color=INK)


def teacher_styles(record: StudyRecord) -> Mapping[str, TeacherStyle]:
    """The look of every teacher by its run, worst teacher first, whether or not a figure shows it."""
    losses = {name: run.loss for name, run in record.teachers.items()}
    for run in record.students:
        if run.teacher_run:  # its own run may be elsewhere
            losses.setdefault(run.teacher_run, run.number("teacher_loss"))
    order = sorted(losses, key=lambda run: (-losses[run] if math.isfinite(losses[run]) else math.inf, run))
    return {run: _style(place) for place, run in enumerate(order)}


def _style(place: int) -> TeacherStyle:
    again, at = divmod(place, len(SERIES))
    return TeacherStyle(color=SERIES[at], marker=MARKERS[again % len(MARKERS)])


@in_style
def draw_gap(cells: Sequence[MeasuredPoint]) -> Figure:
    """Student loss against teacher loss, one panel per student size (column) and token budget (row).

    Raises:
        DataError: no cell has been run with a teacher.
    """
    cells = [cell for cell in cells if cell.taught]
    if not cells:
        raise DataError("No student has been run both with and without a teacher yet.")
    sizes, budgets = sorted({c.params for c in cells}), sorted({c.tokens for c in cells})
    is_sparse = len(cells) <= 0.6 * len(sizes) * len(budgets)
    is_narrow = current_look().columns(len(sizes), panel=3.3) < len(sizes)
    if is_sparse or is_narrow:  # no grid of empty places, or no room for one
        figure, panels = new_panels(len(cells), panel=(3.3, 2.35), most=MOST, y=GAP_AXES["y"])
        columns = min(MOST, current_look().columns(len(cells), panel=3.3))
        for place, (ax, cell) in enumerate(zip(panels, cells, strict=True)):
            _gap_panel(ax, cell)
            if place + columns >= len(cells):
                ax.set_xlabel(GAP_AXES["x"])
        return figure
    figure, axes = new_figure(
        len(budgets), len(sizes), width=3.3 * len(sizes) + 0.4, height=2.35 * len(budgets) + 0.3
    )
    last = {c.params: c.tokens for c in sorted(cells, key=lambda c: c.tokens)}
    for row, budget in enumerate(budgets):
        own = {c.params: c for c in cells if c.tokens == budget}
        for column, size in enumerate(sizes):
            if size in own:
                ax = axes[row][column]
                _gap_panel(ax, own[size])
                ax.set_xlabel(GAP_AXES["x"] if budget == last[size] else "")
                ax.set_ylabel(GAP_AXES["y"] if size == min(own) else "")
            else:
                axes[row][column].set_axis_off()
    return figure


GAP_AXES = {"x": "teacher loss, nats/token  (better →)", "y": "student loss, nats/token"}


def _gap_panel(ax: Axes, cell: MeasuredPoint) -> None:
    color = SERIES[0]
    x = [t.teacher_loss for t in cell.taught]
    ax.axhline(cell.alone, color=INK, linestyle=DASHED, linewidth=1.1)
    ax.plot(x, [t.loss for t in cell.taught], color=color)
    for t in cell.taught:
        ax.plot([t.teacher_loss] * 2, [t.loss - t.half, t.loss + t.half], color=color, linewidth=1.1)
        if len(t.seeds) > 1:
            ax.plot([t.teacher_loss] * len(t.seeds), t.seeds, "o", color=color, markersize=2.2, alpha=0.6)
        ax.plot(
            t.teacher_loss,
            t.loss,
            "o",
            markersize=5.5,
            markeredgecolor=color,
            markeredgewidth=1.3,
            markerfacecolor=color if t.is_best else PAPER,
            zorder=3,
        )
    for j, t in enumerate(_named(cell)):
        is_left = j == 0 and len(x) > 1  # centred, it would run through the axis
        is_above = cell.taught[1].loss < t.loss if is_left else j % 2  # neighbours are often close: in turn
        side = 1 if is_above else -1
        ax.annotate(
            short_teacher(t.teacher),
            (t.teacher_loss, t.loss + side * t.half),
            textcoords="offset points",
            xytext=(-4 if is_left else 0, 3 * side),
            ha="left" if is_left else "center",
            va="bottom" if is_above else "top",
            fontsize="small",
            color=MUTED,
            bbox={"facecolor": PAPER, "alpha": 0.7, "edgecolor": "none", "pad": 0.4},
        )
    set_title(ax, f"{cell.label} student, {budget_text(cell.tokens)} tokens")
    ax.margins(x=0.16, y=0.16)
    ax.invert_xaxis()
    ax.annotate(
        "no\nteacher",
        (1.0, cell.alone),
        xycoords=("axes fraction", "data"),
        xytext=(3, 0),
        ha="left",
        va="center",
        textcoords="offset points",
        fontsize="small",
        color=INK,
        annotation_clip=False,
    )


def _named(cell: MeasuredPoint) -> list[DistilledPoint]:
    """The teachers whose names are written."""
    if len(cell.taught) <= MOST_NAMED:
        return list(cell.taught)
    return [t for t in cell.taught if t.is_best or t in (cell.taught[0], cell.taught[-1])]


def short_teacher(teacher: str) -> str:
    """A teacher's name where there is little room."""
    return teacher.replace(" teacher", "").replace(" tokens", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One teacher's students of one size, or those without a teacher."""

    name: str
    style: TeacherStyle
    tokens: Sequence[int]
    losses: Sequence[float]
    halves: Sequence[float]
    law: PredictedLoss | None
    at: np.ndarray
    """Tokens of `law`."""


@in_style
def draw_tokens(
    cells: Sequence[MeasuredPoint],
    styles: Mapping[str, TeacherStyle],
    *,
    laws: Mapping[str, FitResult] | None = None,
) -> Figure:
    """Student loss against tokens, with and without teachers, one panel per student size.

    Args:
        cells: of the study.
        styles: of its teachers.
        laws: its laws that may be drawn, by family: then the curves are theirs, with the interval of a new run.

    Raises:
        DataError: there are no cells.
    """
    sizes = sorted({c.params for c in cells})
    if not sizes:
        raise DataError("No student has been run without a teacher yet.")
    axes = {"x": "training tokens", "y": "student loss, nats/token"}
    figure, panels = new_panels(len(sizes), panel=(3.3, 3.0), margin=(1.0, 0.3), most=MOST, **axes)
    for ax, size in zip(panels, sizes, strict=True):
        own = [c for c in cells if c.params == size]
        _token_panel(ax, own, _lines(own, styles, laws or {}))
    return figure


def _lines(
    cells: Sequence[MeasuredPoint], styles: Mapping[str, TeacherStyle], laws: Mapping[str, FitResult]
) -> list[_Line]:
    budgets = [c.tokens for c in cells]
    at = np.geomspace(min(budgets), max(budgets), 60)
    size = float(cells[0].params)
    plain, taught = laws.get("supervised"), laws.get("distillation-reduced")
    found = [
        _Line(
            name="no teacher",
            style=NO_TEACHER,
            tokens=budgets,
            losses=[c.alone for c in cells],
            at=at,
            halves=[float(c.seed_half) for c in cells],
            law=plain.predict(params=size, tokens=at) if plain else None,
        )
    ]
    for run, style in styles.items():
        points = [(c.tokens, t) for c in cells for t in c.taught if t.teacher_run == run]
        if not points:
            continue
        one = points[0][1]
        law = (
            taught.predict(student_params=size, student_tokens=at, teacher_loss=one.teacher_loss)
            if taught
            else None
        )
        found.append(
            _Line(
                name=short_teacher(one.teacher),
                style=style,
                tokens=[d for d, _ in points],
                at=at,
                law=law,
                losses=[t.loss for _, t in points],
                halves=[t.half for _, t in points],
            )
        )
    return found


def _token_panel(ax: Axes, cells: Sequence[MeasuredPoint], lines: Sequence[_Line]) -> None:
    for line in lines:
        losses, halves = np.array(line.losses), np.array(line.halves)
        color, marker = line.style.color, line.style.marker
        if line.law is None:
            ax.plot(line.tokens, losses, marker=marker, color=color, markersize=4)
            ax.fill_between(
                line.tokens, losses - halves, losses + halves, color=color, alpha=0.14, linewidth=0
            )
        else:
            draw_band(
                ax,
                line.at,
                mean=line.law.mean,
                lower=line.law.lower,
                upper=line.law.upper,
                color=color,
                inside=line.law.inside_range,
                alpha=0.1,
                linewidth=1.2,
            )
            ax.plot(line.tokens, losses, marker, color=color, markersize=4)
        for x, loss, half in zip(line.tokens, losses, halves, strict=True):
            ax.plot([x, x], [loss - half, loss + half], color=color, linewidth=1.1)
    count_axis(ax, [float(c.tokens) for c in cells])
    set_title(ax, f"{cells[0].label} student")
    label_ends(
        ax, [(line.name, line.style.color, line.tokens[-1], line.losses[-1]) for line in lines], gap=LINE
    )
