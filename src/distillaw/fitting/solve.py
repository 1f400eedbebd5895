"""From rows to a result, for every family of curves: design checks, estimate, bootstrap, calibration, status.

`supervised` and `chinchilla` are fitted to the rows without a teacher, however many there are. The distillation
families need the student's own supervised loss as well, and take it from a given law, from a joint fit with the rows
without a teacher, or as measured at the same (size, tokens), in this order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distillaw.errors import ConfigError, DataError, UnitError
from distillaw.fitting.calibrate import by_cut, by_decade, calibrate_term, held_out_error, hold_out
from distillaw.fitting.curve import FittedCurve, supervised_curve
from distillaw.fitting.diagnostics import (
    check_estimate,
    condition_number,
    find_misfit,
    profiles,
    seed_noise,
    students_above_teachers,
)
from distillaw.fitting.estimate import Estimate, bootstrap, estimate
from distillaw.fitting.models import FREE, StudentModel
from distillaw.fitting.newton import huber_sum, minimise
from distillaw.fitting.observations import Observations, require_variation, with_measured_supervised
from distillaw.fitting.problem import (
    Problem,
    read_priors,
    specify_joint,
    specify_student,
    specify_supervised,
    weak_prior,
)
from distillaw.fitting.result import FitResult, FitStatus, Judgement, convention_of
from distillaw.fitting.second import disagreement
from distillaw.fitting.uncertainty import FEW_LEVELS, Calibration, above_best, extent_of, num_levels
from distillaw.laws.base import Array
from distillaw.laws.published import PublishedLaw
from distillaw.laws.supervised import SupervisedLaw
from distillaw.quantities import plural


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
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


def check_numbers(delta: float | str, replicates: int, level: float) -> None:
    """Refuse a threshold, a count of replicates or a level that means nothing."""
    if delta != "auto" and (isinstance(delta, str) or not np.isfinite(delta) or delta <= 0):
        raise ConfigError(f"delta: got {delta!r}; give a positive number (1e-3 is usual) or 'auto'")
    if replicates < 0 or int(replicates) != replicates:
        raise ConfigError(f"bootstrap: got {replicates!r}; give a whole number of replicates, 0 for none")
    if not 0 < level < 1:
        raise ConfigError(f"level: got {level}; give the coverage as a share between 0 and 1, e.g. 0.9")


SPARE_RUNS = 3
"""Independent runs needed beyond the number of parameters."""
ROUGH = 0.1
"""Residual scale (of ln L) from which a fit says that this is no scatter of runs."""
ISOFLOP = 0.05
"""Spread of ln(6 N D) below which all runs count as one compute level."""


def check_design(rows: Observations, *, num_params: int, needs_both: bool) -> Judgement | None:
    """None if a curve may be drawn through these rows, otherwise why not.

    Args:
        needs_both: the law has both a size term and a data term.
    """
    ngroups = rows.ngroups
    missing = num_params + SPARE_RUNS - ngroups
    if missing > 0:
        what = f"{plural(len(rows), 'row')} in {ngroups} independent runs" if rows.grouped else plural(ngroups, "run")
        return Judgement(
            FitStatus.TOO_FEW_RUNS,
            f"Only {what} for {num_params} parameters; at least {num_params + SPARE_RUNS} independent runs are "
            f"needed. Add {plural(missing, 'run')} at new sizes and token counts, or fit a law with "
            "fewer parameters.",
        )
    spread = float(np.ptp(np.log(rows.compute)))
    if needs_both and spread < ISOFLOP and np.ptp(np.log(rows.params)) > spread:
        level, percent = float(np.median(rows.compute)), 100 * max(float(np.expm1(spread)), 1e-3)
        return Judgement(
            FitStatus.ONE_COMPUTE_LEVEL,
            f"All {len(rows)} runs lie on one isoFLOP curve (6 N D within {percent:.1g} % of {level:.2g}); "
            f"alpha and beta cannot be separated. Add runs at a second budget, e.g. {3 * level:.2g}.",
        )
    return None


LARGE = 4000
"""Independent runs above which intervals come from a random part of them."""
PART = 1000
"""Size of that part. Against 4,000: standard deviations of the coefficients within a tenth of each other, which is what
two draws of such a part differ by, at a quarter of the time (tables of 100,000 rows with 0.3 % and 5 % of noise)."""
Supervised = SupervisedLaw | PublishedLaw | FitResult


def fit_supervised(rows: Observations, request: Request) -> FitResult:
    """The law of `request.family`; a status without a law where the runs cannot carry one."""
    if not len(rows):
        raise DataError("no rows without a teacher: a supervised law is fitted to those (teacher_loss empty)")
    prior = read_priors(request.priors, form=request.family, delta=request.delta, rows=rows)
    num_params = (6 if request.family == "supervised" else 5) - request.tie
    verdict = check_design(rows, num_params=num_params, needs_both=True)
    if verdict is not None and len(rows) < 5:
        return refused_result(rows, request, verdict)
    if verdict is None:
        require_variation(rows, ("params", "tokens"))
    if rows.ngroups > LARGE:
        return _fit_large(rows, request, prior)
    given = rows.weight
    if verdict is None and prior and request.calibrate and not np.ptp(given):
        rows = _with_weights(rows, request, prior)
    problem = specify_supervised(rows, form=request.family, prior=prior, tie=request.tie)
    found = solve(problem, rows, request, verdict)
    if rows.weight is given or found.delta is None:
        return found
    # the sum over the runs as given: what others can recompute, and families with other weights be compared by
    return replace(found, objective=float(huber_sum(found.resid, given, found.delta)))


# Runs far above the best of their compute say little about the frontier (docs/fitting.md, "Weights"): a law is wrong by
# more where a run is badly allocated, a large model on few tokens or a tiny one on very many, and pulled away by such
# runs from those that extrapolations are about. Hold-outs choose by how much they count.
SAME_LEVEL = float(np.log(2))
"""Runs whose ln compute differs by less are one level."""
SCALES = (0.1, 0.05)
"""Of the excess, in ln L: 5 % above the best of its level counts half."""


def excess(rows: Observations) -> Array:
    """ln L above the best run of about the same compute, (n,)."""
    y, c = np.log(rows.loss), np.log(rows.compute)
    order = np.argsort(c, kind="stable")
    first = np.searchsorted(c[order], c - SAME_LEVEL, side="left")
    last = np.searchsorted(c[order], c + SAME_LEVEL, side="right")
    ordered = y[order]
    return np.array([y[i] - ordered[a:b].min() for i, (a, b) in enumerate(zip(first, last, strict=True))])


def weighted(rows: Observations, tau: float) -> Observations:
    """The rows with weights 1 / (1 + (excess / tau)^2) over their own."""
    return replace(rows, weight=rows.weight / (1 + (excess(rows) / tau) ** 2))


def choose_weights(
    rows: Observations, error: Callable[[Observations], float | None]
) -> tuple[Observations, float | None]:
    """The rows as they are or weighted, whichever predicts larger runs best, and the scale.

    Args:
        rows: of one law without a teacher.
        error: of rows, the held-out error of fits to their smaller runs; None where there are too few.
    """
    least = error(rows)
    if least is None:
        return rows, None
    best, chosen = rows, None
    for tau in SCALES:
        candidate = weighted(rows, tau)
        found = error(candidate)
        if found is not None and found < least:
            best, chosen, least = candidate, tau, found
    return best, chosen


def _with_weights(rows: Observations, request: Request, prior: dict) -> Observations:
    """The rows with the weights that predict the larger of them best."""
    extent, scored = extent_of(rows.params, rows.tokens), np.ones(len(rows), dtype=bool)

    def error(rows: Observations) -> float | None:
        problem = specify_supervised(rows, form=request.family, prior=prior, tie=request.tie)
        fitted = estimate(problem, delta=request.delta, rng=np.random.default_rng(request.seed))
        rng = np.random.default_rng([request.seed, 6])
        return held_out_error(hold_out(problem, fitted, extent, rng=rng, scored=scored, replicates=0))

    weighted, tau = choose_weights(rows, error)
    if tau is None:
        return rows
    note = f"runs count by how near they are to the best of their compute (half at {100 * tau:.0f} % above it)"
    return replace(weighted, notes=(*weighted.notes, note))


def fit_students(
    plain: Observations, taught: Observations, supervised: Supervised | None, form: str, request: Request
) -> FitResult:
    """A distillation form on the rows with a teacher; `plain` are those without."""
    if not len(taught):
        raise DataError("no rows with a teacher: give the column teacher_loss (--columns teacher_loss=COLUMN)")
    prior = read_priors(request.priors, form=form, delta=request.delta, rows=taught)
    verdict = check_design(taught, num_params=len(FREE[form]), needs_both=form != "reduced")
    if verdict is not None:
        return refused_result(taught, request, verdict)
    require_variation(taught, ("params", "teacher_loss") if form == "reduced" else ("params", "tokens", "teacher_loss"))
    beaten = students_above_teachers(taught)
    taught = replace(taught, notes=(*taught.notes, beaten)) if beaten else taught
    if supervised is not None:
        return _fit_given(taught, supervised, form, prior, request)
    if len(plain) and check_design(plain, num_params=6, needs_both=True) is None:
        return _fit_joint(plain, taught, form, prior, request)
    return _fit_measured(plain, taught, form, prior, request)


def solve(
    problem: Problem,
    rows: Observations,
    request: Request,
    verdict: Judgement | None,
    *,
    log_supervised: Array | None = None,
    plain: Observations | None = None,
) -> FitResult:
    """Estimate, check, bootstrap, calibrate, judge."""
    rng = np.random.default_rng(request.seed)
    fitted = estimate(problem, delta=request.delta, rng=rng)
    if verdict is not None:
        curve = problem.curve(theta=fitted.theta, replicates=np.empty((0, len(fitted.theta))))
        empty = refused_result(rows, request, verdict)
        return replace(empty, curve=curve, objective=fitted.objective, delta=fitted.delta, noise=fitted.noise)
    shaken = np.random.default_rng([request.seed, 2])
    gap = disagreement(problem, fitted, rng=shaken) if request.check else None
    replicates, checked = np.empty((0, len(fitted.theta))), dict[str, Any]()
    if request.bootstrap:
        resampled = problem
        if log_supervised is not None:
            assert isinstance(problem.model, StudentModel)
            resampled = replace(problem, model=problem.model.with_supervised(log_supervised))
        replicates, found = bootstrap(resampled, fitted, replicates=request.bootstrap, rng=rng)
        checked = {"bootstrap": found}
    condition = condition_number(problem, fitted)
    profiled = profiles(problem, fitted, level=request.level) if request.check else {}
    if profiled:
        checked |= {"profile": {name: {"low": low, "high": high} for name, (low, high) in profiled.items()}}
    open_ended = [name for name, ends in profiled.items() if None in ends]
    judged = check_estimate(problem, fitted, condition=condition, disagreement=gap, open_ended=open_ended)
    together = rows if plain is None else plain.followed_by(rows)
    curve = problem.curve(theta=fitted.theta, replicates=replicates)
    excess = above_best(curve, np.log(together.params), np.log(together.tokens))
    extent = extent_of(together.params, together.tokens, together.teacher_loss, excess)
    calibration, held = _calibration(problem, fitted, extent, rows, request)
    resid = problem.model.value(fitted.theta[None])[0] - problem.y
    named = np.column_stack([extent[:, :4], together.teacher_params])
    seen = find_misfit(resid, extent=named, weight=problem.weight, group=problem.group)
    if seen is not None:
        judged = Judgement(FitStatus.MISFIT, f"{seen.text[0].upper()}{seen.text[1:]}. {FitStatus.MISFIT.value}")
        checked |= {"misfit": seen._asdict()}
    rows = replace(rows, notes=(*rows.notes, *_remarks(extent, fitted.noise)))
    repeated = seed_noise(together)
    checked |= held | ({} if repeated is None else {"seed_noise": repeated})
    return replace(
        refused_result(rows, request, judged),
        curve=curve,
        nobs=len(problem.y),
        ngroups=problem.ngroups,
        objective=fitted.objective,
        delta=fitted.delta,
        noise=fitted.noise,
        condition_number=condition,
        solver_disagreement=gap,
        calibration=calibration,
        resid=resid,
        fitted_rows=together.row,
        details=checked,
    )


def _remarks(extent: Array, noise: float) -> list[str]:
    """Of two or three levels that an extrapolation stands on, and of more scatter than runs of one recipe have."""
    *levels, teachers = num_levels(extent)
    found = [
        f"only {n} {name}: a curve goes through them whatever lies beyond, so intervals there are three times as wide"
        for name, n in zip(("budgets", "sizes", "counts of tokens"), levels, strict=True)
        if n <= FEW_LEVELS and not teachers
    ]
    if noise >= ROUGH:
        found.append(
            f"runs lie {100 * noise:.2g} % off the law, where those of one recipe lie within a few per cent: look for "
            "two units (nats and bits, tokens and bytes), recipes or texts in one table"
        )
    return found


def _calibration(
    problem: Problem, fitted: Estimate, extent: Array, rows: Observations, request: Request
) -> tuple[Calibration, dict[str, object]]:
    """Misspecification from hold-outs within the data; the default where nothing was to be resampled."""
    levels = num_levels(extent)
    if not request.bootstrap or not request.calibrate:
        return calibrate_term(None, noise=fitted.noise, level=request.level, levels=levels), {}
    # a joint fit has its no-teacher rows first
    scored = np.arange(len(problem.y)) >= len(problem.y) - len(rows)
    held = hold_out(problem, fitted, extent, rng=np.random.default_rng([request.seed, 5]), scored=scored)
    found = calibrate_term(held, noise=fitted.noise, level=request.level, levels=levels)
    if held is None:
        return found, {}
    table = by_decade(held, found, noise=fitted.noise, levels=levels)
    return found, {"calibration_by_decade": table, "held_out_by_cut": by_cut(held)}


def refused_result(rows: Observations, request: Request, verdict: Judgement) -> FitResult:
    """A result that says why there is no curve."""
    return FitResult(
        family=request.family,
        status=verdict.status,
        remedy=verdict.remedy,
        nobs=len(rows),
        ngroups=rows.ngroups,
        level=request.level,
        seed=request.seed,
        fitted_range=rows.box(),
        provenance=request.provenance,
        fitted_rows=rows.row,
        notes=rows.notes,
    )


def _fit_large(rows: Observations, request: Request, prior: dict) -> FitResult:
    """Intervals, checks and calibration from a random part of the runs, the estimate from all of them.

    The spread of the replicates is scaled by root(m/n), the m-out-of-n bootstrap.
    """
    part = rows.thinned(PART, np.random.default_rng([request.seed, 4]))
    small = fit_supervised(part, request)
    if small.curve is None or small.delta is None:
        return small
    problem = specify_supervised(rows, form=request.family, prior=prior, centre=small.curve.centre, tie=request.tie)
    objective = problem.objective(small.delta, problem.prior(small.noise))
    found = minimise(objective, small.curve.theta[None])
    shrunk = (small.curve.replicates - small.curve.theta) * np.sqrt(part.ngroups / rows.ngroups)
    note = f"intervals are linearised from a random {part.ngroups} of the {rows.ngroups} runs (m-out-of-n bootstrap)"
    return replace(
        small,
        curve=problem.curve(theta=found.theta[0], replicates=found.theta[0] + shrunk),
        nobs=len(rows),
        ngroups=rows.ngroups,
        objective=float(found.objective[0]),
        fitted_range=rows.box(),
        fitted_rows=rows.row,
        resid=problem.model.value(found.theta)[0] - problem.y,
        notes=(*rows.notes, note),
    )


def _fit_given(taught: Observations, supervised: Supervised, form: str, prior: dict, request: Request) -> FitResult:
    """Ltilde_S from a given law; a FitResult's replicates go with ours one to one."""
    other = convention_of(supervised)
    if other is not None and other != taught.convention:
        raise UnitError(
            f"the supervised law counts {other} parameters, the table {taught.convention} ones; convert the table "
            f"(--params-convention total --vocab V --width COLUMN), or fit the supervised law on the same count"
        )
    behind = _behind(supervised, request.bootstrap)
    cells = {"params": np.log(taught.params), "tokens": np.log(taught.tokens)}
    at = behind.log_value(cells, replicates=False)[0]
    problem = specify_student(taught, form=form, log_supervised=at, behind=behind, prior=prior)
    spread = behind.log_value(cells, replicates=True) if len(behind.replicates) else None
    note = () if spread is not None else ("the supervised law is taken as known: intervals leave out its uncertainty",)
    rows = replace(taught, notes=taught.notes + note)
    return solve(problem, rows, request, None, log_supervised=spread)


