"""Do the teachers span the optimum, and does a teacher count only through its loss?"""

from dataclasses import dataclass
from itertools import combinations

from distillaw.controls.control import LEVEL, About, Control, Status, worst
from distillaw.controls.study_runs import Difference, StudyRuns
from distillaw.planning.measured import DesignPoint, DistilledPoint
from distillaw.runs.record import budget_text

RANGE = About(
    name="teacher-range",
    guards="from 0.80 to 1.05 of the student's own loss and with 1 % noise the optimum is not identified",
    remedy="add stronger teachers (larger, on more tokens), or weaker ones, where the range ends short",
    concerns=("laws",),
)
PAIRS = About(
    name="equal-loss-pairs",
    guards="the laws see a teacher only through its loss; if size or tokens count as well, they are wrong in form",
    remedy="train pairs of teachers to one loss with sizes at least 1.5 apart, all students from both; more seeds "
    "where undecided",
    concerns=("laws",),
)
LOW, HIGH = 0.65, 1.05
"""Teacher loss over the student's own supervised loss."""
SAME_LOSS = 0.005
OTHER_SIZE = 1.5
MARGIN = 0.25
"""Of the best teacher's gain in a cell: students this near are equal."""


def check_range(runs: StudyRuns) -> Control:
    """Every student size has teachers from 0.65 to 1.05 of its own loss, over its token counts."""
    ratios: dict[str, list[float]] = {}
    for cell in runs.cells:
        ratios.setdefault(cell.label, []).extend(t.teacher_loss / cell.alone for t in cell.taught)
    spans = {label: (min(found), max(found)) for label, found in ratios.items() if found}
    if not spans:
        return RANGE.control("not applicable", "no student has a teacher")
    short = [label for label, (low, high) in spans.items() if round(low, 2) > LOW or round(high, 2) < HIGH]
    words = ", ".join(f"{label} {low:.2f} to {high:.2f}" for label, (low, high) in spans.items())
    words = f"L_T over the student's own loss: {words}; wanted {LOW} to {HIGH}"
    return RANGE.control("failed" if short else "passed", words,
                         ranges={label: list(span) for label, span in spans.items()})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Students of two teachers of equal loss and different size."""

    where: str
    teachers: tuple[str, str]
    losses: tuple[float, float]
    difference: Difference
    """Student of the first less student of the second."""
    margin: float

    @property
    def status(self) -> Status:
        """Equal within the margin, apart by more than margin and teachers' losses explain, or neither."""
        low, high = self.difference.interval()
        if -self.margin <= low and high <= self.margin:
            return "passed"
        explained = self.margin + abs(
            self.losses[0] - self.losses[1]
        )  # a student follows its teacher's loss at most one to one
        return "failed" if low > explained or high < -explained else "undecided"

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return {"where": self.where, "teachers": list(self.teachers), "teacher_losses": list(self.losses),
                "difference": self.difference.to_json(), "margin": self.margin, "status": self.status}  # fmt: skip


def check_pairs(runs: StudyRuns) -> Control:
    """Students of two teachers of one loss are equal, tested two-sided within a quarter of the cell's best gain.

    Teachers within 0.5 % of one loss count as equal. Cells whose best gain does not exceed two standard errors have no
    margin and are left out.
    """
    if len(runs.taught_by) < 2:
        return PAIRS.control("not applicable", "fewer than two teachers")
    matched = _matched(runs)
    if not matched:
        return PAIRS.control("not done", _nearest(runs))
    pairs = [pair for cell in runs.cells for pair in _pairs(runs, cell, matched)]
    if not pairs:
        return PAIRS.control(
            "not done", "no student learnt from both teachers of a pair with a gain beyond noise"
        )
    extreme = max(pairs, key=lambda p: abs(p.difference.mean) / p.margin)
    low, high = extreme.difference.interval()
    counts = {status: sum(p.status == status for p in pairs) for status in ("passed", "failed", "undecided")}
    words = (
        f"{len(matched)} pairs of teachers; students equal in {counts['passed']} cells of {len(pairs)}, different in "
        f"{counts['failed']}, undecided in {counts['undecided']}; farthest apart {extreme.where}, "
        f"{' and '.join(extreme.teachers)}: "
        f"{extreme.difference.mean:+.3f} [{low:+.3f}, {high:+.3f}] with margin {extreme.margin:.3f} nats"
    )
    return PAIRS.control(
        worst(p.status for p in pairs), words, level=LEVEL, pairs=[p.to_json() for p in pairs]
    )


def _sized(runs: StudyRuns) -> list[tuple[str, float, int]]:
    """Teachers of the grid that are runs of this study: (run id, loss, params)."""
    known = runs.record.teachers
    return [(t, known[t].loss, known[t].params) for t in runs.taught_by if t in known]


def _are_pair(first: tuple[str, float, int], second: tuple[str, float, int]) -> bool:
    sizes = sorted((first[2], second[2]))
    return abs(first[1] / second[1] - 1) <= SAME_LOSS and sizes[1] >= OTHER_SIZE * sizes[0]


def _matched(runs: StudyRuns) -> set[frozenset[str]]:
    return {frozenset((a[0], b[0])) for a, b in combinations(_sized(runs), 2) if _are_pair(a, b)}


def _pairs(runs: StudyRuns, cell: DesignPoint, matched: set[frozenset[str]]) -> list[_Pair]:
    if cell.best is None or cell.best.gain < 2 * cell.best.se:
        return []
    return [_pair(runs, cell, a, b) for a, b in combinations(cell.taught, 2)
            if frozenset((a.teacher_run, b.teacher_run)) in matched]  # fmt: skip


def _pair(runs: StudyRuns, cell: DesignPoint, first: DistilledPoint, second: DistilledPoint) -> _Pair:
    seeds = [runs.grid[cell.params, cell.tokens, t.teacher_run] for t in (first, second)]
    difference = runs.difference(*seeds)
    assert difference is not None and cell.best is not None  # both have the study's first seed
    return _Pair(where=f"{cell.label} on {budget_text(cell.tokens)} tokens", teachers=(first.teacher, second.teacher),
                 losses=(first.teacher_loss, second.teacher_loss), difference=difference,
                 margin=MARGIN * cell.best.gain)  # fmt: skip


def _nearest(runs: StudyRuns) -> str:
    """How far the nearest two teachers of different size are apart."""
    apart = [(abs(a[1] / b[1] - 1), a[0], b[0]) for a, b in combinations(_sized(runs), 2)
             if max(a[2], b[2]) >= OTHER_SIZE * min(a[2], b[2])]  # fmt: skip
    if not apart:
        return f"no two teachers of sizes {OTHER_SIZE} apart"
    gap, first, second = min(apart)
    names = [runs.arm_name(t).removeprefix("from the ") for t in (first, second)]
    return (
        f"no two teachers of different size within {100 * SAME_LOSS:g} % of one loss; nearest {' and '.join(names)}, "
        f"{100 * gap:.1f} %"
    )
