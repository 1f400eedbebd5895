"""`distillaw.fit`: a table of runs in, a law with honest intervals out.

    distillaw fit runs.csv --law supervised --columns params=N,tokens=D,loss=loss

The steps: rows (`observations.py`), what is minimised (`problem.py`), then `solve.py`: design checks, estimate and
bootstrap, independent solver, misspecification, status.

Laws are compared by what they predict of runs they have not seen, with AIC beside it. Systematic misfit inflates
differences of AIC, so it is a screen; the judge is the error of compute-ordered hold-outs, over the cuts that all laws
have. `distillation-auto` keeps the form that hold-outs support, not the one that fits best: forms are tried from five
parameters upwards, a richer one must pass both, and below 60 independent runs the five-parameter form is kept whatever
the fit says: a free data term that the runs do not see ruins extrapolation.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from distillaw.errors import ConfigError
from distillaw.fitting.capacity import fit_capacity
from distillaw.fitting.diagnostics import behaviours
from distillaw.fitting.observations import Embedding, Observations, observe, split_by_teacher, taught_arms
from distillaw.fitting.problem import FORMS, check_family
from distillaw.fitting.pruned import box_of_cuts, curve_behind, fit_cuts, read_cuts
from distillaw.fitting.result import FitResult, Judgement
from distillaw.fitting.solve import Request, Supervised, check_numbers, fit_students, fit_supervised, refused_result
from distillaw.laws.distillation import StudentLaw
from distillaw.laws.supervised import SupervisedLaw
from distillaw.runs.table import naming, read_table
from distillaw.version import __version__


def fit(
    table: Mapping[str, ArrayLike] | str | Path,
    *,
    family: str,
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    where: Mapping[str, str] | None = None,
    arm: str | None = None,
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
    teacher_width: str | None = None,
    matrices: int = 1,
    tie_exponents: bool = False,
    compare: Sequence[str] = (),
    check: bool = True,
    calibrate: bool = True,
) -> FitResult:
    """Fit a law to runs.

    Args:
        table: columns of equal length, or a path to a CSV, Parquet, JSON lines file or study folder.
        family: supervised, chinchilla, distillation, distillation-kappa, distillation-reduced,
            distillation-reduced-q, distillation-auto, capacity-gap or pruned (what a cut is worth as a start).
        columns: {our name: column}, e.g. {"params": "N", "tokens": "D", "loss": "final_loss"}.
        group: column naming the independent run of each row (checkpoints and branches of one run share
            it); "none" for independent rows; default: group, run_name or trunk where the table has one.
        where: {column: value}, to fit some rows only; `*` in a value stands for anything.
        arm: the students' first weights: fresh, pruned (cut out of the teacher under test) or fixed (out of one
            reference); default: fresh where there are any, then fixed, then pruned.
        delta: Huber threshold in ln L; "auto" is 1.345 times the robust noise, 1e-3 the field's habit.
        bootstrap: replicates, resampled by group; 0 for none.
        level: coverage of the intervals.
        seed: of everything random here.
        supervised: law of the student's own supervised loss, for distillation families, and law of random starts,
            taught ones too, for pruned; a FitResult brings its uncertainty along. Default: fitted to the same table
            (distillation families: jointly from the rows without a teacher, or the measured losses where those rows
            are too few for a law).
        weights: weight per row.
        priors: "auto" (weak ones when delta is auto), "weak", "none", or {coefficient: (centre, sd)}.
        unit: of the losses: nats, bits, bits-per-byte or bits-per-character.
        params_convention: what the params column counts, non-embedding (default) or total; the law is in that
            convention, and says so.
        vocab: entries of the vocabulary; with the widths, total parameters become non-embedding ones.
        width: column with the model width, by default `width`.
        teacher_width: column with the teacher's width, by default `teacher_width`; converts teacher_params.
        matrices: vocabulary x width matrices in the totals, 1 with tied embeddings, 2 without.
        tie_exponents: alpha = beta, for the supervised and chinchilla families.
        compare: other families to fit to the same rows; their held-out errors are in details["comparison"].
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
    check_family(family)
    check_numbers(delta, bootstrap, level)
    check_compared(family, compare)
    if supervised is not None and not any(
        each.startswith("distillation") or each == "pruned" for each in (family, *compare)
    ):
        raise ConfigError(
            f"supervised: only the distillation families and pruned stand on another law; {family} does not"
        )
    if tie_exponents and family not in ("supervised", "chinchilla"):
        raise ConfigError(f"tie_exponents: {family} has no such option; use it with supervised or chinchilla")
    unused = _check_capacity(delta, priors, weights, group) if family == "capacity-gap" else ()
    data = read_table(table) if isinstance(table, str | Path) else table
    if not hasattr(data, "items"):
        raise ConfigError(
            f"table: got a {type(table).__name__}; give columns of equal length (a dict, a DataFrame) or a path"
        )
    if vocab is None and (width or teacher_width or {"width", "teacher_width"} & (columns or {}).keys()):
        raise ConfigError("width: it only serves to convert total parameters; add --vocab V")
    widths = {name: column for name, column in (("width", width), ("teacher_width", teacher_width)) if column}
    embedding = None if vocab is None else Embedding(vocab=vocab, matrices=matrices)

    with naming(table):
        observed = partial(
            observe,
            data,
            columns={**(columns or {}), **widths},
            group=group,
            weights=weights,
            unit=unit,
            params_convention=params_convention,
            where=where,
            embedding=embedding,
            needs_teachers=family in ("capacity-gap", "pruned"),
        )
        rows = observed(arm=arm or ("pruned" if family == "pruned" else None))
    provenance = {
        "source": _source(table),
        "version": __version__,
        "seed": seed,
        "priors": {k: list(v) for k, v in priors.items()} if isinstance(priors, Mapping) else priors,
        "columns": dict(columns or {}),
        "where": dict(where or {}),
        "unit": unit or "nats",
        "bootstrap": bootstrap,
        "params_convention": rows.convention,
        "tie_exponents": tie_exponents,
    } | ({"arm": rows.arm} if rows.arm != "fresh" or family == "capacity-gap" else {})
    request = Request(
        family=family,
        delta=delta,
        bootstrap=bootstrap,
        level=level,
        seed=seed,
        priors=priors,
        check=check,
        calibrate=calibrate,
        tie=tie_exponents,
        provenance=provenance,
    )
    if family == "pruned":
        result = _fit_pruned(data, rows, observed(arm="fresh"), supervised, request)
        return replace(result, seconds=time.perf_counter() - started)
    result = _fit_family(rows, supervised, request)
    if compare:
        quick = replace(request, bootstrap=min(bootstrap, 1), check=False)
        others = {name: _fit_family(rows, supervised, replace(quick, family=name)) for name in compare}
        result = compared(result, others)
    return replace(result, notes=(*result.notes, *unused), seconds=time.perf_counter() - started)


