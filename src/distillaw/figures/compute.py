"""Compute: where a study's went, the searches before it, and loss against everything that was paid for it.

    C = 3 F(N_S) D_S + F(N_T) (delta_Lgt D_S + delta_Pre 3 D_T)

with the FLOP that the runs counted; in two scenarios of accounting: INFERENCE (the teacher is there) and
PRETRAINING_INFERENCE (it is trained for this one student).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from distillaw.accounting.scenarios import Scenario
from distillaw.errors import DataError
from distillaw.figures.style import (
    INK,
    MUTED,
    SERIES,
    Z90,
    current_look,
    dot,
    in_style,
    new_figure,
    new_panels,
    note,
    power_axis,
    set_title,
    share_range,
)
from distillaw.pareto.points import FrontierPlace, ScorePoint, place, staircase
from distillaw.planning.measured import MeasuredPoint
from distillaw.quantities import power_text
from distillaw.runs.record import Run, Search, StudyRecord, budget_text
from distillaw.runs.spec import executed_tokens

COOLDOWN = 0.2
"""Share of a token budget spent cooling down, where study.json does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """One part of the bill."""

    part: str
    flop: float
    seconds: float


def compute_spent(record: StudyRecord) -> list[Spent]:
    """FLOP executed by part, trunks counted once, tuning included; measured seconds beside them."""
    cooldown = _cooldown(record)
    trunks: dict[str, list[Run]] = {}
    for run in record.trained:
        trunks.setdefault(run.group, []).append(run)
    found: dict[str, list[float]] = {part: [0.0, 0.0] for part in PARTS}
    for runs in trunks.values():
        longest = max(runs, key=lambda run: run.tokens)
        share = executed_tokens([run.tokens for run in runs], cooldown) / longest.tokens
        for part, flop in _parts(longest):
            if math.isfinite(flop):
                found[part][0] += share * flop
        seconds = longest.number("seconds")
        found[_parts(longest)[0][0]][1] += seconds * share if math.isfinite(seconds) else 0.0
    return [Spent(part=part, flop=flop, seconds=s) for part, (flop, s) in found.items() if flop > 0]


PARTS = ("teacher training", "students without a teacher", "distilled students", "teacher logits", "search")


def _parts(run: Run) -> list[tuple[str, float]]:
    train, logits = run.number("train_flops"), run.number("teacher_flops_spent")
    if not math.isfinite(logits):  # a table from before teachers were shared
        logits = run.number("teacher_flops")
    if run.purpose == "tuning":
        return [("search", train + (logits if math.isfinite(logits) else 0.0))]
    if run.row.get("role") == "teacher":
        return [("teacher training", train)]
    if run.teacher_run is None:
        return [("students without a teacher", train)]
    return [("distilled students", train), ("teacher logits", logits)]


def _cooldown(record: StudyRecord) -> float:
    found: object = record.info
    for key in ("spec", "training", "cooldown"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return float(found) if isinstance(found, int | float) and 0 < found < 1 else COOLDOWN


_NAMES, _NUMBERS = 1.75, 1.15
"""Inches of the longest name of a part beside the bars, and of a number behind one, at the natural size."""


@in_style
def draw_spent(spent: Sequence[Spent]) -> Figure:
    """FLOP by part as plain bars with their numbers written on; DataError: nothing has been spent."""
    if not spent:
        raise DataError("No run has finished yet.")
    total = sum(s.flop for s in spent)
    figure, axes = new_figure(1, 1, width=7.0, height=0.36 * len(spent) + 0.75)
    room = figure.get_figwidth() - (_NAMES + _NUMBERS) * current_look().scale
    ax = axes[0][0]
    ax.grid(False)
    rows = range(len(spent), 0, -1)
    ax.barh(list(rows), [s.flop for s in spent], height=0.62, color=SERIES[0], alpha=0.85)
    for y, s in zip(rows, spent, strict=True):
        number = f"{power_text(float(f'{s.flop:.3g}'))} ({100 * s.flop / total:.0f} %)"
        note(ax, number, (s.flop, y), (5, 0), va="center")
    ax.set_yticks(list(rows), [s.part for s in spent])
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, max(s.flop for s in spent) * (1 + _NUMBERS * current_look().scale / max(room, 0.3)))
    ax.xaxis.set_major_locator(MaxNLocator(max(1, min(4, int(room / current_look().scale)))))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_text(value)))
    ax.set_xlabel("FLOP executed")
    return figure


