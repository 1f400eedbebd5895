"""What a study would identify: its runs as cells of guessed laws, and the standard errors that would remain.

Goals: c0 within 0.3 and the best L_T / Ltilde_S within 0.03 under every guess. Where one is missed, the additions
below are tried and the one that helps most is named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.controls.control import C0_GOAL
from distillaw.fitting.expected import BestRatio, FormErrors, PlannedRuns, expect
from distillaw.fitting.prior_laws import prior_laws
from distillaw.fitting.uncertainty import DesignPoints
from distillaw.laws.base import Array
from distillaw.laws.published import PublishedLaw
from distillaw.runs.spec import serves_laws
from distillaw.sweep.ready import TrunkJob

MANY_RUNS = 60
"""From so many distilled runs on the eight-parameter form is fitted; below, the one with five (docs/fitting.md)."""
FEWEST_TRUNKS = {"reduced": 8, "kappa": 11, "supervised": 9}
"""Parameters and three more: with fewer independent runs a fit is TOO_FEW_RUNS."""
FORM_NAMES = {
    "reduced": "five-parameter form",
    "kappa": "eight-parameter form",
    "supervised": "supervised law",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedErrors:
    """What one form would know of a study, under every guess."""

    form: str
    num_runs: int
    num_trunks: int
    by_guess: Mapping[str, FormErrors]

    @property
    def has_enough(self) -> bool:
        """Whether there are as many independent runs as a fit asks for."""
        return self.num_trunks >= FEWEST_TRUNKS[self.form]

    def error(self, name: str) -> float:
        """The largest standard error of a coefficient among the guesses; nan where the form lacks it."""
        return max((e.errors.get(name, np.nan) for e in self.by_guess.values()), default=np.nan)

    def value(self, name: str) -> tuple[float, float]:
        """Lowest and highest value among the guesses."""
        values = [e.values[name] for e in self.by_guess.values()]
        return min(values), max(values)

    def best(self) -> list[tuple[BestRatio, ...]]:
        """Each student cell's best ratio under every guess."""
        return list(zip(*(e.best for e in self.by_guess.values()), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """All that is expected of a study's laws."""

    outlooks: tuple[ExpectedErrors, ...]
    """Of the supervised law, and of both forms of the distillation law where there are teachers of known loss."""
    ratios: tuple[float, float] | None
    """Lowest and highest L_T / Ltilde_S among the runs, by the guess; None without teachers."""
    add: str
    """What would sharpen c0 most where it misses its goal; empty where nothing is missing."""

    def outlook(self, form: str) -> ExpectedErrors | None:
        """The one of a form."""
        return next((one for one in self.outlooks if one.form == form), None)

    @property
    def fitted(self) -> ExpectedErrors | None:
        """The form of the distillation law that so many runs support."""
        few, many = self.outlook("reduced"), self.outlook("kappa")
        return many if many is not None and many.num_runs >= MANY_RUNS else few


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    params: float
    tokens: int
    teacher: tuple[float, float] | None
    """Its size and tokens."""
    trunk: str


def prospect(jobs: Sequence[TrunkJob]) -> Prospect | None:
    """What the jobs of a study would identify; None where none of them serves a law.

    Runs from teachers that are not trained here are left out: their losses are not known before they are measured.
    """
    rows = _rows(jobs)
    if not rows:
        return None
    students = np.array([row.params for row in rows])
    laws = prior_laws(students)
    taught = any(row.teacher for row in rows)
    plans = {name: _planned(rows, law) for name, law in laws.items()}
    forms = ("supervised", "reduced", "kappa") if taught else ("supervised",)
    if all(row.teacher for row in rows):
        forms = forms[1:]
    outlooks = tuple(_outlook(form, laws, plans) for form in forms)
    cells = next(iter(plans.values())).cells
    ratios = _ratios(cells, next(iter(laws.values()))) if taught else None
    found = Prospect(outlooks=outlooks, ratios=ratios, add="")
    forms = [one for one in outlooks if one.form != "supervised" and one.has_enough]
    missing = [one for one in forms if one.error("c0") > C0_GOAL]
    if not missing:
        return found
    return Prospect(outlooks=outlooks, ratios=ratios, add=_what_to_add(missing[-1], laws, plans))


def _rows(jobs: Sequence[TrunkJob]) -> list[_Row]:
    """Runs that laws are fitted on: the grid, and teachers as models trained alone; what is held out comes too late."""
    trained = {
        run_id: (float(job.trunk.params), float(tokens))
        for job in jobs
        if job.trunk.role == "teacher"
        for run_id, tokens in zip(job.run_ids, job.budgets, strict=True)
    }
    rows, seen = [], set()
    for job in jobs:
        trunk = job.trunk
        serves = serves_laws(trunk.purpose) and trunk.purpose != "holdout"
        if serves and (trunk.teacher_run is None or trunk.teacher_run in trained):
            teacher = trained.get(trunk.teacher_run or "")
            rows += [
                _Row(params=float(trunk.params), tokens=t, teacher=teacher, trunk=trunk.trunk_id)
                for t in job.budgets
                if (trunk.trunk_id, t) not in seen
            ]
            seen.update((trunk.trunk_id, t) for t in job.budgets)
    return rows


def _planned(rows: Sequence[_Row], law: PublishedLaw) -> PlannedRuns:
    """The rows as cells, the teachers' losses by the guess."""
    assert law.supervised is not None
    numbers: dict[str, int] = {}
    trunk = np.array([numbers.setdefault(row.trunk, len(numbers)) for row in rows], dtype=np.int64)
    size, read = np.array([row.teacher or (np.nan, np.nan) for row in rows]).T
    loss = np.full(len(rows), np.nan)
    known = np.isfinite(size)
    if known.any():
        loss[known] = law.supervised(params=size[known], tokens=read[known])
    table = {
        "params": np.array([row.params for row in rows]),
        "tokens": np.array([row.tokens for row in rows]),
        "teacher_loss": loss,
    }
    return PlannedRuns(cells=DesignPoints.of(table, what="study"), trunk=trunk)


def _outlook(form: str, laws: Mapping[str, PublishedLaw], plans: Mapping[str, PlannedRuns]) -> ExpectedErrors:
    some = next(iter(plans.values()))
    counted = ~some.cells.taught if form == "supervised" else some.cells.taught
    return ExpectedErrors(
        form=form,
        num_runs=int(counted.sum()),
        num_trunks=len(np.unique(some.trunk[counted])),
        by_guess={name: expect(law, plans[name], form=form) for name, law in laws.items()},
    )


def _ratios(cells: DesignPoints, law: PublishedLaw) -> tuple[float, float]:
    assert law.supervised is not None
    taught = cells.taught
    alone = law.supervised(params=cells.params[taught], tokens=cells.tokens[taught])
    ratio = cells.teacher_loss[taught] / alone
    return float(ratio.min()), float(ratio.max())


# --- what to add ------------------------------------------------------------------------------------------------------


def _what_to_add(
    fitted: ExpectedErrors, laws: Mapping[str, PublishedLaw], plans: Mapping[str, PlannedRuns]
) -> str:
    """The addition after which the worst guess knows c0 best, in words with the error it leaves."""
    found: dict[str, float] = {}
    for name, law in laws.items():
        for words, cells in _additions(plans[name]).items():
            after = expect(law, plans[name].followed_by(cells), form=fitted.form, best=False)
            found[words] = max(found.get(words, 0.0), after.errors["c0"])
    words = min(found, key=lambda key: found[key])
    return f"{words} (then {found[words]:.2g} in the {FORM_NAMES[fitted.form]})"


def _additions(runs: PlannedRuns) -> dict[str, DesignPoints]:
    """Further runs, in words: each for every student cell, budget or teacher that is there."""
    taught = runs.taught()
    students = np.unique(np.stack([taught.params, taught.tokens], axis=1), axis=0)
    losses = np.unique(taught.teacher_loss)
    sizes, budgets = np.unique(taught.params), np.unique(taught.tokens)

    def crossed(params: Array, tokens: Array, teacher: Array) -> DesignPoints:
        n, d, t = (a.ravel() for a in np.meshgrid(params, tokens, teacher, indexing="ij"))
        return DesignPoints.of({"params": n, "tokens": d, "teacher_loss": t}, what="additions")

    def from_teacher(loss: float) -> DesignPoints:
        table = {"params": students[:, 0], "tokens": students[:, 1], "teacher_loss": loss}
        return DesignPoints.of(table, what="additions")

    return {
        "add a teacher 10 % below the strongest one's loss": from_teacher(0.9 * losses[0]),
        "add a teacher 5 % above the weakest one's loss": from_teacher(1.05 * losses[-1]),
        "add a teacher between the middle ones": from_teacher(float(np.median(losses)) * 1.001),
        "add budgets four times as long": crossed(sizes, 4 * budgets[-1:], losses),
        "add a student size four times the largest": crossed(4 * sizes[-1:], budgets, losses),
    }