def fit_arms(
    table: Mapping[str, ArrayLike] | str | Path,
    *,
    family: str,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    arm: str | None = None,
    **options: Any,
) -> dict[str, FitResult]:
    """`fit` of one arm, or of a capacity-gap law every arm of the rows in turn where none is named.

    Arguments and errors are those of `fit`; the table is read once, and arms are those of the rows chosen by `where`.

    Returns:
        Arm -> result, fresh students first.
    """
    again = partial(fit, family=family, columns=columns, where=where, **options)
    if family != "capacity-gap" or arm is not None:
        found = [again(table, arm=arm)]
    else:
        data = read_table(table) if isinstance(table, str | Path) else table
        with naming(table):
            arms = taught_arms(data, columns=columns, where=where) or [None]
            found = [again(data, arm=each) for each in arms]
        found = [replace(each, provenance={**each.provenance, "source": _source(table)}) for each in found]
    return {str(each.provenance.get("arm", "fresh")): each for each in found}


def _source(table: Mapping[str, ArrayLike] | str | Path) -> str:
    return str(table) if isinstance(table, str | Path) else "table in memory"


def _check_capacity(delta: float | str, priors: object, weights: object, group: str | None) -> tuple[str, ...]:
    """Refuse what least squares on each student's own U has no use for; a note where groups were named."""
    given = {"delta": delta != "auto", "priors": priors != "auto", "weights": weights is not None}
    if unused := ", ".join(name for name, is_given in given.items() if is_given):
        raise ConfigError(
            f"{unused}: capacity-gap does not use it: each student's U is a least-squares fit whose noise is measured "
            "between its teachers; leave it out"
        )
    if group is None or group.lower() == "none":
        return ()
    return (f"group {group}: runs of one student and budget count as independent, but for what a seed shares",)


