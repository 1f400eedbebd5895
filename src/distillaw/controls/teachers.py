"""Do the teachers span the optimum, and count through their loss alone? Are lambda and temperature right?"""

from dataclasses import dataclass
from itertools import combinations

from distillaw.controls.control import LEVEL, About, Control, Status, below, worst
from distillaw.controls.study_runs import Difference, StudyRuns
from distillaw.planning.measured import DistilledPoint, MeasuredPoint
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
    return RANGE.control(
        "failed" if short else "passed", words, ranges={label: list(span) for label, span in spans.items()}
    )


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
        return {
            "where": self.where,
            "teachers": list(self.teachers),
            "teacher_losses": list(self.losses),
            "difference": self.difference.to_json(),
            "margin": self.margin,
            "status": self.status,
        }


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


def _pairs(runs: StudyRuns, cell: MeasuredPoint, matched: set[frozenset[str]]) -> list[_Pair]:
    if cell.best is None or cell.best.gain < 2 * cell.best.se:
        return []
    return [
        _pair(runs, cell, a, b)
        for a, b in combinations(cell.taught, 2)
        if frozenset((a.teacher_run, b.teacher_run)) in matched
    ]


def _pair(runs: StudyRuns, cell: MeasuredPoint, first: DistilledPoint, second: DistilledPoint) -> _Pair:
    seeds = [runs.grid[cell.params, cell.tokens, t.teacher_run] for t in (first, second)]
    difference = runs.difference(*seeds)
    assert difference is not None and cell.best is not None  # both have the study's first seed
    return _Pair(
        where=f"{cell.label} on {budget_text(cell.tokens)} tokens",
        teachers=(first.teacher, second.teacher),
        losses=(first.teacher_loss, second.teacher_loss),
        difference=difference,
        margin=MARGIN * cell.best.gain,
    )


def _nearest(runs: StudyRuns) -> str:
    """How far the nearest two teachers of different size are apart."""
    apart = [
        (abs(a[1] / b[1] - 1), a[0], b[0])
        for a, b in combinations(_sized(runs), 2)
        if max(a[2], b[2]) >= OTHER_SIZE * min(a[2], b[2])
    ]
    if not apart:
        return f"no two teachers of sizes {OTHER_SIZE} apart"
    gap, first, second = min(apart)
    names = [runs.arm_name(t).removeprefix("from the ") for t in (first, second)]
    return (
        f"no two teachers of different size within {100 * SAME_LOSS:g} % of one loss; nearest {' and '.join(names)}, "
        f"{100 * gap:.1f} %"
    )


# --- the objective: swept on two design points, the study's own values against others -----------------------


TOLERANCE = 0.005
"""Share of the loss by which another value may be better; the search for the batch moves by as much."""
LEAST_CELLS = 2
LAMBDA = About(
    name="lambda",
    guards="part of the loss on the data can rescue students of weak teachers: at one lambda alone a U may be lambda's",
    remedy='add [[cells]] name = "lambda", training = { distill_weight = 0.5 } on two sizes or budgets, from a weak '
    "and a strong teacher",
)
TEMPERATURE = About(
    name="temperature",
    guards="a strong teacher is sharper: at one temperature alone a capacity gap may be the temperature's",
    remedy="add [[cells]] with training = { temperature = 2.0 } and 0.5 on two sizes or budgets, from a strong teacher",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Swept:
    """The best other value of a setting at one place."""

    where: str
    value: float
    difference: Difference
    """The grid's run minus the other: positive where the other value is better."""
    loss: float

    @property
    def status(self) -> Status:
        """Whether the grid's value is within the tolerance of the best."""
        low, high = self.difference.interval()
        return below(low, high, TOLERANCE * self.loss)

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "where": self.where,
            "value": self.value,
            "grid_minus_best": self.difference.to_json(),
            "loss": self.loss,
            "status": self.status,
        }


def check_lambda(runs: StudyRuns) -> Control:
    """The study's lambda is within 0.5 % of the best one tried, on two cells."""
    return _check(runs, LAMBDA, "lambda")


def check_temperature(runs: StudyRuns) -> Control:
    """The study's temperature is within 0.5 % of the best one tried, on two cells."""
    return _check(runs, TEMPERATURE, "temperature")


def _check(runs: StudyRuns, about: About, setting: str) -> Control:
    if not runs.taught_by:
        return about.control("not applicable", "no student has a teacher")
    swept = _sweep(runs, setting)
    cells = {where.rsplit(" from ", 1)[0] + where.rsplit(" on ", 1)[1] for where in (s.where for s in swept)}
    if not swept:
        return about.control("not done", f"every student has one {setting}")
    extreme = max(swept, key=lambda s: s.difference.mean / s.loss)
    low, high = extreme.difference.interval()
    own = next(run.number(setting) for run in runs.record.students if run.teacher_run)
    words = (
        f"{setting} {own:g} against others in {len(swept)} places of {len(cells)} cells; most to gain: "
        f"{extreme.where}, {setting} {extreme.value:g} by {extreme.difference.mean:+.3f} "
        f"[{low:+.3f}, {high:+.3f}] nats (allowed {TOLERANCE * extreme.loss:.3f})"
    )
    status = worst(s.status for s in swept)
    if len(cells) < LEAST_CELLS and status != "failed":
        status, words = "not done", f"on {len(cells)} cell of {LEAST_CELLS}: {words}"
    return about.control(status, words, swept=[s.to_json() for s in swept])


def _sweep(runs: StudyRuns, setting: str) -> list[_Swept]:
    found = []
    for place, by_value in runs.variants(setting).items():
        known = {
            v: d
            for v, seeds in by_value.items()
            if (d := runs.difference(runs.grid[place], seeds)) is not None
        }
        if place[2] and known:
            best = max(known, key=lambda value: known[value].mean)
            loss = min(run.loss for run in runs.grid[place].values())
            found.append(_Swept(where=runs.place_name(place), value=best, difference=known[best], loss=loss))
    return found