QUANTITIES = {"learning_rate": "peak learning rate", "horizon": "rate at the largest budget", "batch": "batch, tokens"}
"""What is searched, in words."""


def study_searches(record: StudyRecord) -> list[Search]:
    """What a study searched and tried; none where it ran none; DataError: it ran some, but their record is missing."""
    runs = sum(run.purpose == "tuning" for run in record.trained)
    if runs and not record.tuning:
        raise DataError(
            f"The record of the search, tuning.json, did not come along; its {runs} runs stand in the table of runs."
        )
    return [search for search in record.searches if search.tried]


def standing(search: Search) -> tuple[str, bool]:
    """How what was chosen stands among what was tried, in words, and whether that is as it should be."""
    lowest = min(loss for _, loss in search.tried)
    excess = next((loss - lowest for value, loss in search.tried if _is_best(search, value)), 0.0)
    if excess > 1e-9:
        return f"{excess:.3f} above the lowest", False
    return ("interior", True) if search.interior else ("at the edge", False)


def _is_best(search: Search, value: float) -> bool:
    return search.best is not None and math.isclose(value, search.best, rel_tol=1e-6)


@in_style
def draw_searches(found: Sequence[Search]) -> Figure:
    """Loss against learning rate, rate at the largest budget and batch, a column for each arm and size.

    DataError: there are none.
    """
    if not found:
        raise DataError("This study ran no search: its rates are as the study file gives them.")
    arms: dict[tuple[str, str], dict[str, Search]] = {}
    for search in found:
        arms.setdefault((search.arm, search.size), {})[search.what] = search
    whats = [what for what in QUANTITIES if any(what in own for own in arms.values())]
    columns = current_look().columns(len(arms), panel=2.35)
    lines, rows = -(-len(arms) // columns), len(whats)
    figure, axes = new_figure(rows * lines, columns, width=2.35 * columns + 0.5, height=2.15 * rows * lines)
    for ax in itertools.chain.from_iterable(axes):
        ax.set_axis_off()
    for panel, ((arm, size), own) in enumerate(arms.items()):
        line, column = divmod(panel, columns)
        set_title(axes[rows * line][column], f"{arm}, {size}")
        for row, what in enumerate(whats):
            if what in own:
                _draw_search(axes[rows * line + row][column], own[what], is_first=column == 0)
    return figure


def _draw_search(ax: Axes, search: Search, *, is_first: bool) -> None:
    ax.set_axis_on()
    ax.set_xlabel(QUANTITIES[search.what])
    if is_first:
        ax.set_ylabel("loss, nats/token")
    x, y = zip(*search.tried, strict=True)
    ax.plot(x, y, color=SERIES[0])
    for px, py in search.tried:
        dot(ax, px, py, color=SERIES[0], size=6, filled=_is_best(search, px), markeredgewidth=1.3)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(list(x)))
    ax.xaxis.set_minor_locator(NullLocator())
    shown = ",.0f" if search.what == "batch" else ".2g"
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format(value, shown)))
    ax.tick_params(axis="x", labelsize="small", colors=MUTED)
    ax.margins(x=0.14, y=0.14)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.2 * (high - low))  # room for the words above the curve
    words, is_fine = standing(search)
    color = INK if is_fine else SERIES[1]
    ax.text(0.5, 0.98, words, transform=ax.transAxes, ha="center", va="top", fontsize="small", color=color)


