"""How calibrated the study's models are, and how far a student stays from its teacher, against the teacher's loss.

From the columns that every run writes of its own held-out pass (evaluate/calibration.py); older runs lack them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillaw.planning.measured import teacher_name
from distillaw.planning.record import Run, StudyRecord, budget_text
from distillaw.report.content import Z90, Table, Value
from distillaw.report.svg import SERIES, Picture, new_figure, set_title, spread, to_svg

TITLE = "Calibration, and the distance from the teacher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
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
    against_data: Measured
    """Expected calibration error, share of 1."""
    against_teacher: Measured | None
    """The same against the teacher's probability of the student's choice; None where the teacher was not at hand."""
    kl: Measured | None
    """KL(teacher || student), nats per token."""


def calibrated_groups(record: StudyRecord) -> list[Calibrated]:
    """Teachers first, then students by size, tokens and teacher, worst teacher first; only runs with the columns."""
    groups: dict[tuple, list[Run]] = {}
    for run in (*record.every_teacher.values(), *record.students):
        if math.isfinite(run.number("ece")):
            key = (run.row.get("role") != "teacher", run.params, run.tokens, run.teacher_run or "")
            groups.setdefault(key, []).append(run)
    found = [_group(record, runs) for runs in groups.values()]
    return sorted(found, key=lambda g: (g.role != "teacher", g.params, g.tokens, -_or_inf(g.teacher_loss)))


def _or_inf(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _group(record: StudyRecord, runs: Sequence[Run]) -> Calibrated:
    first = runs[0]
    data = _mean(runs, "ece")
    assert data is not None, "only runs with the columns are grouped"
    return Calibrated(
        role=str(first.row.get("role")), label=first.label, params=first.params, tokens=first.tokens,
        teacher=teacher_name(record, first.teacher_run) if first.teacher_run else "",
        teacher_loss=first.number("teacher_loss"), seeds=len(runs), against_data=data,
        against_teacher=_mean(runs, "ece_teacher"), kl=_mean(runs, "kl_from_teacher"),
    )  # fmt: skip


def _mean(runs: Sequence[Run], key: str) -> Measured | None:
    """Over seeds; all are scored on the same documents, so their standard errors are averaged, not combined."""
    values = [run.number(key) for run in runs]
    if not all(map(math.isfinite, values)):
        return None
    return Measured(
        value=float(np.mean(values)), se=float(np.mean([run.number(f"{key}_se") for run in runs]))
    )


PANELS = (
    ("against the text", "calibration error, %", "against_data", 100.0),
    ("against the teacher", "calibration error, %", "against_teacher", 100.0),
    ("distance from the teacher", "KL(teacher ‖ student), nats/token", "kl", 1.0),
)
"""Title, axis, attribute and factor of each panel."""


def draw_calibration(groups: Sequence[Calibrated]) -> Figure | None:
    """Calibration errors and distance of taught students against their teacher's loss; None where there are none."""
    taught = [group for group in groups if group.role == "student" and group.teacher]
    if not taught:
        return None
    panels = [panel for panel in PANELS if any(getattr(group, panel[2]) for group in taught)]
    figure, axes = new_figure(1, len(panels), width=3.0 * len(panels) + 0.6, height=3.0)
    for ax, (title, axis, name, factor) in zip(axes[0], panels, strict=True):
        _panel(ax, groups, name, factor)
        set_title(ax, title)
        ax.set_ylabel(axis)
        ax.set_xlabel("teacher loss, nats/token  (better →)")
        ax.set_ylim(bottom=0)
        ax.invert_xaxis()
    return figure


def _panel(ax: Axes, groups: Sequence[Calibrated], name: str, factor: float) -> None:
    """A line for each size and token budget, named at its end; rings at the left, the same student alone."""
    students = [group for group in groups if group.role == "student"]
    cells = sorted({(group.params, group.tokens) for group in students if group.teacher})
    losses = [group.teacher_loss for group in students if group.teacher]
    aside = 0.012 * (max(losses) - min(losses))  # bars of one teacher would hide one another
    ends = []
    for k, cell in enumerate(cells):
        own = [g for g in students if (g.params, g.tokens) == cell and getattr(g, name) is not None]
        color = SERIES[k % len(SERIES)]
        line = [(g.teacher_loss, getattr(g, name)) for g in own if g.teacher]
        if not line:
            continue
        x = [loss - aside * (k - (len(cells) - 1) / 2) for loss, _ in line]
        y = [factor * m.value for _, m in line]
        ax.errorbar(x, y, yerr=[factor * Z90 * m.se for _, m in line], color=color, marker="o", markersize=4,
                    elinewidth=1.0, linewidth=1.3)  # fmt: skip
        ends.append((f"{own[0].label}, {budget_text(own[0].tokens)}", color, x[-1], y[-1]))
        for alone in (g for g in own if not g.teacher):
            ax.axhline(factor * getattr(alone, name).value, color=color, linestyle=(0, (4, 3)), linewidth=0.9)
    _name_ends(ax, ends)


