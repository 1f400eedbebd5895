"""`supervised` and `chinchilla`: a law of the rows without a teacher, however many there are."""

from dataclasses import replace

import numpy as np

from distillaw.errors import DataError
from distillaw.fitting import families
from distillaw.fitting.checks import check_design, require_losses_differ
from distillaw.fitting.newton import minimise
from distillaw.fitting.problem import Observations, require_variation
from distillaw.fitting.request import Request
from distillaw.fitting.result import FitResult
from distillaw.fitting.solve import refused_result, solve

LARGE = 4000
"""Independent runs above which intervals come from a random part of them."""
PART = 1000
"""Size of that part. Against 4,000: standard deviations of the coefficients within a tenth of each other, which is what
two draws of such a part differ by, at a quarter of the time (tables of 100,000 rows with 0.3 % and 5 % of noise)."""


def fit_supervised(rows: Observations, request: Request) -> FitResult:
    """The law of `request.family`; a status without a law where the runs cannot carry one."""
    if not len(rows):
        raise DataError("no rows without a teacher: a supervised law is fitted to those (teacher_loss empty)")
    prior = families.read_priors(request.priors, form=request.family, delta=request.delta)
    num_params = (6 if request.family == "supervised" else 5) - request.tie
    verdict = check_design(rows, num_params=num_params, needs_both=True)
    if verdict is not None and len(rows) < 5:
        return refused_result(rows, request, verdict, students=False)
    if verdict is None:
        require_variation(rows, ("params", "tokens"))
        require_losses_differ(rows)
    if rows.ngroups > LARGE:
        return _fit_large(rows, request, prior)
    specified = families.specify_supervised(rows, form=request.family, prior=prior, tie=request.tie)
    return solve(specified, rows, request, verdict, students=False)


def _fit_large(rows: Observations, request: Request, prior: dict) -> FitResult:
    """Intervals, checks and calibration from a random part of the runs, the estimate from all of them.

    The spread of the replicates is scaled by root(m/n), the m-out-of-n bootstrap.
    """
    part = rows.thinned(PART, np.random.default_rng([request.seed, 4]))
    small = fit_supervised(part, request)
    if small.curve is None or small.delta is None:
        return small
    whole = families.specify_supervised(
        rows, form=request.family, prior=prior, centre=small.curve.centre, tie=request.tie
    )
    problem = whole.problem
    objective = problem.objective(small.delta, problem.prior(small.noise))
    found = minimise(objective, small.curve.theta[None])
    shrunk = (small.curve.replicates - small.curve.theta) * np.sqrt(part.ngroups / rows.ngroups)
    note = f"intervals are linearised from a random {part.ngroups} of the {rows.ngroups} runs (m-out-of-n bootstrap)"
    return replace(
        small, curve=whole.curve(found.theta[0], found.theta[0] + shrunk), nobs=len(rows), ngroups=rows.ngroups,
        objective=float(found.objective[0]), fitted_range=rows.box(students=False), fitted_rows=rows.row,
        resid=problem.model.value(found.theta)[0] - problem.y, notes=(*rows.notes, note),
    )  # fmt: skip
