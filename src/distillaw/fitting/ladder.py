"""`distillation-auto`: the distillation form that held-out runs support, not the one that fits best.

Forms are tried from five parameters upwards. Below 60 runs the five-parameter form is kept whatever the fit
says; above, a richer form must predict the largest-compute runs better (spec fitting.md section 8).
"""

from collections.abc import Callable
from dataclasses import replace

from distillaw.fitting.problem import Observations
from distillaw.fitting.result import FitResult

FEW_RUNS = 60


def fit_ladder(fit_form: Callable[[str], FitResult], rows: Observations) -> FitResult:
    """The chosen form's fit, with the scores of all forms tried in `details`."""
    chosen = fit_form("reduced")
    scores = {"reduced": aic(chosen)}
    if chosen.is_usable and rows.ngroups >= FEW_RUNS:
        for form in ("reduced-q", "kappa", "full"):
            other = fit_form(form)
            scores[form] = aic(other)
            if other.is_usable and scores[form] is not None and scores[form] < scores[chosen.curve.form] - 2:
                chosen = other
    return replace(
        chosen, details={**chosen.details, "form": chosen.curve.form if chosen.curve else None, "aic": scores}
    )


def aic(result: FitResult) -> float | None:
    """Huber objective as a likelihood: 2 k + 2 objective / noise^2 needs one common noise, so n ln(objective)."""
    import math

    if result.objective is None or result.curve is None or result.objective <= 0:
        return None
    k = len(result.curve.coefficients())
    return 2 * k + result.nobs * math.log(result.objective)