def _behind(supervised: Supervised, replicates: int) -> FittedCurve:
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


def _fit_measured(plain: Observations, taught: Observations, form: str, prior: dict, request: Request) -> FitResult:
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
    problem = specify_student(rows, form=form, log_supervised=at, behind=None, prior=prior)
    return solve(problem, rows, request, None)


def _fit_joint(plain: Observations, taught: Observations, form: str, prior: dict, request: Request) -> FitResult:
    """Supervised law and distillation law at once, from separate fits as starts."""
    rng = np.random.default_rng([request.seed, 3])
    is_auto = request.priors == "auto" and request.delta == "auto"
    sup_prior = weak_prior("supervised", plain) if is_auto else {}
    first = specify_supervised(plain, form="supervised", prior=sup_prior)
    sup = estimate(first, delta=request.delta, rng=rng)
    behind = first.curve(theta=sup.theta, replicates=np.empty((0, 6)))
    at = behind.log_value({"params": np.log(taught.params), "tokens": np.log(taught.tokens)}, replicates=False)[0]
    second = specify_student(taught, form=form, log_supervised=at, behind=behind, prior=prior)
    own = estimate(second, delta=request.delta, rng=rng)
    student_starts = np.concatenate([own.theta[None], own.others[:3]])
    problem = specify_joint(
        plain,
        taught,
        form=form,
        supervised_theta=sup.theta,
        student_starts=student_starts,
        prior=prior,
        supervised_prior=weak_prior("supervised", plain) if prior else {},
    )
    note = f"fitted jointly with a supervised law from {len(plain)} rows without a teacher"
    return solve(problem, replace(taught, notes=(*taught.notes, note)), request, None, plain=plain)
