"""`distillaw.fit`: a table of runs in, a law with honest intervals out.

    distillaw fit runs.csv --law supervised --columns params=N,tokens=D,loss=loss

The steps: rows (`problem.py`), law (`families.py`), design checks (`checks.py`), estimate and bootstrap
(`estimate.py`), independent solver (`second.py`), misspecification (`calibrate.py`), status.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from distillaw.errors import ConfigError, DataError, UnitError
from distillaw.fitting import families
from distillaw.fitting.calibrate import Calibration, by_decade, calibrate_term, hold_out
from distillaw.fitting.capacity import FEWEST_SIZES, fit_gap
from distillaw.fitting.checks import Verdict, check_design, check_estimate
from distillaw.fitting.curve import Curve, supervised_curve
from distillaw.fitting.diagnostics import behaviours, students_above_teachers
from distillaw.fitting.estimate import Estimate, Problem, bootstrap, condition_number, estimate
from distillaw.fitting.families import Specified
from distillaw.fitting.models import StudentModel
from distillaw.fitting.newton import minimise
from distillaw.fitting.problem import (
    Observations,
    observe,
    require_variation,
    split_by_teacher,
    with_measured_supervised,
)
from distillaw.fitting.profile import profiles
from distillaw.fitting.result import FitResult, convention_of
from distillaw.fitting.second import disagreement
from distillaw.fitting.status import FitStatus
from distillaw.laws.base import Box
from distillaw.laws.distillation import StudentLaw
from distillaw.laws.published import PublishedLaw
from distillaw.laws.supervised import SupervisedLaw
from distillaw.runs.table import read_table
from distillaw.version import __version__

LARGE = 4000
"""Independent runs above which intervals come from a random part of this size."""

Supervised = SupervisedLaw | PublishedLaw | FitResult


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What was asked, apart from the data."""

    family: str
    delta: float | str
    bootstrap: int
    level: float
    seed: int
    priors: str | Mapping[str, tuple[float, float]] | None
    check: bool
    calibrate: bool
    tie: bool
    provenance: Mapping[str, object]


