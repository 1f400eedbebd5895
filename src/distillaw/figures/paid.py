"""Loss against the total compute that was paid for it: every cell of a study, and what nobody beats for less.

    C = 3 F(N_S) D_S + F(N_T) (delta_Lgt D_S + delta_Pre 3 D_T)

with the FLOP that the runs counted; in two scenarios of accounting: INFERENCE (the teacher is there) and
PRETRAINING_INFERENCE (it is trained for this one student).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillaw.accounting.scenarios import Scenario
from distillaw.errors import DataError
from distillaw.figures.style import INK, PAPER, SERIES, Z90, in_style, new_panels, power_axis, set_title
from distillaw.pareto.frontier import FrontierPlace, ScorePoint, place, staircase
from distillaw.planning.measured import MeasuredPoint
from distillaw.runs.record import StudyRecord, budget_text

SCENARIOS = {
    Scenario.INFERENCE: "teacher at hand",
    Scenario.PRETRAINING_INFERENCE: "teacher trained for this student",
}
"""What is paid, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """One cell of a study: its loss, and what it took."""

    name: str
    is_taught: bool
    loss: float
    """Mean over seeds, nats/token."""
    half: float
    """Half width of its 90 % interval: seeds, and with a teacher the paired difference from none."""
    student: float
    """FLOP of the student's training."""
    logits: float
    """FLOP of the teacher's forward passes over the student's tokens."""
    teacher: float
    """FLOP of the teacher's training; nan where the study does not know it, 0 without one."""

    def compute(self, scenario: Scenario) -> float:
        """FLOP paid; nan where it is not known."""
        shares = scenario.value
        teacher = shares.delta_pre * self.teacher if shares.delta_pre else 0.0
        return self.student + shares.delta_lgt * self.logits + teacher


def paid_cells(record: StudyRecord, cells: Sequence[MeasuredPoint]) -> list[Paid]:
    """Every cell with its bill, as if it were trained alone: no trunk is shared."""
    found = []
    for cell in cells:
        name = f"{cell.label} on {budget_text(cell.tokens)} tokens"
        student, _ = _run_flop(record, cell, None)
        found.append(
            Paid(
                name=f"{name}, no teacher",
                is_taught=False,
                loss=cell.alone,
                half=float(cell.seed_half),
                student=student,
                logits=0.0,
                teacher=0.0,
            )
        )
        for t in cell.taught:
            student, logits = _run_flop(record, cell, t.teacher_run)
            own = record.every_teacher.get(t.teacher_run)
            found.append(
                Paid(
                    name=f"{name} from the {t.teacher}",
                    is_taught=True,
                    loss=t.loss,
                    half=float(t.half),
                    student=student,
                    logits=logits,
                    teacher=own.number("train_flops") if own else math.nan,
                )
            )
    return [one for one in found if math.isfinite(one.compute(Scenario.INFERENCE))]


def _run_flop(record: StudyRecord, cell: MeasuredPoint, teacher_run: str | None) -> tuple[float, float]:
    """FLOP of the training and of the teacher's forward passes of a cell's runs; seeds cost alike."""
    run = next(
        r
        for r in record.students
        if (r.params, r.tokens, r.teacher_run) == (cell.params, cell.tokens, teacher_run)
    )
    return run.number("train_flops"), run.number("teacher_flops") if teacher_run else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """What nobody beats for less, with and without a teacher, in one scenario."""

    scenario: Scenario
    points: Mapping[bool, Sequence[Paid]]
    """Every cell whose bill is known, by whether it has a teacher."""
    alone: Sequence[Paid]
    """Unbeaten without a teacher, ascending in compute."""
    taught: Sequence[Paid]
    """Unbeaten among those with one."""
    among_cheaper: Sequence[FrontierPlace]
    """Each of `taught` among the students without a teacher that cost no more."""
    among_next: Sequence[FrontierPlace | None]
    """The same with the next dearer student without a teacher among them; None where there is no dearer one: what no
    teacher gives for as much is then not known."""

    @property
    def better(self) -> list[tuple[Paid, FrontierPlace]]:
        """Those of `taught` ahead of every cheaper student without a teacher and of the next dearer one, beyond the
        90 % interval of the difference: so also ahead of what no teacher gives for as much.
        """  # noqa: D205
        found = zip(self.taught, self.among_next, strict=True)
        return [(p, q) for p, q in found if q is not None and _ahead(q) > 0]

    @property
    def worse(self) -> list[Paid]:
        """Those behind one that cost no more, likewise."""
        return [p for p, q in zip(self.taught, self.among_cheaper, strict=True) if _ahead(q) < 0]

    @property
    def unknown(self) -> list[Paid]:
        """The others that cost more than any student without a teacher."""
        found = zip(self.taught, self.among_next, strict=True)
        return [p for p, q in found if q is None and p not in self.worse]