# --- loss against everything paid --------------------------------------------------------------------------


SCENARIOS = {Scenario.INFERENCE: "teacher at hand", Scenario.PRETRAINING_INFERENCE: "teacher trained for this student"}
"""What is paid, in words."""


@dataclass(frozen=True, slots=True)
class Paid:
    """One cell of a study: its loss, and what it took."""

    name: str
    is_distilled: bool
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
    runs = {(run.params, run.tokens, run.teacher_run): run for run in reversed(record.students)}
    found = []
    for cell in cells:
        name = f"{cell.label} on {budget_text(cell.tokens)} tokens"
        student = runs[cell.params, cell.tokens, None].number("train_flops")  # seeds cost alike
        half = float(cell.seed_half)
        found.append(Paid(f"{name}, no teacher", False, cell.alone, half, student, 0.0, 0.0))
        for t in cell.taught:
            run, own = runs[cell.params, cell.tokens, t.teacher_run], record.every_teacher.get(t.teacher_run)
            training = own.number("train_flops") if own else math.nan
            flop = (run.number("train_flops"), run.number("teacher_flops"), training)
            found.append(Paid(f"{name} from the {t.teacher}", True, t.loss, float(t.half), *flop))
    return [one for one in found if math.isfinite(one.compute(Scenario.INFERENCE))]


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
        """Those of `taught` ahead, beyond the 90 % interval of the difference, of what no teacher gives for as much.

        They are ahead of every cheaper student without a teacher and of the next dearer one.
        """
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
        taught: [p for p in paid if p.is_distilled == taught and math.isfinite(p.compute(scenario))]
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
    return ScorePoint(name=paid.name, compute=paid.compute(scenario), score=-paid.loss, se=paid.half / Z90, is_own=True)


@in_style
def draw_paid(paid: Sequence[Paid]) -> Figure:
    """Loss against what was paid, a panel for each scenario that the study knows the bills of.

    DataError: no cell has been run with a teacher and counted its compute.
    """
    frontiers = [frontier(paid, scenario) for scenario in SCENARIOS]
    frontiers = [one for one in frontiers if one.points[True] and one.points[False]]
    if not frontiers:
        raise DataError("No student has been run both with and without a teacher and counted its compute yet.")
    axes = {"x": "compute paid, FLOP", "y": "student loss, nats/token"}
    figure, panels = new_panels(len(frontiers), panel=(3.6, 3.2), margin=(0.4, 0.3), **axes)
    for ax, one in zip(panels, frontiers, strict=True):
        _paid_panel(ax, one)
    share_range(panels)
    return figure


def _paid_panel(ax: Axes, found: Frontier) -> None:
    for taught, color, line in ((False, INK, found.alone), (True, SERIES[0], found.taught)):
        for p in found.points[taught]:
            x = p.compute(found.scenario)
            best = p in line
            bar, shade, size = (1.0, 1.0, 4.5) if best else (0.35, 0.55, 3.2)
            ax.plot([x, x], [p.loss - p.half, p.loss + p.half], color=color, linewidth=1.1, alpha=bar)
            dot(ax, x, p.loss, color=color, size=size, filled=best, alpha=shade)
    last = max(p.compute(found.scenario) for those in found.points.values() for p in those)
    for color, line, name in ((INK, found.alone, "no teacher"), (SERIES[0], found.taught, "distilled")):
        x, y = [p.compute(found.scenario) for p in line], [p.loss for p in line]
        ax.step([*x, last * 1.08], [*y, y[-1]], where="post", color=color, linewidth=1.3)
        note(ax, name, (last * 1.08, line[-1].loss), (3, 0), color=color, va="center", clip=False)
    ax.set_xscale("log")
    ax.margins(x=0.06, y=0.06)
    power_axis(ax)
    set_title(ax, SCENARIOS[found.scenario])
