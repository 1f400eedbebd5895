"""What is said of an estimate: its status, how well the runs identify it, and how the fitted law behaves.

A profile likelihood says how far a parameter can move before the other parameters cannot make up for it: the Huber sum
over sigma^2 stands in for the log likelihood, and its rise is scaled so that the curvature at the optimum matches the
variance clustered by run (Chandler and Bate 2007, Biometrika 94:167). A profile that never rises enough on one side
leaves that end open: the runs do not bound the parameter there.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from distillaw.fitting.estimate import Estimate, robust_scale
from distillaw.fitting.newton import minimise
from distillaw.fitting.observations import Observations
from distillaw.fitting.problem import Problem
from distillaw.fitting.result import FitStatus, Judgement
from distillaw.laws.base import Array
from distillaw.laws.distillation import ReducedDistillationLaw, StudentLaw

CONDITION_LIMIT = 1e6
"""Of the information matrix with unit diagonal (our limit)."""
DISAGREEMENT = 1e-6
"""Relative objective by which the second solver may be better before it is said."""


def check_estimate(
    problem: Problem, fitted: Estimate, *, condition: float, disagreement: float | None, open_ended: Sequence[str] = ()
) -> Judgement:
    """The status of an estimate; `open_ended` names coefficients whose profile has an open end."""
    model, theta = problem.model, fitted.theta
    edge = [
        f"{model.names[i]} = {theta[i]:.3g}"
        for i in model.free
        if theta[i] <= model.lower[i] + 1e-9 or theta[i] >= model.upper[i] - 1e-9
    ]
    status, why = FitStatus.WEAKLY_IDENTIFIED, ""
    if edge:
        status, why = FitStatus.AT_BOUND, f"At the end of its range: {', '.join(edge)}. "
    elif condition > CONDITION_LIMIT:
        why = f"The condition number is {condition:.1e} (limit {CONDITION_LIMIT:.0e}). "
    elif held := _held_by_prior(problem, fitted):
        why = f"These runs say less of {', '.join(held)} than the runs of others that the prior was learnt from. "
    elif open_ended:
        why = f"The runs do not bound {', '.join(open_ended)} on one side (flat profile). "
    elif not fitted.converged or (disagreement is not None and disagreement > DISAGREEMENT):
        size = f"an independent solver is better by {disagreement:.1e}" if disagreement else "iterations ran out"
        why = f"The optimum is not certain ({size}): a flat valley. "
    else:
        status = FitStatus.CONVERGED
    return Judgement(status, why + status.value)


def _held_by_prior(problem: Problem, fitted: Estimate) -> list[str]:
    """Slopes of which the runs alone would know less than the prior: the standard error without it is larger."""
    model = problem.model
    J, scale = _scaled_jacobian(problem, fitted)
    variance = np.diag(np.linalg.pinv(J @ J.T, rcond=1e-14, hermitian=True)) / scale**2
    error = fitted.noise * np.sqrt(np.maximum(variance, 0.0))
    names = [(model.names[index], error[i], problem.prior_sd[index]) for i, index in enumerate(model.free)]
    return [name for name, alone, prior in names if name in ("p", "q") and alone > prior]


def _scaled_jacobian(problem: Problem, fitted: Estimate) -> tuple[Array, Array]:
    """d ln L / d free parameters, rows weighted and scaled to unit length (k, n), and the lengths (k,)."""
    J = problem.model.evaluate(fitted.theta[None]).gradient[0][problem.model.free] * np.sqrt(problem.weight)
    scale = np.maximum(np.sqrt((J * J).sum(axis=1)), 1e-12)
    return J / scale[:, None], scale


def condition_number(problem: Problem, fitted: Estimate) -> float:
    """Condition of the information matrix with unit diagonal: how far from being unidentified."""
    J, scale = _scaled_jacobian(problem, fitted)
    if (scale <= 1e-12).any():
        return float("inf")
    values = np.linalg.svd(J, compute_uv=False)
    return float((values[0] / values[-1]) ** 2) if values[-1] > 0 else float("inf")


_STEPS = np.array([0.4, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 4.0, 6.0, 9.0])
"""Points of a profile, standard errors from the estimate: usual ends lie at 1 to 3, of skewed profiles further."""
_PUBLIC = {
    "e": ("E", np.exp),
    "le": ("gamma", lambda value: np.exp(-value)),
    "p": ("p", float),
    "q": ("q", float),
    "c0": ("c0", float),
    "lk": ("kappa", np.exp),
    "lf": ("f1", np.exp),
}
"""Fitted parameter -> reported coefficient, and how the one becomes the other."""
_NOISE_FREE = 1e-9
"""Residual scale in ln L below which the data are the law itself and an interval means nothing."""


Ends = tuple[float | None, float | None]
"""Of an interval; None where the profile stays flat to the end of the range."""


def profiles(problem: Problem, fitted: Estimate, *, level: float) -> dict[str, Ends]:
    """Profile intervals of the parameters that have a meaning by themselves; none for data without noise."""
    if fitted.noise < _NOISE_FREE:
        return {}
    error, inflation = clustered_errors(problem, fitted)
    found = {}
    for position, index in enumerate(problem.model.free):
        name = problem.model.names[index]
        if name in _PUBLIC and np.isfinite(error[position]) and error[position] > 0:
            label, transform = _PUBLIC[name]
            ends = _ends(problem, fitted, int(index), float(error[position]), float(inflation[position]), level)
            low, high = (None if end is None else float(transform(end)) for end in ends)
            found[label] = (high, low) if transform(1.0) < transform(0.0) else (low, high)
    return found


def clustered_errors(problem: Problem, fitted: Estimate) -> tuple[Array, Array]:
    """Standard errors by the sandwich over groups, and their squared ratio to the naive ones, by free parameter."""
    model, free = problem.model, problem.model.free
    point = model.evaluate(fitted.theta[None])
    r = point.value[0] - problem.y
    psi = np.clip(r, -fitted.delta, fitted.delta)
    J = point.gradient[0][free]
    inside = problem.weight * (np.abs(r) <= fitted.delta)
    H = (J * inside) @ J.T
    if fitted.prior is not None:
        H = H + np.diag(fitted.prior.precision[free])
    scale = np.sqrt(np.maximum(np.diag(H), 1e-300))
    inverse = np.linalg.pinv(H / np.outer(scale, scale), rcond=1e-12, hermitian=True) / np.outer(scale, scale)
    codes, member = np.unique(problem.group, return_inverse=True)
    score = np.zeros((len(codes), len(free)))
    np.add.at(score, member.reshape(-1), (J * (problem.weight * psi)).T)
    ngroups, k = len(codes), len(free)
    middle = score.T @ score * ngroups / max(ngroups - k, 1)
    sandwich = np.diag(inverse @ middle @ inverse)
    naive = np.maximum(np.diag(inverse) * fitted.noise**2, 1e-300)
    return np.sqrt(np.maximum(sandwich, 0.0)), np.maximum(sandwich / naive, 1e-6)


def _ends(problem: Problem, fitted: Estimate, index: int, error: float, inflation: float, level: float) -> Ends:
    at = fitted.theta[index] + error * np.concatenate([-_STEPS[::-1], _STEPS])
    at = np.clip(at, problem.model.lower[index], problem.model.upper[index])
    start = np.repeat(fitted.theta[None], len(at), axis=0)
    start[:, index] = at
    objective = problem.objective(fitted.delta, fitted.prior)
    found = minimise(replace(objective, model=problem.model.holding(index)), start)
    full = minimise(objective, fitted.theta[None])
    rise = np.maximum(found.penalised - full.penalised[0], 0.0)
    root = np.sqrt(2 * rise / (max(fitted.noise, 1e-12) ** 2 * inflation))
    limit = NormalDist().inv_cdf(0.5 + level / 2)
    half = len(_STEPS)
    centre = fitted.theta[index]
    low = _crossing(np.r_[centre, at[:half][::-1]], np.r_[0.0, root[:half][::-1]], limit)
    return low, _crossing(np.r_[centre, at[half:]], np.r_[0.0, root[half:]], limit)


def _crossing(at: Array, root: Array, limit: float) -> float | None:
    """Where the signed root passes the limit, linearly between the points; None if it never does."""
    beyond = np.flatnonzero(root >= limit)
    if not len(beyond):
        return None
    i = int(beyond[0])
    share = (limit - root[i - 1]) / (root[i] - root[i - 1])
    return float(at[i - 1] + share * (at[i] - at[i - 1]))


_PLENTY = 1e30
"""Tokens that stand for infinity."""
_FEWEST_REPEATS = 5
"""Repeated runs needed for a noise estimate."""


def behaviours(law: StudentLaw) -> dict[str, float | bool | None]:
    """Diagnostics at the middle of the fitted range.

    Returns:
        By name: `capacity_gap`, True if within the fitted teachers a better one ends up making the student worse;
        `break`, L_T / Ltilde_S at which the break factor is 1/e; `infinite_data_error`, the relative difference
        between the best student on infinite data and the supervised limit of its size (None for the reduced form,
        whose data term is left out).
    """
    box = law.range.as_dict()
    size, tokens = (float(np.sqrt(np.prod(box[name]))) for name in ("student_params", "student_tokens"))
    teachers = np.linspace(*box["teacher_loss"], 400)
    found: dict[str, float | bool | None] = {"capacity_gap": None, "infinite_data_error": None}
    found["break"] = float(law.derived["break"])
    if law.supervised is None:
        return found
    losses = law.distillation(student_params=size, student_tokens=tokens, teacher_loss=teachers)
    found["capacity_gap"] = bool(0 < int(np.argmin(losses)) < len(teachers) - 1)
    if not isinstance(law, ReducedDistillationLaw):
        limit = float(law.supervised(params=size, tokens=_PLENTY))
        grid = np.linspace(law.supervised.E * 1.001, box["teacher_loss"][1], 2000)
        best = law.distillation(student_params=size, student_tokens=_PLENTY, teacher_loss=grid).min()
        found["infinite_data_error"] = float(best / limit - 1)
    return found


def students_above_teachers(rows: Observations) -> str | None:
    """A note if some students beat their teacher, which no form of the law can describe."""
    better = int((rows.loss < rows.teacher_loss).sum())
    if not better:
        return None
    return f"{better} of {len(rows)} students have a lower loss than their teacher, which no form of this law allows"


def seed_noise(rows: Observations) -> dict[str, float] | None:
    """Spread of ln L between runs of one cell (same size, tokens and teacher), the noise without any misfit.

    Returns:
        `sd` in ln L, `num_cells` repeated, and `spare` degrees of freedom; None with fewer than five of these.
    """
    if len(rows) - len(np.unique(rows.params + 1j * rows.tokens)) < _FEWEST_REPEATS:
        return None  # the usual case, decided cheaply
    key = np.column_stack([rows.params, rows.tokens, np.nan_to_num(rows.teacher_loss), rows.loss])
    distinct = np.unique(key, axis=0)  # an exact copy of a row is not a second run
    cell = np.unique(distinct[:, :3], axis=0, return_inverse=True)[1].reshape(-1)
    y, count = np.log(distinct[:, 3]), np.bincount(cell)
    spare = int((count - 1).sum())
    if spare < _FEWEST_REPEATS:
        return None
    within = y - (np.bincount(cell, y) / count)[cell]
    return {"sd": float(np.sqrt((within**2).sum() / spare)), "num_cells": int((count > 1).sum()), "spare": spare}


FEWEST = 16
"""Independent runs below which the three looks of `find_misfit` cannot tell."""
FEW_SIGNS, EXPLAINED = -4.0, 0.6
"""Standardised number of runs of one sign, and share of the variance that a cubic explains: beyond both, a trend."""
GAP, SIDE = 5.0, 0.25
"""Distance of two modes in standard deviations within (a normal split in two has 2.7), and least share of either."""
LAST, OFF, BY = 1 / 6, 6.0, 2.0
"""Share of the runs that are last; standard errors, and robust standard deviations of a run, that they lie off by."""


class Misfit(NamedTuple):
    """What was seen (`find_misfit`)."""

    text: str
    """In words, with its values."""
    of_table: bool
    """Two tables in one, of which no law can be right; else the law is wrong, by what its hold-outs show too."""


def find_misfit(resid: Array, *, extent: Array, weight: Array, group: np.ndarray) -> Misfit | None:
    """Is this the right law for these runs? What residuals show that noise cannot; None where nothing is seen.

    Residuals of independent runs (means over the rows of a group) are looked at in three ways, each strict enough that
    of 3,000 tables of a true law with Student's noise five are taken for misfits (tests/fitting/test_misfit.py):

    trend   along compute, size, tokens, tokens per parameter, teacher's loss or teacher's size: far fewer changes of
            sign than by chance (Wald and Wolfowitz 1940) where a cubic explains most of the variance
    modes   two groups of runs with a gap between them, among all or among the smallest third: two recipes, two units,
            two ways of counting parameters
    break   the last levels of compute lie off the law of all the others (of runs that count at least half, as trends)

    A law is always wrong by more than seeds are noisy (docs/fitting.md); that alone is no misfit.

    Args:
        resid: ln predicted - ln observed, (n,).
        extent: compute, parameters, tokens of each row and, where there are any, teacher's loss and size, (n, 3 to 5);
            NaN without a teacher.
    """
    everything = _by_run(resid, extent, group)
    if len(everything[0]) < FEWEST:
        return None
    r, params = everything[0], everything[2]
    small = params <= np.quantile(params, 1 / 3)  # embeddings in some counts are a matter of small models
    if robust_scale(r) < 1e-9:
        return None
    if seen := _modes(r) or _modes(r[small]):
        return Misfit(seen, of_table=True)
    keep = weight >= 0.5 * weight.max()
    r, compute, params, tokens, *teacher = _by_run(resid[keep], extent[keep], group[keep])
    if len(r) < FEWEST:
        return None
    named = {"compute": compute, "params": params, "tokens": tokens, "tokens per parameter": tokens - params}
    named |= dict(zip(("the teacher's loss", "the teacher's size"), teacher, strict=False))
    seen = _break(r, compute, robust_scale(r)) or _trend(r, named)
    return Misfit(seen, of_table=False) if seen else None


def _by_run(resid: Array, extent: Array, group: np.ndarray) -> list[Array]:
    """Means over the rows of each run: residual, and the ln of each column of `extent`."""
    _, member = np.unique(group, return_inverse=True)
    size = np.bincount(member)
    return [np.bincount(member, column) / size for column in (resid, *np.log(extent).T)]


def _modes(r: Array) -> str | None:
    """The split of the sorted residuals in two with the least variance within."""
    ordered, n = np.sort(r), len(r)
    least = max(int(np.ceil(SIDE * n)), 4)
    if n < FEWEST:
        return None
    sums, squares = np.cumsum(ordered), np.cumsum(ordered**2)
    at = np.arange(least, n - least + 1)
    low, high = sums[at - 1] / at, (sums[-1] - sums[at - 1]) / (n - at)
    within = (squares[-1] - at * low**2 - (n - at) * high**2) / (n - 2)
    i = int(np.argmin(within))
    apart = (high - low)[i] / np.sqrt(max(within[i], 1e-300))
    if apart < GAP:
        return None
    return (
        f"residuals have two modes, {at[i]} runs around {100 * low[i]:+.2g} % and {n - at[i]} around "
        f"{100 * high[i]:+.2g} %: two recipes, units or ways of counting parameters in one table"
    )


def _break(r: Array, compute: Array, noise: float) -> str | None:
    order = np.argsort(compute, kind="stable")
    num = max(round(LAST * len(r)), 4)
    last, rest = r[order[-num:]], r[order[:-num]]
    off = float(last.mean() - np.median(rest))
    if abs(off) < OFF * robust_scale(rest) / np.sqrt(num) or abs(off) < BY * robust_scale(rest):
        return None
    side = "below" if off > 0 else "above"
    return (
        f"the {num} runs of the largest compute lie {100 * abs(off):.2g} % {side} the law of the others, whose "
        f"residuals scatter by {100 * noise:.2g} %: a break"
    )


def _trend(r: Array, axes: dict[str, Array]) -> str | None:
    for name, x in axes.items():
        known = np.isfinite(x)  # runs without a teacher have no place along its axes
        n = int(known.sum())
        if n < FEWEST or np.ptp(x[known]) < 1e-6:
            continue
        own, x = r[known], x[known]
        sign = own > np.median(own)
        num, other = int(sign.sum()), int((~sign).sum())
        expected = 2 * num * other / n + 1
        sd = np.sqrt((expected - 1) * (expected - 2) / (n - 1))
        order = np.argsort(x, kind="stable")
        runs = 1 + int((sign[order][1:] != sign[order][:-1]).sum())
        z = (runs - expected) / sd
        cubic = np.vander((x - x.mean()) / x.std(), 4)
        left = own - cubic @ np.linalg.lstsq(cubic, own, rcond=None)[0]
        explained = 1 - float(left.var() / own.var())
        if z < FEW_SIGNS and explained > EXPLAINED:
            return (
                f"residuals follow {name}: their sign changes {runs - 1} times in {n} runs ({expected - 1:.0f} by "
                f"chance), and a curve explains {100 * explained:.0f} % of their variance"
            )
    return None
