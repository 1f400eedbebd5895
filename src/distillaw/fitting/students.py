"""The distillation families: where the student's own supervised loss comes from, then the fit.

In this order: a given law, a joint fit with the rows without a teacher, or the measured losses of the same
(size, tokens).
"""

from dataclasses import replace

import numpy as np

from distillaw.errors import ConfigError, DataError, UnitError
from distillaw.fitting import families
from distillaw.fitting.checks import check_design, require_losses_differ
from distillaw.fitting.curve import Curve, supervised_curve
from distillaw.fitting.diagnostics import students_above_teachers
from distillaw.fitting.estimate import estimate
from distillaw.fitting.problem import Observations, require_variation, with_measured_supervised
from distillaw.fitting.request import Request
from distillaw.fitting.result import FitResult, convention_of
from distillaw.fitting.solve import refused_result, solve
from distillaw.laws.published import PublishedLaw
from distillaw.laws.supervised import SupervisedLaw

Supervised = SupervisedLaw | PublishedLaw | FitResult


def fit_students(
    plain: Observations, taught: Observations, supervised: Supervised | None, form: str, request: Request
) -> FitResult:
    """A distillation form on the rows with a teacher; `plain` are those without."""
    if not len(taught):
        raise DataError(
            "no rows with a teacher: give the column teacher_loss (--columns teacher_loss=COLUMN)"
        )
    prior = families.read_priors(request.priors, form=form, delta=request.delta)
    verdict = check_design(taught, num_params=len(families.FREE[form]), needs_both=form != "reduced")
    if verdict is not None:
        return refused_result(taught, request, verdict, students=True)
    require_variation(
        taught, ("params", "teacher_loss") if form == "reduced" else ("params", "tokens", "teacher_loss")
    )
    require_losses_differ(taught)
    beaten = students_above_teachers(taught)
    taught = replace(taught, notes=(*taught.notes, beaten)) if beaten else taught
    if supervised is not None:
        return _fit_given(taught, supervised, form, prior, request)
    if len(plain) and check_design(plain, num_params=6, needs_both=True) is None:
        return _fit_joint(plain, taught, form, prior, request)
    return _fit_measured(plain, taught, form, prior, request)


def _fit_given(
    taught: Observations, supervised: Supervised, form: str, prior: dict, request: Request
) -> FitResult:
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
    specified = families.specify_student(taught, form=form, log_supervised=at, behind=behind, prior=prior)
    spread = behind.log_value(cells, replicates=True) if len(behind.replicates) else None
    note = (
        ()
        if spread is not None
        else ("the supervised law is taken as known: intervals leave out its uncertainty",)
    )
    rows = replace(taught, notes=taught.notes + note)
    return solve(specified, rows, request, None, students=True, log_supervised=spread)


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
    plain: Observations, taught: Observations, form: str, prior: dict, request: Request
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
    return solve(specified, rows, request, None, students=True)


def _fit_joint(
    plain: Observations, taught: Observations, form: str, prior: dict, request: Request
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
    return solve(
        specified, replace(taught, notes=(*taught.notes, note)), request, None, students=True, plain=plain
    )