def _ahead(where: FrontierPlace) -> int:
    """1 ahead, -1 behind, 0 within the 90 % interval of the difference."""
    if where.ahead is None or abs(where.ahead) <= Z90 * (where.ahead_se or 0.0):
        return 0
    return 1 if where.ahead > 0 else -1


def frontier(paid: Sequence[Paid], scenario: Scenario) -> Frontier:
    """The frontiers of one scenario."""
    known = {
        taught: [p for p in paid if p.is_taught == taught and math.isfinite(p.compute(scenario))]
        for taught in (False, True)
    }
    named = {p.name: p for p in paid}
    points = {taught: [_point(p, scenario) for p in those] for taught, those in known.items()}
    alone, taught = ([named[p.name] for p in staircase(points[key])] for key in (False, True))
    mine = [_point(p, scenario) for p in taught]
    return Frontier(
        scenario=scenario,
        points=known,
        alone=alone,
        taught=taught,
        among_cheaper=[place(point, points[False]) for point in mine],
        among_next=[_among_next(point, points[False]) for point in mine],
    )


def _among_next(point: ScorePoint, others: Sequence[ScorePoint]) -> FrontierPlace | None:
    dearer = [other.compute for other in others if other.compute >= point.compute]
    return place(replace(point, compute=min(dearer)), others) if dearer else None


def _point(paid: Paid, scenario: Scenario) -> ScorePoint:
    return ScorePoint(
        name=paid.name, compute=paid.compute(scenario), score=-paid.loss, se=paid.half / Z90, is_own=True
    )


@in_style
def draw_paid(paid: Sequence[Paid]) -> Figure:
    """Loss against what was paid, a panel for each scenario that the study knows the bills of.

    Raises:
        DataError: no cell has been run with a teacher and counted its compute.
    """
    frontiers = [frontier(paid, scenario) for scenario in SCENARIOS]
    frontiers = [one for one in frontiers if one.points[True] and one.points[False]]
    if not frontiers:
        raise DataError(
            "No student has been run both with and without a teacher and counted its compute yet."
        )
    figure, panels, columns = new_panels(len(frontiers), panel=(3.6, 3.2), margin=(0.4, 0.3))
    for place_, (ax, one) in enumerate(zip(panels, frontiers, strict=True)):
        _panel(ax, one)
        if place_ % columns == 0:
            ax.set_ylabel("student loss, nats/token")
    lowest, highest = min(ax.get_ylim()[0] for ax in panels), max(ax.get_ylim()[1] for ax in panels)
    for ax in panels:
        ax.set_ylim(lowest, highest)
    return figure


def _panel(ax: Axes, found: Frontier) -> None:
    for taught, color, line in ((False, INK, found.alone), (True, SERIES[0], found.taught)):
        for p in found.points[taught]:
            x = p.compute(found.scenario)
            best = p in line
            ax.plot(
                [x, x],
                [p.loss - p.half, p.loss + p.half],
                color=color,
                linewidth=1.1,
                alpha=1.0 if best else 0.35,
            )
            ax.plot(
                x,
                p.loss,
                "o",
                color=color,
                markersize=4.5 if best else 3.2,
                markerfacecolor=color if best else PAPER,
                alpha=1.0 if best else 0.55,
            )
    last = max(p.compute(found.scenario) for those in found.points.values() for p in those)
    for color, line, name in ((INK, found.alone, "no teacher"), (SERIES[0], found.taught, "distilled")):
        x = [p.compute(found.scenario) for p in line]
        ax.step(
            [*x, last * 1.08],
            [*(p.loss for p in line), line[-1].loss],
            where="post",
            color=color,
            linewidth=1.3,
        )
        ax.annotate(
            name,
            (last * 1.08, line[-1].loss),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
            color=color,
            annotation_clip=False,
        )
    ax.set_xscale("log")
    ax.margins(x=0.06, y=0.06)
    power_axis(ax)
    ax.set_xlabel("compute paid, FLOP")
    set_title(ax, SCENARIOS[found.scenario])