def fit(
    table: Mapping[str, ArrayLike] | str | Path,
    *,
    family: str,
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    delta: float | str = "auto",
    bootstrap: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    supervised: Supervised | None = None,
    weights: ArrayLike | None = None,
    priors: str | Mapping[str, tuple[float, float]] | None = "auto",
    unit: str | None = None,
    params_convention: str | None = None,
    vocab: float | None = None,
    width: str | None = None,
    tie_exponents: bool = False,
    check: bool = True,
    calibrate: bool = True,
) -> FitResult:
    """Fit a law to runs.

    Args:
        table: columns of equal length, or a path to a CSV, Parquet, JSON lines file or study folder.
        family: supervised, chinchilla, distillation, distillation-kappa, distillation-reduced,
            distillation-reduced-q, distillation-auto or capacity-gap.
        columns: {our name: column}, e.g. {"params": "N", "tokens": "D", "loss": "final_loss"}.
        group: column naming the independent run of each row (checkpoints and branches of one run share
            it); "none" for independent rows; default: group, run_name or trunk where the table has one.
        delta: Huber threshold in ln L; "auto" is 1.345 times the robust noise, 1e-3 the field's habit.
        bootstrap: replicates, resampled by group; 0 for none.
        level: coverage of the intervals.
        seed: of everything random here.
        supervised: law of the student's own supervised loss, for distillation families; a FitResult
            brings its uncertainty along. Default: fitted jointly from the rows without a teacher, or the
            measured losses where those rows are too few for a law.
        weights: weight per row.
        priors: "auto" (weak ones when delta is auto), "weak", "none", or {coefficient: (centre, sd)}.
        unit: of the losses: nats, bits, bits-per-byte or bits-per-character.
        params_convention: what the params column counts, non-embedding (default) or total; the law is in that
            convention, and says so.
        vocab: entries of the vocabulary; with the width, total parameters become non-embedding ones.
        width: column with the model width, by default `width`.
        tie_exponents: alpha = beta, for the supervised and chinchilla families.
        check: run the independent second solver and the profile likelihoods.
        calibrate: choose the misspecification term from hold-outs; False keeps the default one.

    Returns:
        FitResult; soft problems are its status.

    Raises:
        DataError: the table cannot be used (names row and column).
        UnitError: units or parameter conventions are mixed.
        ConfigError: an argument is not valid.

    Example:
        >>> import numpy as np, distillaw as dl
        >>> N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 4e9, 6), np.geomspace(2e9, 2e11, 6)))
        >>> L = dl.published("busbridge2025").supervised(params=N, tokens=D)
        >>> result = dl.fit({"params": N, "tokens": D, "loss": L}, family="supervised", bootstrap=20)
        >>> round(result.params["gamma"], 6)
        0.452
    """
    started = time.perf_counter()
    families.check_family(family)
    _check_numbers(delta, bootstrap, level)
    if tie_exponents and family not in ("supervised", "chinchilla"):
        raise ConfigError(f"tie_exponents: {family} has no such option; use it with supervised or chinchilla")
    source = str(table) if isinstance(table, str | Path) else "table in memory"
    data = read_table(table) if isinstance(table, str | Path) else table
    rows = observe(
        data, columns=columns, group=group, weights=weights, unit=unit, params_convention=params_convention,
        vocab=vocab, width=width,
    )  # fmt: skip
    request = _Request(
        family=family, delta=delta, bootstrap=bootstrap, level=level, seed=seed, priors=priors, check=check,
        calibrate=calibrate, tie=tie_exponents,
        provenance={"source": source, "version": __version__, "seed": seed, "priors": _plain_priors(priors),
                    "columns": dict(columns or {}), "unit": unit or "nats", "bootstrap": bootstrap,
                    "params_convention": rows.convention, "tie_exponents": tie_exponents},
    )  # fmt: skip
    plain, taught = split_by_teacher(rows)
    if family in ("supervised", "chinchilla"):
        result = _fit_supervised(plain, request)
    elif family == "capacity-gap":
        result = _fit_capacity(taught if len(taught) else rows, request)
    elif family == "distillation-auto":
        from distillaw.fitting.ladder import fit_ladder

        result = fit_ladder(
            lambda form, count: _fit_students(plain, taught, supervised, form, replace(request, bootstrap=count)),
            ngroups=taught.ngroups, bootstrap=bootstrap,
        )  # fmt: skip
    else:
        result = _fit_students(plain, taught, supervised, families.FORMS[family], request)
    if isinstance(result.law, StudentLaw):
        result = replace(result, details={**result.details, "behaviours": behaviours(result.law)})
    return replace(result, family=family, seconds=time.perf_counter() - started)


def _check_numbers(delta: float | str, replicates: int, level: float) -> None:
    if delta != "auto" and (isinstance(delta, str) or not np.isfinite(delta) or delta <= 0):
        raise ConfigError(f"delta: got {delta!r}; give a positive number (1e-3 is usual) or 'auto'")
    if replicates < 0 or int(replicates) != replicates:
        raise ConfigError(f"bootstrap: got {replicates!r}; give a whole number of replicates, 0 for none")
    if not 0 < level < 1:
        raise ConfigError(f"level: got {level}; give the coverage as a share between 0 and 1, e.g. 0.9")


def _plain_priors(priors: str | Mapping[str, tuple[float, float]] | None) -> object:
    return priors if priors is None or isinstance(priors, str) else {k: list(v) for k, v in priors.items()}


def _fit_supervised(rows: Observations, request: _Request) -> FitResult:
    if not len(rows):
        raise DataError("no rows without a teacher: a supervised law is fitted to those (teacher_loss empty)")
    prior = families.read_priors(request.priors, form=request.family, delta=request.delta)
    num_params = (6 if request.family == "supervised" else 5) - request.tie
    verdict = check_design(rows, num_params=num_params, needs_both=True)
    if verdict is not None and len(rows) < 5:
        return _refused(rows, request, verdict, students=False)
    if verdict is None:
        require_variation(rows, ("params", "tokens"))
    if rows.ngroups > LARGE:
        return _fit_large(rows, request, prior)
    specified = families.specify_supervised(rows, form=request.family, prior=prior, tie=request.tie)
    return _solve(specified, rows, request, verdict, students=False)