def _fit_family(rows: Observations, supervised: Supervised | None, request: Request) -> FitResult:
    plain, taught = split_by_teacher(rows)
    family = request.family
    if family in ("supervised", "chinchilla"):
        result = fit_supervised(plain, request)
    elif family == "capacity-gap":
        result = fit_capacity(taught if len(taught) else rows, request)
    elif family == "distillation-auto":

        def fit_form(form: str, bootstrap: int) -> FitResult:
            return fit_students(plain, taught, supervised, form, replace(request, bootstrap=bootstrap))

        result = fit_ladder(fit_form, ngroups=taught.ngroups, bootstrap=request.bootstrap)
    else:
        result = fit_students(plain, taught, supervised, FORMS[family], request)
    if isinstance(result.law, StudentLaw):
        return replace(result, details={**result.details, "behaviours": behaviours(result.law)})
    return result


def _fit_pruned(
    data: Mapping[str, ArrayLike], rows: Observations, fresh: Observations, law: Supervised | None, request: Request
) -> FitResult:
    """The law of starts; behind it the law given, else one fitted to the fresh students."""
    if rows.arm == "fresh":
        raise ConfigError("arm = 'fresh': the law of starts is of students that begin as cuts (pruned, fixed)")
    cuts = read_cuts(data, rows, fresh)
    if law is None:
        behind = _fit_family(fresh, None, replace(request, family="distillation-kappa", check=False))
        if not behind.is_usable:
            verdict = Judgement(
                behind.status,
                f"The random starts of this table carry no law of their own ({behind.remedy} Or give one whose "
                "slope in tokens holds here: --supervised LAW.)",
            )
            found = refused_result(rows, request, verdict)
            return replace(found, family=request.family, fitted_range=box_of_cuts(cuts))
        law = behind
    if isinstance(law, SupervisedLaw):
        raise ConfigError("supervised: the law of starts needs the taught half too; give a distillation law")
    return fit_cuts(cuts, curve_behind(law), request)


