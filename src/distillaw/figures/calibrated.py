"""How calibrated a study's models are, and how far a student stays from its teacher, against the teacher's loss.

From the columns that every run writes of its own held-out pass (evaluate/calibration.py); older runs lack them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillaw.errors import DataError
from distillaw.figures.style import DASHED, SERIES, Z90, in_style, label_ends, new_panels, set_title
from distillaw.planning.arms import teacher_name
from distillaw.runs.record import Run, StudyRecord, budget_text


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEstimate:
    """One kind of error of one group of runs: its mean over seeds, with the standard error over documents."""

    value: float
    se: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """Runs of one size, token budget and teacher."""

    role: str
    label: str
    params: int
    tokens: int
    teacher: str
    """Its name; empty without one."""
    teacher_loss: float
    """Nats per token; NaN without a teacher."""
    seeds: int
    against_data: ErrorEstimate
    """Expected calibration error, share of 1."""
    against_teacher: ErrorEstimate | None
    """The same against the teacher's probability of the student's choice; None where the teacher was not at hand."""
    kl: ErrorEstimate | None
    """KL(teacher || student), nats per token."""


def calibrated_groups(record: StudyRecord) -> list[Calibrated]:
    """Teachers first, then students by size, tokens and teacher, worst teacher first; only runs with the columns."""
    groups: dict[tuple, list[Run]] = {}
    for run in (*record.every_teacher.values(), *record.students):
        if math.isfinite(run.number("ece")):
            key = (run.row.get("role") != "teacher", run.params, run.tokens, run.teacher_run or "")
            groups.setdefault(key, []).append(run)
    found = [_group(record, runs) for runs in groups.values()]
    return sorted(found, key=lambda g: (g.role != "teacher", g.params, g.tokens, -or_inf(g.teacher_loss)))


def or_inf(loss: float) -> float:
    """To sort by: without a teacher last."""
    return loss if math.isfinite(loss) else math.inf


def _group(record: StudyRecord, runs: Sequence[Run]) -> Calibrated:
    first = runs[0]
    data = _mean(runs, "ece")
    assert data is not None, "only runs with the columns are grouped"
    return Calibrated(
        role=str(first.row.get("role")),
        label=first.label,
        params=first.params,
        tokens=first.tokens,
        teacher=teacher_name(record, first.teacher_run) if first.teacher_run else "",
        teacher_loss=first.number("teacher_loss"),
        seeds=len(runs),
        against_data=data,
        against_teacher=_mean(runs, "ece_teacher"),
        kl=_mean(runs, "kl_from_teacher"),
    )


def _mean(runs: Sequence[Run], key: str) -> ErrorEstimate | None:
    """Over seeds; all are scored on the same documents, so their standard errors are averaged, not combined."""
    values, errors = ([run.number(name) for run in runs] for name in (key, f"{key}_se"))
    if not all(map(math.isfinite, values)):
        return None
    return ErrorEstimate(value=float(np.mean(values)), se=float(np.mean(errors)))


PANELS = (
    ("against the text", "calibration error, %", "against_data", 100.0),
    ("against the teacher", "calibration error, %", "against_teacher", 100.0),
    ("distance from the teacher", "KL(teacher ‖ student), nats/token", "kl", 1.0),
)
"""Title, axis, attribute and factor of each panel."""


@in_style
def draw_calibration(groups: Sequence[Calibrated]) -> Figure:
    """Calibration errors and distance of taught students against their teacher's loss.

    DataError: no taught student has the numbers.
    """
    taught = [group for group in groups if group.role == "student" and group.teacher]
    if not taught:
        raise DataError(
            "No taught student has measured its calibration (older runs did not); "
            "`distillaw evaluate RUN --teacher TEACHER` does."
        )
    panels = [panel for panel in PANELS if any(getattr(group, panel[2]) for group in taught)]
    figure, axes = new_panels(len(panels), panel=(3.0, 3.0), x="teacher loss, nats/token  (better →)")
    for ax, (title, axis, name, factor) in zip(axes, panels, strict=True):
        set_title(ax, title)
        ax.set_ylabel(axis)
        _panel(ax, groups, name, factor)
    return figure


def _panel(ax: Axes, groups: Sequence[Calibrated], name: str, factor: float) -> None:
    """A line for each size and token budget, named at its end; dashed, the same student alone."""
    students = [group for group in groups if group.role == "student" and getattr(group, name) is not None]
    cells = sorted({(group.params, group.tokens) for group in students if group.teacher})
    losses = [group.teacher_loss for group in students if group.teacher]
    aside = 0.012 * (max(losses) - min(losses))  # bars of one teacher would hide one another
    ends = []
    for k, cell in enumerate(cells):
        own = [group for group in students if (group.params, group.tokens) == cell]
        line = [(group.teacher_loss, getattr(group, name)) for group in own if group.teacher]
        color = SERIES[k % len(SERIES)]
        x = [loss - aside * (k - (len(cells) - 1) / 2) for loss, _ in line]
        y = [factor * measured.value for _, measured in line]
        halves = [factor * Z90 * measured.se for _, measured in line]
        ax.errorbar(x, y, halves, color=color, marker="o", markersize=4, elinewidth=1.0, linewidth=1.3)
        ends.append((f"{own[0].label}, {budget_text(own[0].tokens)}", color, x[-1], y[-1]))
        for alone in (group for group in own if not group.teacher):
            measured = getattr(alone, name)
            value, half = factor * measured.value, factor * Z90 * measured.se
            ax.axhline(value, color=color, linestyle=DASHED, linewidth=0.9)
            ax.axhspan(value - half, value + half, color=color, alpha=0.07, linewidth=0)
    ax.set_ylim(bottom=0)
    ax.invert_xaxis()
    label_ends(ax, ends, gap=0.07)