def _fit_large(rows: Observations, request: _Request, prior: dict) -> FitResult:
    """Intervals, checks and calibration from a random part of the runs, the estimate from all of them.

    The spread of the replicates is scaled by root(m/n), the m-out-of-n bootstrap.
    """
    part = rows.thinned(LARGE, np.random.default_rng([request.seed, 4]))
    small = _fit_supervised(part, request)
    if small.curve is None or small.delta is None:
        return small
    whole = families.specify_supervised(
        rows, form=request.family, prior=prior, centre=small.curve.centre, tie=request.tie
    )
    problem = whole.problem
    found = minimise(
        problem.model, problem.y, problem.weight[None], small.curve.theta[None], delta=small.delta,
        prior=problem.prior(small.noise),
    )  # fmt: skip
    shrunk = (small.curve.replicates - small.curve.theta) * np.sqrt(part.ngroups / rows.ngroups)
    note = f"intervals are linearised from a random {part.ngroups} of the {rows.ngroups} runs (m-out-of-n bootstrap)"
    return replace(
        small, curve=whole.curve(found.theta[0], found.theta[0] + shrunk), nobs=len(rows), ngroups=rows.ngroups,
        objective=float(found.objective[0]), fitted_range=rows.box(students=False), fitted_rows=rows.row,
        resid=problem.model.value(found.theta)[0] - problem.y, notes=(*rows.notes, note),
    )  # fmt: skip


def _fit_students(
    plain: Observations, taught: Observations, supervised: Supervised | None, form: str, request: _Request
) -> FitResult:
    if not len(taught):
        raise DataError(
            "no rows with a teacher: give the column teacher_loss (--columns teacher_loss=COLUMN)"
        )
    prior = families.read_priors(request.priors, form=form, delta=request.delta)
    verdict = check_design(taught, num_params=len(families.FREE[form]), needs_both=form != "reduced")
    if verdict is not None:
        return _refused(taught, request, verdict, students=True)
    require_variation(
        taught, ("params", "teacher_loss") if form == "reduced" else ("params", "tokens", "teacher_loss")
    )
    beaten = students_above_teachers(taught)
    taught = replace(taught, notes=(*taught.notes, beaten)) if beaten else taught
    if supervised is not None:
        return _fit_given(taught, supervised, form, prior, request)
    if len(plain) and check_design(plain, num_params=6, needs_both=True) is None:
        return _fit_joint(plain, taught, form, prior, request)
    return _fit_measured(plain, taught, form, prior, request)


def _fit_given(
    taught: Observations, supervised: Supervised, form: str, prior: dict, request: _Request
) -> FitResult:
    """Ltilde_S from a given law; a FitResult's replicates go with ours one to one."""
    other = convention_of(supervised)
    if other is not None and other != taught.convention:
        raise UnitError(
            f"the supervised law counts {other} parameters, the table {taught.convention} ones; convert the table "
            f"(--params-convention total --vocab V --width COLUMN) or fit the supervised law on the same count"
        )
    behind = _behind(supervised, request.bootstrap)
    cells = {"params": np.log(taught.params), "tokens": np.log(taught.tokens)}
    at = behind.log_value(cells, replicates=False)[0]
    specified = families.specify_student(taught, form=form, log_supervised=at, behind=behind, prior=prior)
    spread = behind.log_value(cells, replicates=True) if len(behind.replicates) else None
    note = (
        ()
        if spread is not None
        else ("the supervised law is taken as known: intervals leave out its uncertainty",)
    )
    rows = replace(taught, notes=taught.notes + note)
    return _solve(specified, rows, request, None, students=True, log_supervised=spread)


def _behind(supervised: Supervised, replicates: int) -> Curve:
    if isinstance(supervised, FitResult):
        if supervised.curve is None or not supervised.is_usable or supervised.curve.is_student:
            raise ConfigError(
                f"supervised: needs a usable supervised fit, got {supervised.family} ({supervised.status.name})"
            )
        available = supervised.curve.replicates
        if replicates and len(available):
            return replace(supervised.curve, replicates=available[np.arange(replicates) % len(available)])
        return replace(supervised.curve, replicates=available[:0])
    law = supervised.supervised if isinstance(supervised, PublishedLaw) else supervised
    if not isinstance(law, SupervisedLaw):
        raise ConfigError(f"supervised: {supervised!r} has no supervised law")
    return supervised_curve(law)


