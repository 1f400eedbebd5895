"""How well the design should know the law's constants, and how well the fit does: c0, and the best teacher's loss.

Expected: the information of the runs at guessed laws (`fitting/expected.py`), the middle one of the guesses. Reached:
the covariance of the fit's bootstrap replicates, resampled by trunk. Both are linearised in the same way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.controls.control import About, Control
from distillaw.controls.study_runs import StudyRuns
from distillaw.fitting.expected import BestRatio, PlannedRuns, best_ratios, expect
from distillaw.fitting.prior_laws import prior_laws
from distillaw.fitting.result import FitResult
from distillaw.fitting.study import kept_laws
from distillaw.fitting.uncertainty import Cells, fitted_belief
from distillaw.runs.record import Run, StudyRecord

C0 = About(
    name="c0-error",
    guards="c0, how much a stronger teacher helps, is the constant that small studies know least",
    remedy="`distillaw study next FOLDER` proposes runs; strong teachers at large token counts inform c0 most",
    concerns=("laws",),
)
RATIO = About(
    name="best-ratio-error",
    guards="the best teacher's loss is read off a flat bottom: without its error any teacher can be called the best",
    remedy="teachers on both sides of the optimum, for the smallest and the largest student",
    concerns=("laws",),
)
MOST_C0, MOST_RATIO = 0.3, 0.03
FORMS = {"distillation-kappa": "kappa", "distillation-reduced": "reduced"}
_C0_INDEX = 5
"""Of c0 among the parameters of a distillation curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Standard errors of the two constants."""

    c0: float
    ratio: float
    """Of L_T* / Ltilde_S, the middle one over student cells whose best teacher is between others; infinite if none."""
    bracketed: int
    """How many such cells."""


def check_c0(runs: StudyRuns) -> Control:
    """The standard error of c0 is at most 0.3."""
    return _check(runs, C0, lambda found: found.c0, MOST_C0)


def check_ratio(runs: StudyRuns) -> Control:
    """The standard error of the best L_T over the student's own loss is at most 0.03, where teachers bracket it."""
    return _check(runs, RATIO, lambda found: found.ratio, MOST_RATIO)


def _check(runs: StudyRuns, about: About, error: Callable[[Precision], float], limit: float) -> Control:
    if not runs.taught_by:
        return about.control("not applicable", "no student has a teacher")
    fit = best_fit(runs.record)
    form = "kappa" if fit is None else FORMS[fit.family]
    expected = error(_expected(runs.record, form))
    numbers: dict[str, object] = {"expected": _finite(expected), "limit": limit, "form": form}
    words = f"expected: {_said(expected)}; wanted {limit}"
    if fit is None:
        return about.control(
            "not done", f"no usable distillation law with replicates yet; {words}", **numbers
        )
    found = _reached(runs.record, fit)
    reached = error(found)
    numbers |= {"reached": _finite(reached), "family": fit.family, "fit_status": fit.status.name,
                "bracketed_cells": found.bracketed}  # fmt: skip
    words = f"{_said(reached)} in the {fit.family} law ({fit.status.name}); {words}"
    return about.control("passed" if reached <= limit else "failed", words, **numbers)


def best_fit(record: StudyRecord) -> FitResult | None:
    """The study's distillation law: the first family that is usable, with replicates and a law of the student's own."""
    kept = kept_laws(record).fits
    fits = [kept[family] for family in FORMS if family in kept]
    return next((fit for fit in fits if fit.is_usable and fit.curve is not None and fit.curve.behind is not None
                 and len(fit.curve.replicates) > 1), None)  # fmt: skip


def _expected(record: StudyRecord, form: str) -> Precision:
    """The middle of the guesses."""
    students = record.students
    codes = {group: i for i, group in enumerate(sorted({_group(run) for run in students}))}
    planned = PlannedRuns(cells=_cells(students), trunk=np.array([codes[_group(run)] for run in students]))
    guesses = prior_laws(np.array([float(run.params) for run in students])).values()
    found = [
        _precision(one.errors["c0"], one.best) for one in (expect(law, planned, form=form) for law in guesses)
    ]
    c0, ratio = (float(np.median([getattr(one, name) for one in found])) for name in ("c0", "ratio"))
    return Precision(c0=c0, ratio=ratio, bracketed=min(one.bracketed for one in found))


def _reached(record: StudyRecord, fit: FitResult) -> Precision:
    belief = fitted_belief(fit)
    taught = _cells([run for run in record.students if run.teacher_run])
    return _precision(float(np.sqrt(belief.covariance[_C0_INDEX, _C0_INDEX])), best_ratios(belief, taught))


def _precision(c0: float, best: Sequence[BestRatio]) -> Precision:
    errors = [one.error for one in best if one.is_bracketed]
    return Precision(c0=c0, ratio=float(np.median(errors)) if errors else float("inf"), bracketed=len(errors))


def _cells(runs: list[Run]) -> Cells:
    columns = {
        name: np.array([run.number(name) for run in runs]) for name in ("params", "tokens", "teacher_loss")
    }
    return Cells(**columns)


def _group(run: Run) -> str:
    return str(run.row.get("group") or run.run_id)


def _said(error: float) -> str:
    return f"standard error {error:.2g}" if np.isfinite(error) else "no cell whose best teacher is bracketed"


def _finite(error: float) -> float | None:
    return error if np.isfinite(error) else None
