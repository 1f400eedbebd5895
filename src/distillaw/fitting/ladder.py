"""`distillation-auto`: the distillation form that held-out runs support, not the one that fits best.

Forms are tried from five parameters upwards. AIC is the screen and compute-ordered
held-out error the judge: a richer form must pass both, and below 60 independent runs the five-parameter form is
kept whatever the fit says, because a free data term that the runs do not see ruins extrapolation.
"""

from collections.abc import Callable
from dataclasses import asdict, replace

from distillaw.fitting.comparison import Score, score_all
from distillaw.fitting.result import FitResult

FEW_RUNS = 60
"""Independent distilled runs below which the five-parameter form is kept."""
AIC_GAIN = 2.0
FORMS = ("reduced", "reduced-q", "kappa", "full")


def fit_ladder(fit_form: Callable[[str, int], FitResult], *, ngroups: int, bootstrap: int) -> FitResult:
    """Fit the forms and return the chosen one, with every form's score in `details`.

    Args:
        fit_form: fits a form with a number of bootstrap replicates.
        ngroups: independent distilled runs.
        bootstrap: replicates of the chosen form; the screening fits use a few, for their hold-outs.
    """
    if ngroups < FEW_RUNS:
        simplest = fit_form("reduced", bootstrap)
        return _with_scores(simplest, "reduced", [], f"fewer than {FEW_RUNS} independent distilled runs")
    fits = {form: fit_form(form, 1) for form in FORMS}
    scores = score_all(fits)
    if not scores:
        return fits["reduced"]
    best = choose(scores)
    reason = "lowest held-out error among the forms that AIC supports"
    return _with_scores(fit_form(best, bootstrap), best, scores, reason)


def choose(scores: list[Score]) -> str:
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


def _with_scores(result: FitResult, form: str, scores: list[Score], reason: str) -> FitResult:
    details = {**result.details, "form": form, "reason": reason, "ladder": [asdict(s) for s in scores]}
    return replace(result, details=details, notes=(*result.notes, f"form {form}: {reason}"))
