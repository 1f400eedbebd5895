"""What a law's constants hold for: one way of counting parameters or both, and with which errors.

Expected errors: the information of the runs at guessed laws (`fitting/expected.py`), the middle one of the guesses.
Reached: the covariance of the fit's bootstrap replicates, resampled by trunk. Both are linearised in the same way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distillaw.controls.control import C0_GOAL, EMBEDDING_SHARE, RATIO_GOAL, Control
from distillaw.controls.study_runs import StudyRuns
from distillaw.errors import DistillawError
from distillaw.fitting.api import fit
from distillaw.fitting.expected import BestRatio, PlannedRuns, best_ratios, expect, prior_laws
from distillaw.fitting.result import FitResult
from distillaw.fitting.study import kept_laws
from distillaw.fitting.uncertainty import DesignPoints
from distillaw.quantities import finite
from distillaw.runs.record import Run, StudyRecord

# --- how parameters are counted -----------------------------------------------------------------------------


SHARE = Control(
    name="embedding-share",
    guards="where embeddings are most of a model, its loss follows them and not the parameters that the law counts",
    remedy="a smaller vocabulary or larger students",
    concerns=("laws",),
)
CONVENTIONS = Control(
    name="conventions",
    guards="constants may hold in one way of counting parameters only, and predictions with them",
    remedy="quote the convention with every constant, do not extrapolate in size, and add larger students",
    concerns=("laws",),
)
FAMILIES = ("supervised", "distillation-kappa")
BEYOND = 10.0
"""Times the largest size: where the two predictions are compared as well."""


def check_share(runs: StudyRuns) -> Control:
    """One embedding matrix is at most 30 % of the non-embedding parameters of every model that a law is fitted on."""
    shares = {run.params: share for run in runs.main if (share := _embedding(run) / run.params) > 0}
    if not shares:
        return SHARE.answer("not done", "the table has neither vocabulary and width nor total parameters")
    smallest = min(shares)
    words = (
        f"one embedding matrix is {100 * shares[smallest]:.0f} % of the smallest model ({smallest:,} parameters); "
        f"at most {100 * EMBEDDING_SHARE:.0f} % wanted"
    )
    status = "passed" if round(max(shares.values()), 2) <= EMBEDDING_SHARE else "failed"
    return SHARE.answer(status, words, shares={str(n): share for n, share in sorted(shares.items())})


def _embedding(run: Run) -> float:
    """Parameters of one vocabulary matrix; NaN where the table does not say."""
    direct = run.number("vocab_size") * run.number("width")
    return direct if np.isfinite(direct) else (run.number("total_params") - run.params) / 2  # untied


def check_conventions(runs: StudyRuns) -> Control:
    """The laws fitted on non-embedding and on total parameters predict the same, in the range and ten times beyond."""
    table = _table(runs.main)
    if not np.isfinite(table["total_params"]).all():
        return CONVENTIONS.answer("not done", "the table has no total parameters (total_params)")
    compared, why = [], []
    for family in FAMILIES:
        try:
            fits = [_fit(table, family, name) for name in ("params", "total_params")]
        except DistillawError as error:
            why.append(f"{family}: {error}")
            continue
        unusable = [fit for fit in fits if not fit.is_usable]
        if unusable:
            why.append(f"{family}: {unusable[0].status.name}")
        else:
            compared.append(_compare(family, fits, table))
    if not compared:
        return CONVENTIONS.answer("not done", "; ".join(["no law could be fitted", *why[:1]]))
    words = "; ".join(
        f"{one['family']}: alpha {one['non_embedding']['alpha']:.2f} non-embedding, {one['total']['alpha']:.2f} "
        f"total; predictions {100 * one['rms_ln_loss']:.2f} % apart on the runs (noise {100 * one['noise'][0]:.2f} "
        f"%), {100 * one['beyond_ln_loss']:+.1f} % at {BEYOND:g} times the largest size"
        for one in compared
    )
    # the same: on the rows within their noise, beyond within the interval
    are_same = all(
        one["rms_ln_loss"] <= max(one["noise"]) and abs(one["beyond_ln_loss"]) <= one["half_width"] for one in compared
    )
    return CONVENTIONS.answer("passed" if are_same else "failed", words, fits=compared, not_fitted=why)


def _table(main: Sequence[Run]) -> dict[str, np.ndarray]:
    numbers = ("params", "total_params", "tokens", "loss", "teacher_loss")
    table = {name: np.array([run.number(name) for run in main]) for name in numbers}
    return table | {"group": np.array([run.group for run in main], dtype=object)}


def _fit(table: Mapping[str, np.ndarray], family: str, params: str) -> FitResult:
    """The estimate alone: neither bootstrap nor checks are needed to compare two predictions."""
    convention = "non-embedding" if params == "params" else "total"
    return fit(
        table,
        family=family,
        columns={"params": params},
        params_convention=convention,
        bootstrap=0,
        check=False,
        calibrate=False,
    )


def _compare(family: str, fits: Sequence[FitResult], table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """One family fitted in both conventions: how far the laws are apart, in ln L.

    On the fitted rows (root mean square); at ten times the largest size, its most tokens and the middle teacher, beside
    the half width of the prediction interval there, without the uncertainty of parameters.
    """
    there = [
        fit.predict(**_beyond(fit, table, total=name == "total_params"))
        for fit, name in zip(fits, ("params", "total_params"), strict=True)
    ]
    means = [float(np.log(one.mean)) for one in there]
    return {
        "family": family,
        "non_embedding": fits[0].params,
        "total": fits[1].params,
        "rms_ln_loss": float(np.sqrt(np.mean((fits[1].resid - fits[0].resid) ** 2))),  # of the same rows
        "beyond_ln_loss": means[1] - means[0],
        "half_width": max(float(np.log(one.upper / one.lower)) / 2 for one in there),
        "noise": [fit.noise for fit in fits],
    }


def _beyond(fit: FitResult, table: Mapping[str, np.ndarray], *, total: bool) -> dict[str, float]:
    """Coordinates at ten times the largest size, on the most tokens, from the middle teacher."""
    largest = int(np.argmax(table["params"]))
    size = BEYOND * float(table["params"][largest])
    if total:  # width, and with it the embeddings, grows with the cube root of size
        size += BEYOND ** (1 / 3) * float((table["total_params"] - table["params"])[largest])
    tokens = float(table["tokens"].max())
    assert fit.curve is not None
    if not fit.curve.is_student:
        return {"params": size, "tokens": tokens}
    found = {
        "student_params": size,
        "student_tokens": tokens,
        "teacher_loss": float(np.nanmedian(table["teacher_loss"])),
    }
    if fit.curve.behind is None:
        # fitted on measured losses of supervised students: the best of them stands for its own
        found["supervised_loss"] = float(table["loss"][np.isnan(table["teacher_loss"])].min())
    return found


# --- errors of c0 and of the best teacher's loss ------------------------------------------------------------


C0 = Control(
    name="c0-error",
    guards="c0, how much a stronger teacher helps, is the constant that small studies know least",
    remedy="`distillaw study next FOLDER` proposes runs; strong teachers at large token counts inform c0 most",
    concerns=("laws",),
)
RATIO = Control(
    name="best-ratio-error",
    guards="the best teacher's loss is read off a flat bottom: without its error any teacher can be called the best",
    remedy="teachers on both sides of the optimum, for the smallest and the largest student",
    concerns=("laws",),
)
FORMS = {"distillation-kappa": "kappa", "distillation-reduced": "reduced"}
_C0_INDEX = 5
"""Of c0 among the parameters of a distillation curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantErrors:
    """Standard errors of the two constants."""

    c0: float
    ratio: float
    """Of L_T* / Ltilde_S, the middle one over student cells whose best teacher is between others; infinite if none."""
    bracketed: int
    """How many such cells."""


