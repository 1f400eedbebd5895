"""Design checks before a fit and the verdict after it: a status with a remedy instead of silence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.errors import DataError
from distillaw.fitting.estimate import Estimate, Problem
from distillaw.fitting.problem import Observations
from distillaw.fitting.status import FitStatus
from distillaw.quantities import plural

SPARE_RUNS = 3
"""Independent runs needed beyond the number of parameters."""
CONDITION_LIMIT = 1e6
"""Of the information matrix with unit diagonal (our limit)."""
ISOFLOP = 0.05
"""Spread of ln(6 N D) below which all runs count as one compute level."""
DISAGREEMENT = 1e-6
"""Relative objective by which the second solver may be better before it is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A status and what to do about it, with the values seen."""

    status: FitStatus
    remedy: str


def check_design(rows: Observations, *, num_params: int, needs_both: bool) -> Verdict | None:
    """None if a curve may be drawn through these rows, otherwise why not.

    Args:
        rows: the rows that would be fitted.
        num_params: fitted parameters of the law.
        needs_both: the law has both a size term and a data term.
    """
    ngroups = rows.ngroups
    missing = num_params + SPARE_RUNS - ngroups
    if missing > 0:
        what = (
            f"{plural(len(rows), 'row')} in {ngroups} independent runs"
            if rows.grouped
            else plural(ngroups, "run")
        )
        return Verdict(
            status=FitStatus.TOO_FEW_RUNS,
            remedy=f"Only {what} for {num_params} parameters; at least {num_params + SPARE_RUNS} independent runs are "
            f"needed. Add {plural(missing, 'run')} at new sizes and token counts, or fit a law with "
            "fewer parameters.",
        )
    spread = float(np.ptp(np.log(rows.compute)))
    if needs_both and spread < ISOFLOP and np.ptp(np.log(rows.params)) > spread:
        level, percent = float(np.median(rows.compute)), 100 * max(float(np.expm1(spread)), 1e-3)
        return Verdict(
            status=FitStatus.ONE_COMPUTE_LEVEL,
            remedy=f"All {len(rows)} runs lie on one isoFLOP curve (6 N D within {percent:.1g} % of {level:.2g}); "
            f"alpha and beta cannot be separated. Add runs at a second budget, e.g. {3 * level:.2g}.",
        )
    return None


def require_losses_differ(rows: Observations) -> None:
    """Refuse a loss column that never changes: there is nothing to fit.

    Raises:
        DataError: every loss is the same.
    """
    low, high = float(rows.loss.min()), float(rows.loss.max())
    if high <= low * (1 + 1e-12):
        raise DataError(
            f"loss is {low:.6g} in all {len(rows)} rows; nothing can be fitted to it. Is it the right column? Name it "
            f"with --columns loss=COLUMN"
        )


def check_estimate(
    problem: Problem,
    fitted: Estimate,
    *,
    condition: float,
    disagreement: float | None,
    open_ended: Sequence[str] = (),
) -> Verdict:
    """The status of an estimate; `open_ended` names coefficients whose profile has an open end."""
    model, theta = problem.model, fitted.theta
    edge = [
        f"{model.names[i]} = {theta[i]:.3g}"
        for i in model.free
        if theta[i] <= model.lower[i] + 1e-9 or theta[i] >= model.upper[i] - 1e-9
    ]
    if edge:
        return Verdict(
            status=FitStatus.AT_BOUND,
            remedy=f"At the end of its range: {', '.join(edge)}. {FitStatus.AT_BOUND.value}",
        )
    if condition > CONDITION_LIMIT:
        return Verdict(
            status=FitStatus.WEAKLY_IDENTIFIED,
            remedy=f"The condition number is {condition:.1e} (limit {CONDITION_LIMIT:.0e}). "
            + FitStatus.WEAKLY_IDENTIFIED.value,
        )
    if open_ended:
        return Verdict(
            status=FitStatus.WEAKLY_IDENTIFIED,
            remedy=f"The runs do not bound {', '.join(open_ended)} on one side (flat profile). "
            + FitStatus.WEAKLY_IDENTIFIED.value,
        )
    if not fitted.converged or (disagreement is not None and disagreement > DISAGREEMENT):
        size = (
            f"an independent solver is better by {disagreement:.1e}" if disagreement else "iterations ran out"
        )
        return Verdict(
            status=FitStatus.WEAKLY_IDENTIFIED,
            remedy=f"The optimum is not certain ({size}): a flat valley. {FitStatus.WEAKLY_IDENTIFIED.value}",
        )
    return Verdict(status=FitStatus.CONVERGED, remedy=FitStatus.CONVERGED.value)
