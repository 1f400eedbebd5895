"""Loss against student size at equal compute: what the runs say between their token budgets, and the fitted law.

What is equal is what the student costs whoever has the teacher already, C = 3 F(N_S) D_S + F(N_T) D_S (accounting
scenario INFERENCE): training and the teacher's forward passes. A budget C gives each size its tokens; an arm whose runs
reach them is read off between its own token budgets (`planning/measured.py`), or at most a quarter beyond them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillaw.errors import DataError
from distillaw.figures.losses import LINE, NO_TEACHER, TeacherStyle, draw_law, short_teacher
from distillaw.figures.style import Z90, count_axis, dot, in_style, label_ends, new_panels, set_title
from distillaw.fitting.result import FitResult, PredictedLoss
from distillaw.planning.arms import MeasuredArm, student_arms
from distillaw.planning.measured import study_seed_noise
from distillaw.quantities import flop_text
from distillaw.runs.paired import t_quantile
from distillaw.runs.record import StudyRecord, budget_text

LEVEL = 0.9
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
            point = _point(record, arm, compute)
            if point is not None:
                points.setdefault(arm.teacher.run_id if arm.teacher else "", []).append((arm, point))
    curves = [_curve(run, found) for run, found in points.items() if len(found) >= FEWEST_SIZES]
    taught = sorted((c for c in curves if c.teacher_run), key=lambda c: c.best.loss)[:MOST_TEACHERS]
    return [c for c in curves if not c.teacher_run] + sorted(taught, key=lambda c: -c.teacher_loss)


def _curve(run: str, found: Sequence[tuple[MeasuredArm, IsoPoint]]) -> IsoCurve:
    arm = found[0][0]
    return IsoCurve(
        name=arm.name,
        teacher_run=run,
        teacher_loss=arm.teacher.loss if arm.teacher else math.nan,
        logit_flop=arm.logit_flop_per_token,
        points=[point for _, point in found],
    )


def _point(record: StudyRecord, arm: MeasuredArm, compute: float) -> IsoPoint | None:
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
    budgets: Sequence[IsoBudget],
    styles: Mapping[str, TeacherStyle],
    *,
    laws: Mapping[str, FitResult] | None = None,
) -> Figure:
    """Loss against size, a panel for each budget.

    Args:
        budgets: from `iso_budgets`.
        styles: of the study's teachers.
        laws: of the study, by family: their curves with the interval of a new run, dashed and hatched outside the
            range they were fitted in.

    Raises:
        DataError: there are none.
    """
    if not budgets:
        raise DataError(WHY_NONE)
    axes = {"x": "student parameters (non-embedding)", "y": "student loss, nats/token"}
    figure, panels = new_panels(len(budgets), panel=(3.5, 2.9), margin=(0.6, 0.3), most=2, **axes)
    for ax, budget in zip(panels, budgets, strict=True):
        _panel(ax, budget, styles, laws or {})
    return figure


WHY_NONE = (
    "Loss against size at equal compute takes three student sizes whose token budgets meet at the same FLOP, which "
    "this study has not: `distillaw study new --kind isoflop-students` writes a design that does."
)


def _panel(
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
            draw_law(ax, *law, color=color)
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
