"""Laws compared by what they predict of runs they have not seen, with AIC beside it; and `distillation-auto`.

Systematic misfit inflates differences of AIC, so it is a screen; the judge is the error of compute-ordered hold-outs,
over the cuts that all laws have. `distillation-auto` keeps the form that hold-outs support, not the one that fits best:
forms are tried from five parameters upwards, a richer one must pass both, and below 60 independent runs
the five-parameter form is kept whatever the fit says: a free data term that the runs do not see ruins extrapolation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from distillaw.errors import ConfigError
from distillaw.fitting.problem import FORMS, check_family
from distillaw.fitting.result import FitResult

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
