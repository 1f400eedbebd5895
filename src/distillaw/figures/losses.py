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
    dot,
    draw_band,
    in_style,
    label_ends,
    new_figure,
    new_panels,
    note,
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
        look = {"color": color, "size": 5.5, "filled": t.is_best}
        dot(ax, t.teacher_loss, t.loss, **look, markeredgewidth=1.3, zorder=3)
    for j, t in enumerate(_named(cell)):
        is_left = j == 0 and len(x) > 1  # centred, it would run through the axis
        is_above = cell.taught[1].loss < t.loss if is_left else j % 2  # neighbours are often close: in turn
        side = 1 if is_above else -1
        at, offset = (t.teacher_loss, t.loss + side * t.half), (-4 if is_left else 0, 3 * side)
        sides = {"ha": "left" if is_left else "center", "va": "bottom" if is_above else "top"}
        box = {"facecolor": PAPER, "alpha": 0.7, "edgecolor": "none", "pad": 0.4}
        note(ax, short_teacher(t.teacher), at, offset, **sides, color=MUTED, clip=None, bbox=box)
    set_title(ax, f"{cell.label} student, {budget_text(cell.tokens)} tokens")
    ax.margins(x=0.16, y=0.16)
    ax.invert_xaxis()
    beside = {"va": "center", "clip": False, "xycoords": ("axes fraction", "data")}
    note(ax, "no\nteacher", (1.0, cell.alone), (3, 0), **beside)


def _named(cell: MeasuredPoint) -> list[DistilledPoint]:
    """The teachers whose names are written."""
    if len(cell.taught) <= MOST_NAMED:
        return list(cell.taught)
    return [t for t in cell.taught if t.is_best or t in (cell.taught[0], cell.taught[-1])]


def short_teacher(teacher: str) -> str:
    """A teacher's name where there is little room."""
    return teacher.replace(" teacher", "").replace(" tokens", "")


@dataclass(frozen=True, slots=True)
class _Line:
    """One teacher's students of one size, or those without a teacher."""

    name: str
    style: TeacherStyle
    points: Sequence[tuple[int, float, float]]
    """(tokens, loss, half of its interval)."""
    at: np.ndarray
    """Tokens of `law`."""
    law: PredictedLoss | None


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
    law, taught = laws.get("supervised"), laws.get("distillation-reduced")
    curve = law.predict(params=size, tokens=at) if law else None
    alone = [(c.tokens, c.alone, float(c.seed_half)) for c in cells]
    found = [_Line("no teacher", NO_TEACHER, alone, at, curve)]
    for run, style in styles.items():
        own = [(c.tokens, t) for c in cells for t in c.taught if t.teacher_run == run]
        if not own:
            continue
        one, curve = own[0][1], None
        if taught:
            curve = taught.predict(student_params=size, student_tokens=at, teacher_loss=one.teacher_loss)
        points = [(tokens, t.loss, t.half) for tokens, t in own]
        found.append(_Line(short_teacher(one.teacher), style, points, at, curve))
    return found


def _token_panel(ax: Axes, cells: Sequence[MeasuredPoint], lines: Sequence[_Line]) -> None:
    for line in lines:
        tokens, losses, halves = map(np.array, zip(*line.points, strict=True))
        color, marker = line.style.color, line.style.marker
        if line.law is None:
            ax.plot(tokens, losses, marker=marker, color=color, markersize=4)
            ax.fill_between(tokens, losses - halves, losses + halves, color=color, alpha=0.14, linewidth=0)
        else:
            draw_law(ax, line.at, line.law, color=color)
            ax.plot(tokens, losses, marker, color=color, markersize=4)
        for x, loss, half in line.points:
            ax.plot([x, x], [loss - half, loss + half], color=color, linewidth=1.1)
    count_axis(ax, [float(c.tokens) for c in cells])
    set_title(ax, f"{cells[0].label} student")
    label_ends(ax, [(line.name, line.style.color, *line.points[-1][:2]) for line in lines], gap=LINE)


def draw_law(ax: Axes, at: np.ndarray, law: PredictedLoss, *, color: str) -> None:
    """The curve of a fitted law with the interval of a new run."""
    ends = {"mean": law.mean, "lower": law.lower, "upper": law.upper, "inside": law.inside_range}
    draw_band(ax, at, **ends, color=color, alpha=0.1, linewidth=1.2)
