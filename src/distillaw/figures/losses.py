"""The pictures of a study's losses: against the teacher's (the capacity gap), against tokens, against size.

Against size compute is equal: what the student costs whoever has the teacher already, C = 3 F(N_S) D_S + F(N_T) D_S
(accounting scenario INFERENCE): training and the teacher's forward passes. A budget C gives each size its tokens; an
arm whose runs reach them is read off between its own token budgets (`planning/measured.py`), or at most a quarter
beyond them.
"""

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
    Z90,
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
from distillaw.planning.arms import MeasuredArm, student_arms
from distillaw.planning.measured import DistilledPoint, MeasuredPoint, study_seed_noise
from distillaw.quantities import flop_text
from distillaw.runs.paired import t_quantile
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
    colors, marks = len(SERIES), len(MARKERS)
    return {
        run: TeacherStyle(color=SERIES[place % colors], marker=MARKERS[place // colors % marks])
        for place, run in enumerate(order)
    }


@in_style
def draw_gap(cells: Sequence[MeasuredPoint]) -> Figure:
    """Student loss against teacher loss, one panel per student size (column) and token budget (row).

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
    figure, axes = new_figure(len(budgets), len(sizes), width=3.3 * len(sizes) + 0.4, height=2.35 * len(budgets) + 0.3)
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
    cells: Sequence[MeasuredPoint], styles: Mapping[str, TeacherStyle], *, laws: Mapping[str, FitResult] | None = None
) -> Figure:
    """Student loss against tokens, with and without teachers, one panel per student size; DataError: no cells.

    `laws`: the study's that may be drawn, by family: then the curves are theirs, with the interval of a new run.
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
            _draw_law(ax, line.at, line.law, color=color)
            ax.plot(tokens, losses, marker, color=color, markersize=4)
        for x, loss, half in line.points:
            ax.plot([x, x], [loss - half, loss + half], color=color, linewidth=1.1)
    count_axis(ax, [float(c.tokens) for c in cells])
    set_title(ax, f"{cells[0].label} student")
    label_ends(ax, [(line.name, line.style.color, *line.points[-1][:2]) for line in lines], gap=LINE)


def _draw_law(ax: Axes, at: np.ndarray, law: PredictedLoss, *, color: str) -> None:
    """The curve of a fitted law with the interval of a new run."""
    ends = {"mean": law.mean, "lower": law.lower, "upper": law.upper, "inside": law.inside_range}
    draw_band(ax, at, **ends, color=color, alpha=0.1, linewidth=1.2)


# --- against size, at equal compute ------------------------------------------------------------------------


LEVEL = 0.9
"""Of the intervals drawn, as of a verdict's."""
FEWEST_SIZES = 3
"""Below that a line shows no valley."""
BEYOND = 1.25
"""How far beyond its largest token budget an arm is read; marked, with the doubt of the extrapolation in its bar."""
APART, MOST_BUDGETS, MOST_TEACHERS = 1.7, 4, 4
"""Budgets differ at least by this factor; so many of them, and so many teachers, the best ones, are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoPoint:
    """One student size at a budget."""

    params: int
    tokens: float
    loss: float
    half: float
    """Half width of the 90 % interval: seeds, and what lies between or beyond the token budgets that were run."""
    is_beyond: bool
    """Read off beyond the largest budget that was run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoCurve:
    """One teacher's students, or those without one, at a budget."""

    name: str
    teacher_run: str
    """Empty without a teacher."""
    teacher_loss: float
    logit_flop: float
    """F(N_T), FLOP per token; 0 without a teacher."""
    points: Sequence[IsoPoint]

    @property
    def short_name(self) -> str:
        """Where there is little room."""
        return short_teacher(self.name) if self.teacher_run else self.name

    @property
    def best(self) -> IsoPoint:
        """The size with the lowest loss."""
        return min(self.points, key=lambda p: p.loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoBudget:
    """All sizes at one compute."""

    compute: float
    """FLOP of a student's training and its teacher's forward passes."""
    curves: Sequence[IsoCurve]
    """Without a teacher first, then worst teacher first; at least three sizes each."""


def iso_budgets(record: StudyRecord) -> list[IsoBudget]:
    """The budgets at which at least three sizes can be compared without a teacher; none where there are none."""
    arms = [student_arms(record, size) for size in sorted({run.params for run in record.students})]
    alone = [own[0] for own in arms if own and own[0].teacher is None]
    reach = [(_flop(arm) * min(arm.runs), _flop(arm) * max(arm.runs) * BEYOND) for arm in alone]
    found = []
    for compute in _levels(reach):
        curves = _curves(record, arms, compute)
        if curves and not curves[0].teacher_run:
            found.append(IsoBudget(compute=compute, curves=curves))
    return found


def _flop(arm: MeasuredArm) -> float:
    """FLOP per token of a student and its teacher's forward pass."""
    return arm.student_flop_per_token + arm.logit_flop_per_token


def _levels(reach: Sequence[tuple[float, float]]) -> list[float]:
    """Computes that at least three sizes reach, ascending and apart."""
    ends = sorted({end / (BEYOND if i else 1) for pair in reach for i, end in enumerate(pair)})
    shared = [c for c in ends if sum(low * 0.999 <= c <= high for low, high in reach) >= FEWEST_SIZES]
    # of two levels close together the one that more sizes reach, else the larger
    shared.sort(key=lambda c: (-sum(low * 0.999 <= c <= high for low, high in reach), -c))
    kept: list[float] = []
    for compute in shared:
        if all(abs(math.log(compute / other)) >= math.log(APART) for other in kept):
            kept.append(compute)
    kept.sort()
    if len(kept) <= MOST_BUDGETS:
        return kept
    return [kept[round(i)] for i in np.linspace(0, len(kept) - 1, MOST_BUDGETS)]


def _curves(record: StudyRecord, arms: Sequence[Sequence[MeasuredArm]], compute: float) -> list[IsoCurve]:
    points: dict[str, list[tuple[MeasuredArm, IsoPoint]]] = {}
    for own in arms:
        for arm in own:
            point = _iso_point(record, arm, compute)
            if point is not None:
                points.setdefault(arm.teacher.run_id if arm.teacher else "", []).append((arm, point))
    curves = []
    for run, found in points.items():
        arm = found[0][0]
        if len(found) >= FEWEST_SIZES:
            curves.append(
                IsoCurve(
                    name=arm.name,
                    teacher_run=run,
                    teacher_loss=arm.teacher.loss if arm.teacher else math.nan,
                    logit_flop=arm.logit_flop_per_token,
                    points=[point for _, point in found],
                )
            )
    taught = sorted((c for c in curves if c.teacher_run), key=lambda c: c.best.loss)[:MOST_TEACHERS]
    return [c for c in curves if not c.teacher_run] + sorted(taught, key=lambda c: -c.teacher_loss)


def _iso_point(record: StudyRecord, arm: MeasuredArm, compute: float) -> IsoPoint | None:
    tokens = compute / _flop(arm)
    if not min(arm.runs) * 0.99 <= tokens <= BEYOND * max(arm.runs):
        return None
    point = arm.at(tokens)
    if point is None:
        return None
    params = next(iter(arm.runs[max(arm.runs)].values())).params
    loss = point.mean_loss
    noise = study_seed_noise(record, student_params=params, tokens=tokens, loss=loss)
    seeds = t_quantile(0.5 + LEVEL / 2, noise.dof) * noise.sd / math.sqrt(len(point.seeds))
    return IsoPoint(
        params=params,
        tokens=tokens,
        loss=loss,
        half=math.hypot(seeds, Z90 * point.sd),
        is_beyond=point.basis == "extrapolated",
    )


@in_style
def draw_isoflop(
    budgets: Sequence[IsoBudget], styles: Mapping[str, TeacherStyle], *, laws: Mapping[str, FitResult] | None = None
) -> Figure:
    """Loss against size, a panel for each budget; DataError: there are none.

    `laws`: of the study, by family: their curves with the interval of a new run, dashed and hatched outside the range
    they were fitted in.
    """
    if not budgets:
        raise DataError(WHY_NONE)
    axes = {"x": "student parameters (non-embedding)", "y": "student loss, nats/token"}
    figure, panels = new_panels(len(budgets), panel=(3.5, 2.9), margin=(0.6, 0.3), most=2, **axes)
    for ax, budget in zip(panels, budgets, strict=True):
        _isoflop_panel(ax, budget, styles, laws or {})
    return figure


WHY_NONE = (
    "Loss against size at equal compute takes three student sizes whose token budgets meet at the same FLOP, which "
    "this study has not: `distillaw study new --kind isoflop-students` writes a design that does."
)


def _isoflop_panel(
    ax: Axes, budget: IsoBudget, styles: Mapping[str, TeacherStyle], laws: Mapping[str, FitResult]
) -> None:
    sizes = sorted({p.params for curve in budget.curves for p in curve.points})
    looks = [styles[curve.teacher_run] if curve.teacher_run else NO_TEACHER for curve in budget.curves]
    for curve, style in zip(budget.curves, looks, strict=True):
        color = style.color
        law = _law_curve(curve, budget.compute, laws)
        if law is None:
            spots = zip(*((p.params, p.loss) for p in curve.points), strict=True)
            ax.plot(*spots, color=color, linewidth=1.2)
        else:
            _draw_law(ax, *law, color=color)
        for p in curve.points:
            ax.plot([p.params] * 2, [p.loss - p.half, p.loss + p.half], color=color, linewidth=1.1)
            look = {"color": color, "size": 4.5, "filled": not p.is_beyond, "marker": style.marker}
            dot(ax, p.params, p.loss, **look, markeredgewidth=1.2)
    count_axis(ax, [float(size) for size in sizes])
    smallest, *_, largest = (budget_text(p.tokens) for p in budget.curves[0].points)  # without a teacher
    set_title(ax, f"{flop_text(budget.compute)}: {smallest} to {largest} tokens")
    ends = [
        (curve.short_name, style.color, curve.points[-1].params, curve.points[-1].loss)
        for curve, style in zip(budget.curves, looks, strict=True)
    ]
    label_ends(ax, ends, gap=LINE)


def _law_curve(
    curve: IsoCurve, compute: float, laws: Mapping[str, FitResult]
) -> tuple[np.ndarray, PredictedLoss] | None:
    """The law over the sizes of a curve, at the tokens that the budget gives each; None without a law.

    FLOP per token between two sizes that were run: a power of the size.
    """
    law = laws.get("distillation-reduced" if curve.teacher_run else "supervised")
    if law is None:
        return None
    sizes = np.array([p.params for p in curve.points], dtype=float)
    flop = compute / np.array([p.tokens for p in curve.points]) - curve.logit_flop
    at = np.geomspace(sizes[0], sizes[-1], 80)
    per_token = np.exp(np.interp(np.log(at), np.log(sizes), np.log(flop))) + curve.logit_flop
    tokens = compute / per_token
    if not curve.teacher_run:
        return at, law.predict(params=at, tokens=tokens)
    return at, law.predict(student_params=at, student_tokens=tokens, teacher_loss=curve.teacher_loss)