def check_c0(runs: StudyRuns) -> Control:
    """The standard error of c0 is at most 0.3."""
    return _check(runs, C0, lambda found: found.c0, C0_GOAL)


def check_ratio(runs: StudyRuns) -> Control:
    """The standard error of the best L_T over the student's own loss is at most 0.03, where teachers bracket it."""
    return _check(runs, RATIO, lambda found: found.ratio, RATIO_GOAL)


def _check(runs: StudyRuns, about: Control, error: Callable[[ConstantErrors], float], limit: float) -> Control:
    if not runs.taught_by:
        return about.answer("not applicable", "no student has a teacher")
    fit = best_fit(runs.record)
    form = "kappa" if fit is None else FORMS[fit.family]
    expected = error(_expected(runs.record, form))
    numbers: dict[str, object] = {"expected": finite(expected), "limit": limit, "form": form}
    words = f"expected: {_said(expected)}; wanted {limit}"
    if fit is None:
        words = f"no usable distillation law with replicates yet; {words}"
        return about.answer("not done", words, **numbers)
    belief = fit.belief()
    taught = _cells([run for run in runs.record.students if run.teacher_run])
    c0 = float(np.sqrt(belief.covariance[_C0_INDEX, _C0_INDEX]))
    found = _precision(c0, best_ratios(belief, taught))
    reached = error(found)
    numbers |= {
        "reached": finite(reached),
        "family": fit.family,
        "fit_status": fit.status.name,
        "bracketed_cells": found.bracketed,
    }
    words = f"{_said(reached)} in the {fit.family} law ({fit.status.name}); {words}"
    return about.answer("passed" if reached <= limit else "failed", words, **numbers)


def best_fit(record: StudyRecord) -> FitResult | None:
    """The study's distillation law: the first family that is usable, with replicates and a law of the student's own."""
    kept = kept_laws(record).fits
    for law in (kept[family] for family in FORMS if family in kept):
        curve = law.curve
        if law.is_usable and curve is not None and curve.behind is not None and len(curve.replicates) > 1:
            return law
    return None


def _expected(record: StudyRecord, form: str) -> ConstantErrors:
    """The middle of the guesses."""
    students = record.students
    codes = {group: i for i, group in enumerate(sorted({run.group for run in students}))}
    planned = PlannedRuns(cells=_cells(students), trunk=np.array([codes[run.group] for run in students]))
    guesses = prior_laws(np.array([float(run.params) for run in students])).values()
    found = [_precision(one.errors["c0"], one.best) for one in (expect(law, planned, form=form) for law in guesses)]
    c0, ratio = (float(np.median([getattr(one, name) for one in found])) for name in ("c0", "ratio"))
    return ConstantErrors(c0=c0, ratio=ratio, bracketed=min(one.bracketed for one in found))


def _precision(c0: float, best: Sequence[BestRatio]) -> ConstantErrors:
    errors = [one.error for one in best if one.is_bracketed]
    return ConstantErrors(c0=c0, ratio=float(np.median(errors)) if errors else float("inf"), bracketed=len(errors))


def _cells(runs: list[Run]) -> DesignPoints:
    columns = {name: np.array([run.number(name) for run in runs]) for name in ("params", "tokens", "teacher_loss")}
    return DesignPoints(**columns)


def _said(error: float) -> str:
    return f"standard error {error:.2g}" if np.isfinite(error) else "no cell whose best teacher is bracketed"