def _fit_measured(
    plain: Observations, taught: Observations, form: str, prior: dict, request: _Request
) -> FitResult:
    """Ltilde_S measured cell by cell: no supervised law, so predictions ask for `supervised_loss`."""
    rows = with_measured_supervised(taught, plain)
    known = np.isfinite(rows.supervised_loss)
    if not known.all():
        raise DataError(
            f"{int((~known).sum())} of {len(rows)} distilled rows have no supervised loss: no law was given, the "
            f"{len(plain)} rows without a teacher are too few for one, and no such row has the same size and tokens. "
            f"Give --supervised LAW, or add no-teacher runs"
        )
    note = "the supervised loss of each student is the measured one; predictions need supervised_loss"
    rows = replace(rows, notes=(*rows.notes, note))
    at = np.log(rows.supervised_loss)
    specified = families.specify_student(rows, form=form, log_supervised=at, behind=None, prior=prior)
    return _solve(specified, rows, request, None, students=True)


def _fit_joint(
    plain: Observations, taught: Observations, form: str, prior: dict, request: _Request
) -> FitResult:
    """Supervised law and distillation law at once, from separate fits as starts."""
    rng = np.random.default_rng([request.seed, 3])
    sup_prior = (
        families.weak_prior("supervised") if request.priors == "auto" and request.delta == "auto" else {}
    )
    first = families.specify_supervised(plain, form="supervised", prior=sup_prior)
    sup = estimate(first.problem, delta=request.delta, rng=rng)
    behind = first.curve(sup.theta, np.empty((0, 6)))
    at = behind.log_value(
        {"params": np.log(taught.params), "tokens": np.log(taught.tokens)}, replicates=False
    )[0]
    second = families.specify_student(taught, form=form, log_supervised=at, behind=behind, prior=prior)
    own = estimate(second.problem, delta=request.delta, rng=rng)
    student_starts = np.concatenate([own.theta[None], own.others[:3]])
    specified = families.specify_joint(
        plain, taught, form=form, supervised_theta=sup.theta, student_starts=student_starts, prior=prior
    )
    note = f"fitted jointly with a supervised law from {len(plain)} rows without a teacher"
    return _solve(
        specified, replace(taught, notes=(*taught.notes, note)), request, None, students=True, plain=plain
    )


def _solve(
    specified: Specified, rows: Observations, request: _Request, verdict: Verdict | None, *, students: bool,
    log_supervised: np.ndarray | None = None, plain: Observations | None = None,
) -> FitResult:  # fmt: skip
    """Estimate, check, bootstrap, calibrate, judge."""
    rng = np.random.default_rng(request.seed)
    problem = specified.problem
    fitted = estimate(problem, delta=request.delta, rng=rng)
    if verdict is not None:
        curve = specified.curve(fitted.theta, np.empty((0, len(fitted.theta))))
        refused = _refused(rows, request, verdict, students=students)
        return replace(
            refused, curve=curve, objective=fitted.objective, delta=fitted.delta, noise=fitted.noise
        )
    gap = (
        disagreement(problem, fitted, rng=np.random.default_rng([request.seed, 2])) if request.check else None
    )
    replicates, checked = _replicates(problem, fitted, request.bootstrap, rng, log_supervised)
    condition = condition_number(problem, fitted)
    profiled = profiles(problem, fitted, level=request.level) if request.check else {}
    if profiled:
        checked |= {"profile": {name: {"low": p.low, "high": p.high} for name, p in profiled.items()}}
    open_ended = [name for name, p in profiled.items() if p.is_flat]
    judged = check_estimate(problem, fitted, condition=condition, disagreement=gap, open_ended=open_ended)
    together = rows if plain is None else plain.followed_by(rows)
    calibration, decades = _calibration(problem, fitted, together.compute, rows, request)
    if decades:
        checked |= {"calibration_by_decade": decades}
    return FitResult(
        family=request.family, status=judged.status, remedy=judged.remedy,
        curve=specified.curve(fitted.theta, replicates), nobs=len(problem.y), ngroups=problem.ngroups,
        objective=fitted.objective, delta=fitted.delta, level=request.level, noise=fitted.noise,
        condition_number=condition, solver_disagreement=gap, fitted_range=rows.box(students=students),
        calibration=calibration, seconds=0.0, seed=request.seed,
        provenance=request.provenance, resid=problem.model.value(fitted.theta[None])[0] - problem.y,
        fitted_rows=together.row, notes=rows.notes, details=checked,
    )  # fmt: skip


