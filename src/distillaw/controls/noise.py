"""Is the noise measured, and are the effects that the study shows large enough against it?"""

from dataclasses import dataclass

from distillaw.controls.control import About, Control
from distillaw.controls.study_runs import StudyRuns
from distillaw.planning.measured import DesignPoint
from distillaw.runs.record import budget_text

SEEDS = About(
    name="seeds",
    guards="one run per cell shows no training noise, and luck is read as an effect",
    remedy="add [[replicates]] with seeds = 5 for two student sizes, alone and from one teacher",
)
ERRORS = About(
    name="paired-errors",
    guards="an effect of two standard errors is often half its size, or none, in the next study",
    remedy="more seeds where seeds dominate the error, more held-out documents where those do",
)
LEAST_SEEDS, LEAST_CELLS = 5, 2
CLAIMED, SHARE = 2.0, 3.0
"""An effect of this many standard errors is claimed; it should have at least `SHARE` of them."""


def check_seeds(runs: StudyRuns) -> Control:
    """Five seeds of two student sizes, each alone and from a teacher at one token count.

    Branches of one trunk share their luck, so two token counts of one size are not two cells.
    """
    most: dict[int, tuple[int, int]] = {}  # size -> (seeds, tokens)
    for params, tokens in sorted({(n, d) for n, d, _ in runs.grid}):
        alone = runs.grid.get((params, tokens, ""), {})
        pairs = [
            len(alone.keys() & seeds.keys())
            for (n, d, t), seeds in runs.grid.items()
            if (n, d) == (params, tokens) and t
        ]
        most[params] = max(most.get(params, (0, 0)), (max(pairs, default=len(alone)), tokens))
    enough = [size for size, (seeds, _) in most.items() if seeds >= LEAST_SEEDS]
    names = {size: next(run.label for run in runs.record.students if run.params == size) for size in most}
    numbers = {"seeds": {names[size]: seeds for size, (seeds, _) in most.items()}}
    if all(seeds < 2 for seeds, _ in most.values()):
        return SEEDS.control("not done", "no cell was repeated with another seed", **numbers)
    shown = [
        f"{seeds} of {names[size]} at {budget_text(tokens)} tokens"
        for size, (seeds, tokens) in most.items()
        if seeds > 1
    ]
    words = (
        f"seeds: {', '.join(shown)}; wanted {LEAST_SEEDS} of {LEAST_CELLS} sizes, alone and from a teacher"
    )
    return SEEDS.control("passed" if len(enough) >= LEAST_CELLS else "failed", words, **numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Effect:
    """Something that the study's cells show."""

    what: str
    size: float
    se: float

    @property
    def ratio(self) -> float:
        """Effect in standard errors."""
        return abs(self.size) / self.se


def check_errors(runs: StudyRuns) -> Control:
    """Every effect of two standard errors, which a reader will take for one, has three.

    Effects: the gain of the best teacher in each cell, and how much worse the strongest teacher is than the best.
    """
    effects = [effect for cell in runs.cells for effect in _effects(cell)]
    if not effects:
        return ERRORS.control("not applicable", "no student has a teacher")
    numbers = {e.what: {"effect": e.size, "se": e.se} for e in effects}
    claimed = [e for e in effects if e.ratio > CLAIMED]
    if not any(run.scores is not None for run in runs.record.students):
        return ERRORS.control(
            "not done", "losses by document did not come along, so nothing can be paired", effects=numbers
        )
    if not claimed:
        return ERRORS.control(
            "undecided",
            f"none of {len(effects)} effects exceeds {CLAIMED:g} standard errors",
            effects=numbers,
        )
    least = min(claimed, key=lambda e: e.ratio)
    words = f"least certain of {len(claimed)} claims: {least.what}, {least.size:.3f} +- {least.se:.3f} nats"
    weak = [e for e in claimed if e.ratio < SHARE]
    if weak:
        return ERRORS.control(
            "failed",
            f"{len(weak)} of {len(claimed)} claims have errors above a third; {words}",
            effects=numbers,
        )
    return ERRORS.control("passed", f"{words} ({least.ratio:.1f} standard errors)", effects=numbers)


def _effects(cell: DesignPoint) -> list[_Effect]:
    where = f"{cell.label} on {budget_text(cell.tokens)} tokens"
    found = []
    if cell.best is not None:
        found.append(
            _Effect(
                what=f"gain of {where} from the {cell.best.teacher}", size=cell.best.gain, se=cell.best.se
            )
        )
    if cell.gap is not None:
        found.append(_Effect(what=f"depth of the U of {where}", size=cell.gap.depth, se=cell.gap.sd))
    return found
