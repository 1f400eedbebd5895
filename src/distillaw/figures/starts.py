"""What students begin from: their loss against the teacher's size and loss, one curve per arm of first weights.

Arms of a size have one architecture, so a panel compares what the first weights are worth (fixed against fresh), and
what it is worth to be cut out of the very teacher that teaches (pruned against fixed), each with its teacher and alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillaw.errors import DataError, DistillawError
from distillaw.figures.losses import MOST
from distillaw.figures.style import DASHED, SERIES, count_axis, dot, in_style, new_panels, set_title
from distillaw.fitting.api import fit
from distillaw.runs.record import Run, StudyRecord, budget_text
from distillaw.runs.spec import arm_order

Against = Literal["size", "loss"]
AXES = {"size": "teacher, non-embedding parameters", "loss": "teacher loss, nats/token  (better →)"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPoint:
    """Students of one arm, size and budget that have one teacher, or that were cut out of one and trained alone."""

    teacher_params: float
    """Of the teacher, alone of what they were cut out of; NaN where nothing is known or there is none."""
    teacher_loss: float
    losses: Mapping[int, float]
    """By seed, nats/token."""

    @property
    def loss(self) -> float:
        """Mean over seeds, nats/token."""
        return float(np.mean([*self.losses.values()]))

    @property
    def se(self) -> float:
        """Standard error of the mean over seeds, nats/token; NaN of one seed."""
        count = len(self.losses)
        return float(np.std([*self.losses.values()], ddof=1)) / math.sqrt(count) if count > 1 else math.nan


def at_equal_seeds(*curves: Sequence[StartPoint]) -> list[list[float]]:
    """Losses of every point, nats/token: means over the seeds that all points of all curves have.

    A teacher with more seeds is no better for other luck. Where no seed is common, means over each point's own.
    """
    seeds = [set(point.losses) for points in curves for point in points]
    common = set.intersection(*seeds) if seeds else set()
    return [
        [float(np.mean([point.losses[seed] for seed in common or point.losses])) for point in points]
        for points in curves
    ]


def lowest_point(points: Sequence[StartPoint]) -> StartPoint | None:
    """The one of lowest loss at equal seeds."""
    [losses] = at_equal_seeds(points)
    return points[losses.index(min(losses))] if losses else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BestTeacher:
    """The teacher at the bottom of one arm's curve."""

    params: float | None
    """None where it is not bracketed."""
    interval: tuple[float | None, float | None]
    """90 %; None on a side that is open."""
    problem: str
    """Why there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartCell:
    """One student size and token budget in every arm."""

    label: str
    params: int
    tokens: int
    taught: Mapping[str, Sequence[StartPoint]]
    """Arm -> points by teacher size."""
    alone: Mapping[str, Sequence[StartPoint]]
    best: Mapping[str, BestTeacher]
    """Arm -> its best teacher, where it could be asked for."""

    @property
    def title(self) -> str:
        """Size and budget."""
        return f"{self.label} student, {budget_text(self.tokens)} tokens"


def start_cells(record: StudyRecord) -> list[StartCell]:
    """Every size and budget that was trained with a teacher, in every arm; empty where all students are fresh."""
    if set(record.arms) <= {"fresh"}:
        return []
    places = {(run.params, run.tokens): run.label for runs in record.arms.values() for run in runs}
    best = {arm: _best_teachers(record.folder, arm, runs) for arm, runs in record.arms.items()}
    cells = []
    for (params, tokens), label in sorted(places.items()):
        own = {
            arm: [run for run in runs if (run.params, run.tokens) == (params, tokens)]
            for arm, runs in record.arms.items()
        }
        taught = {arm: _points(record, [run for run in runs if run.teacher_run]) for arm, runs in own.items()}
        alone = {arm: _points(record, [run for run in runs if not run.teacher_run]) for arm, runs in own.items()}
        found = {arm: of[params, tokens] for arm, of in best.items() if (params, tokens) in of}
        if any(taught.values()):
            cells.append(StartCell(label=label, params=params, tokens=tokens, taught=taught, alone=alone, best=found))
    return cells


def _points(record: StudyRecord, runs: Sequence[Run]) -> list[StartPoint]:
    """The runs by the model that teaches them, alone by that which they were cut out of, smallest first."""
    by_model: dict[str, list[Run]] = {}
    for run in runs:
        by_model.setdefault(run.teacher_run or run.start_run or "", []).append(run)
    points = []
    for model, of in by_model.items():
        source = record.every_teacher.get(model)
        taught = of[0].teacher_run is not None
        params = of[0].number("teacher_params" if taught else "start_params")
        loss = of[0].number("teacher_loss") if taught else source.loss if source else math.nan
        losses = {run.seed: run.loss for run in of}
        points.append(StartPoint(teacher_params=params, teacher_loss=loss, losses=losses))
    return sorted(points, key=lambda point: (math.isnan(point.teacher_params), point.teacher_params))


def _best_teachers(folder: Path, arm: str, runs: Sequence[Run]) -> dict[tuple[int, int], BestTeacher]:
    """By student and budget; of runs that cannot be fitted why not."""
    taught = {(run.params, run.tokens) for run in runs if run.teacher_run}
    if not taught:
        return {}
    try:  # optima need no replicates
        law = fit(folder, family="capacity-gap", arm=arm, bootstrap=0)
    except DistillawError as error:
        return dict.fromkeys(taught, BestTeacher(params=None, interval=(None, None), problem=str(error)))
    return {
        (round(one["student_params"]), round(one["student_tokens"])): BestTeacher(
            params=one["best_teacher_params"], interval=tuple(one["interval"]), problem=one["problem"]
        )
        for budget in law.details.get("budgets", ())
        for one in budget.get("optima", ())
    }


@in_style
def draw_starts(cells: Sequence[StartCell], *, against: Against) -> Figure:
    """Student loss against the teacher's size or loss, a panel per student size and token budget, a curve per arm.

    DataError: all students are fresh.
    """
    if not cells:
        raise DataError("All students of this study begin from random weights.")
    figure, panels = new_panels(len(cells), panel=(3.3, 2.5), most=MOST, y="student loss, nats/token")
    for ax, cell in zip(panels, cells, strict=True):
        _panel(ax, cell, against)
        ax.set_xlabel(AXES[against])
    handles, names = panels[0].get_legend_handles_labels()
    panels[0].legend(handles, names)
    return figure


def _panel(ax: Axes, cell: StartCell, against: Against) -> None:
    sizes = [point.teacher_params for points in cell.taught.values() for point in points]
    for arm, points in cell.taught.items():
        color, x = SERIES[arm_order(arm)[0]], [_at(point, against) for point in points]
        losses, _ = at_equal_seeds(points, cell.alone.get(arm, ()))
        ax.plot(x, losses, color=color, label=arm)
        for at, point, loss in zip(x, points, losses, strict=True):
            dot(ax, at, loss, color=color, size=4.5, filled=loss == min(losses))
            if len(point.losses) > 1:
                ax.plot([at] * len(point.losses), [*point.losses.values()], "o", color=color, markersize=2.2, alpha=0.6)
        best = cell.best.get(arm)
        if against == "size" and best is not None and best.params is not None:
            low, high = best.interval
            ax.axvspan(low or min(sizes), high or max(sizes), color=color, linewidth=0, alpha=0.12)
            ax.axvline(best.params, color=color, linewidth=0.8, alpha=0.6)
    for arm, points in cell.alone.items():
        look = {"color": SERIES[arm_order(arm)[0]], "linestyle": DASHED, "linewidth": 1.1}
        _, losses = at_equal_seeds(cell.taught.get(arm, ()), points)
        at = [_at(point, against) for point in points]
        placed = sorted((x, loss) for x, loss in zip(at, losses, strict=True) if math.isfinite(x))
        if arm == "pruned" and placed:
            ax.plot(*zip(*placed, strict=True), **look)
        elif points:
            ax.axhline(float(np.mean(losses)), **look)
    if against == "size":
        count_axis(ax, sizes)
    else:
        ax.invert_xaxis()
    set_title(ax, cell.title)
    ax.margins(x=0.1, y=0.12)


def _at(point: StartPoint, against: Against) -> float:
    return point.teacher_params if against == "size" else point.teacher_loss
