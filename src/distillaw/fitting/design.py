"""Which runs next: the cells that shrink the uncertainty of a target most per FLOP.

Spec fitting.md section 10: greedy V-optimal design per cost^0.4, linearised at the present fit, with a weak
prior so that the first picks are defined. The target is a prediction, or the difference of two predictions
(a decision: distilled against pretrained), given as its gradient by the fitted parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from distillaw.errors import ConfigError, FitError
from distillaw.fitting.curve import Curve, log_coordinates
from distillaw.fitting.models import FREE
from distillaw.fitting.result import FitResult
from distillaw.laws.base import Array

COST_POWER = 0.4
"""Price of a FLOP in the greedy score: below 1, because one long run teaches more than many short ones."""
_PRIOR_SD = 1.0
"""Weak prior of every fitted parameter while fewer runs than parameters are chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRun:
    """One proposed run and what it is expected to do."""

    index: int
    """Row of the candidate table."""
    coords: Mapping[str, float]
    cost: float
    """FLOP."""
    total_cost: float
    """FLOP spent by this run and those before it."""
    target_sd: float
    """Expected standard deviation of the target's ln loss after this run, parameters only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Proposed runs in order, and the target's standard deviation before any of them."""

    before: float
    runs: tuple[NextRun, ...]


def propose(
    result: FitResult,
    *,
    candidates: Mapping[str, ArrayLike],
    target: Mapping[str, ArrayLike],
    budget: float,
    cost: ArrayLike | None = None,
    against: "tuple[FitResult, Mapping[str, ArrayLike]] | None" = None,
    fitted: Mapping[str, ArrayLike] | None = None,
    most: int = 40,
) -> Design:
    """Runs that shrink the uncertainty of the target most per FLOP^0.4, within a budget.

    Args:
        result: a usable fit, or one at a guessed law; its residual noise prices a run's information.
        candidates: coordinates of the runs that could be made, as in `result.predict`.
        target: coordinates whose predicted losses matter (their mean variance is minimised).
        budget: FLOP that may be spent.
        cost: FLOP of each candidate; by default 6 N D of its own size and tokens.
        against: (None-teacher fit, coordinates) when the target is the difference of two predictions of one
            fit; the same `result` must be given, since only its own parameters are informed by its runs.
        fitted: coordinates of the runs already made; by default the information of the bootstrap replicates.
        most: runs at most.

    Raises:
        FitError: the fit is not usable.
        ConfigError: no candidate is within the budget.
    """
    if result.curve is None or not result.is_usable:
        raise FitError(f"design: the fit is {result.status.name}; {result.remedy}")
    curve = result.curve
    J, logs = _gradient(curve, candidates)
    G, _ = _gradient(curve, target)
    if against is not None:
        other, coords = against
        if other is not result:
            raise ConfigError("design: a difference of two predictions needs both from the same fit")
        G = G - _gradient(curve, coords)[0]
    price = _price(logs, cost)
    if not (price <= budget).any():
        raise ConfigError(
            f"design: the cheapest candidate costs {price.min():.2g} FLOP, the budget is {budget:.2g}"
        )
    covariance = _covariance(curve, fitted, result.noise)
    return _greedy(
        J, G, price, covariance, noise=max(result.noise, 1e-6), budget=budget, most=most, logs=logs
    )


def _greedy(
    J: Array, G: Array, price: Array, covariance: Array, *, noise: float, budget: float, most: int,
    logs: Mapping[str, Array],
) -> Design:  # fmt: skip
    """Rank-one updates of the covariance; a candidate may be chosen once."""
    runs: list[NextRun] = []
    spent, left = 0.0, np.ones(len(price), dtype=bool)
    before = float(np.sqrt(np.mean(np.einsum("ti,ij,tj->t", G, covariance, G))))
    while len(runs) < most:
        allowed = left & (price <= budget - spent)
        if not allowed.any():
            break
        CJ = covariance @ J.T  # (k, m)
        gain = ((G @ CJ) ** 2).mean(axis=0) / (noise**2 + np.einsum("mk,km->m", J, CJ))
        score = np.where(allowed, gain / price**COST_POWER, -np.inf)
        i = int(np.argmax(score))
        covariance = covariance - np.outer(CJ[:, i], CJ[:, i]) / (noise**2 + J[i] @ CJ[:, i])
        spent += float(price[i])
        left[i] = False
        sd = float(np.sqrt(max(np.mean(np.einsum("ti,ij,tj->t", G, covariance, G)), 0.0)))
        coords = {name: float(np.exp(value[i])) for name, value in logs.items()}
        runs.append(NextRun(index=i, coords=coords, cost=float(price[i]), total_cost=spent, target_sd=sd))
    return Design(before=before, runs=tuple(runs))


def _free(curve: Curve) -> Sequence[int]:
    if curve.form == "capacity-gap":
        raise ConfigError(
            "design: not defined for the capacity-gap line; add teachers on the open side instead"
        )
    return FREE[curve.form] if curve.is_student else range(5 if curve.form == "chinchilla" else 6)


def _gradient(curve: Curve, coords: Mapping[str, ArrayLike]) -> tuple[Array, dict[str, Array]]:
    """D ln L / d theta at the coordinates by central difference, (m, k), and the logs of the coordinates."""
    logs, _ = log_coordinates(curve, dict(coords))
    free = list(_free(curve))
    h = 1e-5
    up, down = (np.repeat(curve.theta[None], len(free), axis=0) for _ in range(2))
    up[np.arange(len(free)), free] += h
    down[np.arange(len(free)), free] -= h
    behind = curve.behind
    if behind is not None:  # the supervised law stays where it is
        logs = logs | {"supervised_loss": curve._log_supervised(logs, replicates=False)[0]}
    shifted = [
        Curve(form=curve.form, theta=curve.theta, replicates=theta, centre=curve.centre).log_value(
            logs, replicates=True
        )
        for theta in (up, down)
    ]
    return ((shifted[0] - shifted[1]) / (2 * h)).T, logs


def _covariance(curve: Curve, fitted: Mapping[str, ArrayLike] | None, noise: float) -> Array:
    """Present covariance of the fitted parameters, kept proper by the weak prior."""
    free = list(_free(curve))
    prior = np.eye(len(free)) / _PRIOR_SD**2
    if fitted is not None:
        J, _ = _gradient(curve, fitted)
        return np.asarray(np.linalg.inv(J.T @ J / max(noise, 1e-6) ** 2 + prior), dtype=np.float64)
    if len(curve.replicates) < 2:
        raise FitError(
            "design: the fit has no bootstrap replicates; fit with bootstrap=1000 or pass fitted=..."
        )
    spread = np.cov(curve.replicates[:, free].T) + 1e-12 * np.eye(len(free))
    return np.asarray(np.linalg.inv(np.linalg.inv(spread) + prior), dtype=np.float64)


def _price(logs: Mapping[str, Array], cost: ArrayLike | None) -> Array:
    if cost is not None:
        price = np.asarray(cost, dtype=np.float64)
        if not (np.isfinite(price).all() and (price > 0).all()):
            raise ConfigError("design: every candidate's cost must be positive and finite")
        return price
    size = logs["student_params"] if "student_params" in logs else logs["params"]
    tokens = logs["student_tokens"] if "student_tokens" in logs else logs["tokens"]
    return 6 * np.exp(size + tokens)