def _calibration(
    problem: Problem, fitted: Estimate, compute: np.ndarray, rows: Observations, request: _Request
) -> tuple[Calibration, list[dict[str, float]]]:
    """Misspecification from hold-outs within the data; the default where nothing was to be resampled."""
    if not request.bootstrap or not request.calibrate:
        return Calibration(nominal=request.level), []
    scored = np.arange(len(problem.y)) >= len(problem.y) - len(
        rows
    )  # a joint fit has its no-teacher rows first
    held = hold_out(problem, fitted, compute, rng=np.random.default_rng([request.seed, 5]), scored=scored)
    found = calibrate_term(held, noise=fitted.noise, level=request.level)
    return found, by_decade(held, found, noise=fitted.noise)


def _replicates(
    problem: Problem,
    fitted: Estimate,
    count: int,
    rng: np.random.Generator,
    log_supervised: np.ndarray | None,
) -> tuple[np.ndarray, dict[str, object]]:
    if not count:
        return np.empty((0, len(fitted.theta))), {}
    if log_supervised is not None:
        assert isinstance(problem.model, StudentModel)
        problem = replace(problem, model=problem.model.with_supervised(log_supervised))
    found = bootstrap(problem, fitted, replicates=count, rng=rng)
    return found.theta, {
        "bootstrap": {
            "worst_gap": found.worst_gap,
            "num_checked": found.num_checked,
            "restarted": found.restarted,
        }
    }


def _refused(rows: Observations, request: _Request, verdict: Verdict, *, students: bool) -> FitResult:
    """A result that says why there is no curve."""
    return FitResult(
        family=request.family, status=verdict.status, remedy=verdict.remedy, curve=None, nobs=len(rows),
        ngroups=rows.ngroups, objective=None, delta=None, level=request.level, noise=0.0, condition_number=None,
        solver_disagreement=None, fitted_range=rows.box(students=students), calibration=Calibration(), seconds=0.0,
        seed=request.seed, provenance=request.provenance, fitted_rows=rows.row, notes=rows.notes,
    )  # fmt: skip


def _fit_capacity(rows: Observations, request: _Request) -> FitResult:
    gap = fit_gap(rows, bootstrap=request.bootstrap, rng=np.random.default_rng(request.seed))
    details = {"best_teachers": [
        {"student_params": c.student_params, "student_tokens": c.student_tokens,
         "best_teacher_params": c.best_teacher_params, "lowest_loss": c.lowest_loss,
         "num_teachers": c.num_teachers, "problem": c.problem}
        for c in gap.cells
    ]}  # fmt: skip
    sizes = [c.student_params for c in gap.cells if c.best_teacher_params is not None] or list(rows.params)
    box = Box.of({"student_params": (min(sizes), max(sizes))})
    if gap.theta is None:
        problems = sorted({c.problem for c in gap.cells if c.problem})
        verdict = Verdict(
            status=FitStatus.TOO_FEW_RUNS,
            remedy=f"the best teacher is bracketed for {gap.num_sizes} student sizes, {FEWEST_SIZES} are needed"
            + (f" ({'; '.join(problems)})" if problems else "") + ". Add students, or teachers on the open side",
        )  # fmt: skip
        return replace(_refused(rows, request, verdict, students=False), fitted_range=box, details=details)
    dof = max(len(gap.resid) - 2, 1)
    return FitResult(
        family=request.family, status=FitStatus.CONVERGED, remedy=FitStatus.CONVERGED.value,
        curve=Curve(form="capacity-gap", theta=gap.theta, replicates=gap.replicates), nobs=len(rows),
        ngroups=gap.num_sizes, objective=None, delta=None, level=request.level,
        noise=float(np.sqrt((gap.resid**2).sum() / dof)), condition_number=None, solver_disagreement=None,
        fitted_range=box, calibration=Calibration(at_edge=0.0, per_decade=0.0), seconds=0.0, seed=request.seed,
        provenance=request.provenance, resid=gap.resid, notes=rows.notes, details=details,
    )  # fmt: skip