def _name_ends(ax: Axes, ends: Sequence[tuple[str, str, float, float]]) -> None:
    low, high = 0.0, ax.get_ylim()[1]
    placed = spread([y for *_, y in ends], (high - low) * 0.07)
    for (text, color, x, y), at in zip(ends, placed, strict=True):
        ax.annotate(text, (x, y), xytext=(1.03, (at - low) / (high - low)), textcoords="axes fraction", va="center",
                    fontsize=8, color=color, annotation_clip=False,
                    arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 0,
                                "shrinkB": 3})  # fmt: skip


def calibration_picture(groups: Sequence[Calibrated]) -> Picture | None:
    """The figure with its words."""
    figure = draw_calibration(groups)
    if figure is None:
        return None
    alt = f"{TITLE}. " + " ".join(_words(group) for group in groups if group.teacher)
    return Picture(
        name="calibration", title=TITLE, alt=alt, svg=to_svg(figure, name="calibration", alt=alt),
        caption="Students by size and training tokens, better teachers to the right; dashed, the same student without "
        "a teacher. Calibration error: how far the confidence of a model's first choice lies from how often it comes "
        "(left) or from the teacher's probability of it, in 21 equal bins. Bars are 90 % intervals over documents.",
    )  # fmt: skip


def _words(group: Calibrated) -> str:
    parts = [f"{100 * group.against_data.value:.1f} % against the text"]
    if group.against_teacher:
        parts.append(f"{100 * group.against_teacher.value:.1f} % against the teacher")
    if group.kl:
        parts.append(f"KL {group.kl.value:.3f}")
    return (
        f"{group.label} on {budget_text(group.tokens)} tokens from the {group.teacher}: {', '.join(parts)}."
    )


def calibration_notes(groups: Sequence[Calibrated]) -> list[str]:
    """What the numbers say, or why there are none."""
    if not groups:
        return [
            "No run has measured its calibration (older ones did not); `distillaw evaluate RUN --teacher TEACHER` does."
        ]
    notes = [_range("Teachers", [g for g in groups if g.role == "teacher"]),
             _range("Students without a teacher", [g for g in groups if g.role == "student" and not g.teacher]),
             _range("Taught students", [g for g in groups if g.teacher])]  # fmt: skip
    return [note for note in notes if note] + _distance_notes(groups)


def _range(who: str, groups: Sequence[Calibrated]) -> str:
    if not groups:
        return ""
    values = sorted(100 * group.against_data.value for group in groups)
    return f"{who}: calibration error against the text {values[0]:.1f} to {values[-1]:.1f} %."


def _distance_notes(groups: Sequence[Calibrated]) -> list[str]:
    """Does the distance grow with a better teacher? Busbridge et al. 2025 find that it always does."""
    cells: dict[tuple[int, int], list[Calibrated]] = {}
    for group in groups:
        if group.kl is not None:
            cells.setdefault((group.params, group.tokens), []).append(group)
    lines = [sorted(own, key=lambda g: -g.teacher_loss) for own in cells.values() if len(own) > 1]
    if not lines:
        return []
    grows = sum(all(b.kl.value > a.kl.value for a, b in pairwise(own)) for own in lines)  # type: ignore[union-attr]
    return [
        f"From the worst teacher to the best, the distance KL(teacher ‖ student) grows at every step in {grows} of "
        f"{len(lines)} rows of students. Busbridge et al. 2025 (arXiv 2502.08606) saw it grow in all of theirs, while "
        "the loss turned up again: a student that cannot follow its teacher is a matter of learning capacity."
    ]


def calibration_table(groups: Sequence[Calibrated]) -> Table | None:
    """Every group."""
    if not groups:
        return None
    columns = [
        "model",
        "tokens",
        "teacher",
        "seeds",
        "against the text, %",
        "against the teacher, %",
        "KL, nats/token",
    ]
    return Table(columns=columns, rows=[_row(group) for group in groups])


def _row(group: Calibrated) -> list[Value]:
    return [
        Value(text=f"{group.label} {group.role}", sort=group.params, kind="text"),
        Value(text=budget_text(group.tokens), sort=group.tokens),
        Value(text=group.teacher, sort=_or_inf(group.teacher_loss), kind="text"),
        Value(text=str(group.seeds), sort=group.seeds), _with_half(group.against_data, 100.0, 2),
        _with_half(group.against_teacher, 100.0, 2), _with_half(group.kl, 1.0, 3),
    ]  # fmt: skip


def _with_half(measured: Measured | None, factor: float, digits: int) -> Value:
    if measured is None:
        return Value(text="", sort=math.inf)
    value, half = factor * measured.value, factor * Z90 * measured.se
    return Value(text=f"{value:.{digits}f} ± {half:.{digits}f}", sort=value)