FEW_RUNS = 60
"""Independent distilled runs below which the five-parameter form is kept."""
AIC_GAIN = 2.0
"""What a richer form must gain: one parameter more costs as much (Akaike 1974)."""
_PLAIN = ("supervised", "chinchilla")
LADDER = ("reduced", "reduced-q", "kappa", "full")
"""Forms by number of parameters."""
FURTHER = 10.0
"""Compute, in units of the largest run, at which the predictions of two laws are set against each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LawScore:
    """How one law did."""

    form: str
    num_params: int
    aic: float
    held_out_error: float | None
    """Root mean square of ln predicted - ln observed over the held-out runs of the common cuts."""


def fit_ladder(fit_form: Callable[[str, int], FitResult], *, ngroups: int, bootstrap: int) -> FitResult:
    """Fit the forms and return the chosen one, with every form's score in `details`.

    Args:
        fit_form: fits a form with a number of bootstrap replicates.
        bootstrap: replicates of the chosen form; the screening fits use a few, for their hold-outs.
    """
    if ngroups < FEW_RUNS:
        simplest = fit_form("reduced", bootstrap)
        return _with_scores(simplest, "reduced", [], f"fewer than {FEW_RUNS} independent distilled runs")
    fits = {form: fit_form(form, 1) for form in LADDER}
    scores = score_all(fits)
    if not scores:
        return fits["reduced"]
    best = choose(scores)
    reason = "lowest held-out error among the forms that AIC supports"
    return _with_scores(fit_form(best, bootstrap), best, scores, reason)


def choose(scores: list[LawScore]) -> str:
    """The form to keep: climb from the simplest; a step must gain in AIC and in held-out error."""
    best = scores[0]
    for candidate in scores[1:]:
        gains_fit = candidate.aic < best.aic - AIC_GAIN
        gains_truth = (
            best.held_out_error is None
            or candidate.held_out_error is None
            or candidate.held_out_error < best.held_out_error
        )
        if gains_fit and gains_truth:
            best = candidate
    return best.form


def _with_scores(result: FitResult, form: str, scores: list[LawScore], reason: str) -> FitResult:
    details = {**result.details, "form": form, "reason": reason, "ladder": [asdict(s) for s in scores]}
    return replace(result, details=details, notes=(*result.notes, f"form {form}: {reason}"))


def check_compared(family: str, others: Sequence[str]) -> None:
    """Refuse families that are not fitted to the rows of this one.

    Raises:
        ConfigError: an unknown family, or one of the other kind.
    """
    kind = _PLAIN if family in _PLAIN else tuple(FORMS)
    for name in others:
        check_family(name)
        if family in ("capacity-gap", "pruned") or name not in kind or name == family:
            rest = [known for known in kind if known != family]
            raise ConfigError(
                f"compare: {name} cannot be set against {family}; it can be compared with "
                f"{', '.join(rest) if family not in ('capacity-gap', 'pruned') else 'nothing'}"
            )


def score_all(fits: Mapping[str, FitResult]) -> list[LawScore]:
    """AIC with the noise profiled out, and the held-out error over the common cuts, of every usable fit."""
    usable = {name: result for name, result in fits.items() if result.is_usable}
    cuts = {
        name: {(cut["axis"], cut["share"]): cut for cut in r.details.get("held_out_by_cut", ())}
        for name, r in usable.items()
    }
    common = set.intersection(*(set(found) for found in cuts.values())) if cuts else set()
    return [_score(name, result, [cuts[name][cut] for cut in sorted(common)]) for name, result in usable.items()]


def _score(form: str, result: FitResult, cuts: list[dict[str, float]]) -> LawScore:
    assert result.objective is not None and result.curve is not None
    derived = "c1" in result.params  # kappa of the full form is not a parameter of its own
    num_params = len(result.params) - derived - bool(result.provenance.get("tie_exponents"))
    # Huber terms at matched delta are close to r^2/2, so n ln(objective / n) is -2 ln likelihood up to a constant
    aic = 2 * num_params + result.nobs * math.log(max(result.objective, 1e-30) / result.nobs)
    num = sum(cut["num"] for cut in cuts)
    error = math.sqrt(sum(cut["num"] * cut["mean_square"] for cut in cuts) / num) if num else None
    return LawScore(form=form, num_params=num_params, aic=aic, held_out_error=error)


def compared(result: FitResult, others: Mapping[str, FitResult]) -> FitResult:
    """The result with every law's score in `details["comparison"]`, and a note where the laws part company."""
    scores = score_all({result.family: result, **others})
    notes = [_difference(result, name, other) for name, other in others.items()]
    refused = [f"{name} is not compared: {r.status.name}" for name, r in others.items() if not r.is_usable]
    details = {**result.details, "comparison": [asdict(score) for score in scores]}
    return replace(result, details=details, notes=(*result.notes, *refused, *(note for note in notes if note)))


def _difference(result: FitResult, name: str, other: FitResult) -> str | None:
    """A sentence if the other law's prediction at ten times the compute is outside this one's interval."""
    if not (result.is_usable and other.is_usable):
        return None
    box = result.fitted_range.as_dict()
    prefix = "student_" if "student_params" in box else ""
    at = {f"{prefix}{axis}": box[f"{prefix}{axis}"][1] for axis in ("params", "tokens")}
    grow = math.sqrt(FURTHER * box["compute"][1] / (6 * math.prod(at.values())))
    at = {axis: value * grow for axis, value in at.items()}
    if prefix:
        if result.curve is None or result.curve.behind is None:
            return None
        at["teacher_loss"] = box["teacher_loss"][0]
    mine, theirs = result.predict(**at), float(np.asarray(other.predict(**at).mean))
    if float(mine.lower) <= theirs <= float(mine.upper):
        return None
    return (
        f"at {FURTHER:.0f} times the largest compute {name} predicts {theirs:.4g}, outside this law's interval "
        f"[{float(mine.lower):.4g}, {float(mine.upper):.4g}]; the held-out errors decide"
    )
