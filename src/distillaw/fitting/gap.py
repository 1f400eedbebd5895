"""`capacity-gap`: the best teacher per student (`capacity.py`) as a result with status, interval and cells."""

from dataclasses import replace

import numpy as np

from distillaw.fitting.capacity import FEWEST_SIZES, fit_gap
from distillaw.fitting.checks import Verdict
from distillaw.fitting.curve import Curve
from distillaw.fitting.misfit import Calibration
from distillaw.fitting.problem import Observations
from distillaw.fitting.request import Request
from distillaw.fitting.result import FitResult
from distillaw.fitting.solve import refused_result
from distillaw.fitting.status import FitStatus
from distillaw.laws.base import Box


def fit_capacity(rows: Observations, request: Request) -> FitResult:
    """The line through the best teachers, or TOO_FEW_RUNS with the cells that were bracketed."""
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
            remedy=f"The best teacher is bracketed for {gap.num_sizes} student sizes, {FEWEST_SIZES} are needed"
            + (f" ({'; '.join(problems)})" if problems else "") + ". Add students, or teachers on the open side.",
        )  # fmt: skip
        return replace(
            refused_result(rows, request, verdict, students=False), fitted_range=box, details=details
        )
    remedy = f"The best teacher is bracketed for {gap.num_sizes} student sizes."
    dof = max(len(gap.resid) - 2, 1)
    return FitResult(
        family=request.family, status=FitStatus.CONVERGED, remedy=remedy,
        curve=Curve(form="capacity-gap", theta=gap.theta, replicates=gap.replicates), nobs=len(rows),
        ngroups=gap.num_sizes, objective=None, delta=None, level=request.level,
        noise=float(np.sqrt((gap.resid**2).sum() / dof)), condition_number=None, solver_disagreement=None,
        fitted_range=box, calibration=Calibration(at_edge=0.0, per_decade=0.0), seconds=0.0, seed=request.seed,
        provenance=request.provenance, resid=gap.resid, notes=rows.notes, details=details,
    )  # fmt: skip
