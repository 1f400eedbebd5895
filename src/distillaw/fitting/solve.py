"""From a specified problem to a result: estimate, second solver, bootstrap, calibration, status.

The same steps for every family of curves; which rows and which starts is decided before (`plain.py`,
`students.py`), what is minimised is in `estimate.py`.
"""

from dataclasses import replace

import numpy as np

from distillaw.fitting.calibrate import by_cut, by_decade, calibrate_term, hold_out
from distillaw.fitting.checks import Verdict, check_estimate
from distillaw.fitting.diagnostics import seed_noise
from distillaw.fitting.estimate import Estimate, Problem, bootstrap, condition_number, estimate
from distillaw.fitting.families import Specified
from distillaw.fitting.misfit import Calibration
from distillaw.fitting.models import StudentModel
from distillaw.fitting.problem import Observations
from distillaw.fitting.profile import profiles
from distillaw.fitting.request import Request
from distillaw.fitting.result import FitResult
from distillaw.fitting.second import disagreement


def solve(
    specified: Specified, rows: Observations, request: Request, verdict: Verdict | None, *, students: bool,
    log_supervised: np.ndarray | None = None, plain: Observations | None = None,
) -> FitResult:  # fmt: skip
    """Estimate, check, bootstrap, calibrate, judge."""
    rng = np.random.default_rng(request.seed)
    problem = specified.problem
    fitted = estimate(problem, delta=request.delta, rng=rng)
    if verdict is not None:
        curve = specified.curve(fitted.theta, np.empty((0, len(fitted.theta))))
        empty = refused_result(rows, request, verdict, students=students)
        return replace(empty, curve=curve, objective=fitted.objective, delta=fitted.delta, noise=fitted.noise)
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
    calibration, held = _calibration(problem, fitted, together.compute, rows, request)
    repeated = seed_noise(together)
    checked |= held | ({} if repeated is None else {"seed_noise": repeated})
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
    problem: Problem, fitted: Estimate, compute: np.ndarray, rows: Observations, request: Request
) -> tuple[Calibration, dict[str, object]]:
    """Misspecification from hold-outs within the data; the default where nothing was to be resampled."""
    if not request.bootstrap or not request.calibrate:
        return Calibration(nominal=request.level), {}
    # a joint fit has its no-teacher rows first
    scored = np.arange(len(problem.y)) >= len(problem.y) - len(rows)
    held = hold_out(problem, fitted, compute, rng=np.random.default_rng([request.seed, 5]), scored=scored)
    found = calibrate_term(held, noise=fitted.noise, level=request.level)
    if held is None:
        return found, {}
    table = by_decade(held, found, noise=fitted.noise)
    return found, {"calibration_by_decade": table, "held_out_by_cut": by_cut(held)}


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


def refused_result(rows: Observations, request: Request, verdict: Verdict, *, students: bool) -> FitResult:
    """A result that says why there is no curve."""
    return FitResult(
        family=request.family, status=verdict.status, remedy=verdict.remedy, curve=None, nobs=len(rows),
        ngroups=rows.ngroups, objective=None, delta=None, level=request.level, noise=0.0, condition_number=None,
        solver_disagreement=None, fitted_range=rows.box(students=students), calibration=Calibration(), seconds=0.0,
        seed=request.seed, provenance=request.provenance, fitted_rows=rows.row, notes=rows.notes,
    )  # fmt: skip
