"""Which runs next: the cells that shrink the uncertainty of a target most per FLOP.

Greedy V-optimal design per cost^0.4, linearised at the present fit (or at a guessed
law), with a weak prior so that the first picks are defined. The target is a prediction, or the difference of two
(two allocations at equal compute). Its variance has the three parts of a prediction interval: a run informs the
parameters, and one of larger compute shortens the extrapolation. Whether to distil is not asked of a law but of the
runs: settling/propose.py.

    distillaw study next runs.csv --student 7B --tokens 1T --budget 1e21
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from distillaw.errors import ConfigError
from distillaw.fitting.result import FitResult
from distillaw.fitting.uncertainty import Belief, Cells, fitted_belief
from distillaw.laws.base import Array

COST_POWER = 0.4
"""Price of a FLOP in the greedy score: below 1, because one long run teaches more than many short ones."""
_WORTH = 0.002
"""Share of the target's variance that a run must remove to be proposed at all."""
BUDGETS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Shares of the budget for which the expected interval is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The target's interval as it is, or as it is expected to be."""

    half_width: float
    """Of the interval at the design's level, nats per token (of the difference, with an alternative)."""
    probability: float | None
    """That the target is the better of the two, if the present estimate holds; None without an alternative."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRun:
    """One proposed run and what it is expected to do."""

    index: int
    """Row of the candidate table."""
    params: float
    tokens: float
    teacher_loss: float | None
    """None for a run without a teacher."""
    cost: float
    total_cost: float
    """Spent by this run and those before it."""
    after: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStep:
    """What a budget is expected to buy."""

    budget: float
    spent: float
    num_runs: int
    after: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Proposed runs in order, what the target looks like now, and how it is expected to sharpen with budget."""

    loss: float
    """Predicted loss of the target, nats per token (mean over its points)."""
    gain: float | None
    """Loss of the alternative less that of the target; None without one."""
    level: float
    before: Expected
    runs: tuple[NextRun, ...]
    by_budget: tuple[BudgetStep, ...]
    basis: str = ""
    """What stands behind it: the fit and its status, or the guess."""

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return asdict(self)


def propose(
    law: FitResult | Belief,
    *,
    target: Mapping[str, ArrayLike],
    candidates: Mapping[str, ArrayLike],
    budget: float,
    against: Mapping[str, ArrayLike] | None = None,
    level: float = 0.9,
    most: int = 40,
) -> Design:
    """Runs that shrink the uncertainty of the target most per cost^0.4, within a budget.

    Args:
        law: a usable fit with bootstrap replicates, or what is believed of a guessed law (`guessed_belief`).
        target: params, tokens and (for a distilled student) teacher_loss; with several points their mean
            variance is what shrinks.
        candidates: columns params, tokens, teacher_loss (NaN without a teacher) of the runs that could be made;
            teacher_params adds the teacher's forward pass to the cost; cost replaces the FLOP by prices of
            your own, in the unit of the budget.
        budget: what may be spent: FLOP, 6 N D + 2 N_T D per run, unless the candidates bring their cost.
        against: another allocation, as `target`; what shrinks is then the difference.
        level: coverage of the interval.
        most: runs at most.

    Raises:
        FitError: the fit is not usable or has no replicates.
        ConfigError: a coordinate is missing, no candidate is within the budget, or one of target and alternative has a
            teacher and the other none.
    """
    belief = fitted_belief(law) if isinstance(law, FitResult) else law
    if not 0 < level < 1:
        raise ConfigError(f"level: got {level}; give the coverage as a share between 0 and 1, e.g. 0.9")
    pool = Cells.of(candidates, what="candidates")
    cost = _cost(candidates, pool)
    if not (np.isfinite(budget) and budget > 0) or not (cost <= budget).any():
        raise ConfigError(f"budget: got {budget:.3g}; the cheapest candidate costs {cost.min():.3g}")
    aim = Cells.of(target, what="target")
    alternative = None if against is None else Cells.of(against, what="against")
    if alternative is not None and alternative.taught.any() != aim.taught.any():
        raise ConfigError(
            "against: one has a teacher and the other none. Whether to distil is the verdict: `distillaw study next` "
            "on a study or a table with its teachers, without these options"
        )
    question = _Question(belief=belief, target=aim, against=alternative, level=level)
    return question.design(pool, cost, budget=budget, most=most)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A target under a belief: its gradient, and its variance for any covariance and any reach of the runs."""

    belief: Belief
    target: Cells
    against: Cells | None
    level: float

    def design(self, pool: Cells, cost: Array, *, budget: float, most: int) -> Design:
        loss = np.exp(self.belief.log_loss(self.target))
        gain = None
        if self.against is not None:
            gain = float(np.mean(np.exp(self.belief.log_loss(self.against)) - loss))
        scale = _Scale(loss=float(loss.mean()), gain=gain, z=NormalDist().inv_cdf(0.5 + self.level / 2))
        gradients = self.belief.gradient(pool), self._gradient()
        runs = self._greedy(pool, cost, gradients, scale, budget=budget, most=most)
        return Design(
            loss=scale.loss, gain=gain, level=self.level, runs=runs,
            before=scale.expected(self._variance(gradients[1], self.belief.covariance, self.belief.largest)),
            by_budget=tuple(
                self._step(pool, cost, gradients, scale, budget=share * budget, most=most)
                for share in BUDGETS if (cost <= share * budget).any()
            ),
        )  # fmt: skip

    def _step(self, pool: Cells, cost: Array, gradients: tuple[Array, Array], scale: "_Scale", *, budget: float,
              most: int) -> BudgetStep:  # fmt: skip
        runs = self._greedy(pool, cost, gradients, scale, budget=budget, most=most)
        now = scale.expected(self._variance(gradients[1], self.belief.covariance, self.belief.largest))
        return BudgetStep(budget=budget, spent=runs[-1].total_cost if runs else 0.0, num_runs=len(runs),
                          after=runs[-1].after if runs else now)  # fmt: skip

    def _gradient(self) -> Array:
        G = self.belief.gradient(self.target)
        return G if self.against is None else G - self.belief.gradient(self.against)

    def _variance(self, G: Array, covariance: Array, largest: float | Array) -> Array:
        """Mean variance of the target in ln L, for one reach of the runs or for each of many (m,)."""
        own = float(np.mean(np.einsum("ti,ij,tj->t", G, covariance, G)))
        return own + self._misspecified(largest)

    def _misspecified(self, largest: float | Array) -> Array:
        """Noise and misspecification of the target when the runs reach a compute, shape of `largest`.

        They move neighbouring predictions together, so two allocations differ by the difference of their spreads.
        """
        spread = self._spread(self.target, largest)
        if self.against is not None:
            spread = spread - self._spread(self.against, largest)
        return (spread**2).mean(axis=-1)

    def _spread(self, cells: Cells, largest: float | Array) -> Array:
        top = np.asarray(largest, dtype=np.float64)[..., None]
        decades = np.log10(cells.compute / np.where(top > 0, top, cells.compute))
        return np.hypot(self.belief.noise, self.belief.calibration.spread(decades))

    def _greedy(
        self,
        pool: Cells,
        cost: Array,
        gradients: tuple[Array, Array],
        scale: "_Scale",
        *,
        budget: float,
        most: int,
    ) -> tuple[NextRun, ...]:
        """Rank-one updates of the covariance; a candidate may be chosen once."""
        (J, G), covariance, largest = gradients, self.belief.covariance, self.belief.largest
        noise = max(self.belief.noise, 1e-6) ** 2
        runs: list[NextRun] = []
        spent, left = 0.0, np.ones(len(cost), dtype=bool)
        while len(runs) < most:
            allowed = left & (cost <= budget - spent)
            CJ = covariance @ J.T  # (k, m)
            informed = noise + np.einsum("mk,km->m", J, CJ)
            gain = ((G @ CJ) ** 2).mean(axis=0) / informed
            gain += self._misspecified(largest) - self._misspecified(np.maximum(largest, pool.compute))
            allowed &= gain >= _WORTH * self._variance(G, covariance, largest)
            if not allowed.any():
                break
            i = int(np.argmax(np.where(allowed, gain / cost**COST_POWER, -np.inf)))
            covariance = covariance - np.outer(CJ[:, i], CJ[:, i]) / informed[i]
            largest = max(largest, float(pool.compute[i]))
            spent += float(cost[i])
            left[i] = False
            runs.append(_run(pool, cost, i, spent, scale.expected(self._variance(G, covariance, largest))))
        return tuple(runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """From a variance in ln L to nats and a probability."""

    loss: float
    gain: float | None
    z: float

    def expected(self, variance: Array | float) -> Expected:
        sd = self.loss * float(np.sqrt(max(float(variance), 0.0)))
        chance = None if self.gain is None else NormalDist().cdf(self.gain / max(sd, 1e-12))
        return Expected(half_width=self.z * sd, probability=chance)


def _run(pool: Cells, cost: Array, i: int, spent: float, after: Expected) -> NextRun:
    teacher = float(pool.teacher_loss[i]) if pool.taught[i] else None
    return NextRun(index=i, params=float(pool.params[i]), tokens=float(pool.tokens[i]), teacher_loss=teacher,
                   cost=float(cost[i]), total_cost=spent, after=after)  # fmt: skip


def _cost(table: Mapping[str, ArrayLike], pool: Cells) -> Array:
    """FLOP of each candidate: 6 N D, and 2 N_T D for the teacher's forward pass; or the prices given."""
    if table.get("cost") is not None:
        price = np.broadcast_to(np.asarray(table["cost"], dtype=np.float64), pool.params.shape)
        if not (np.isfinite(price) & (price > 0)).all():
            raise ConfigError("candidates: every cost must be positive and finite")
        return price
    cost = pool.compute
    if table.get("teacher_params") is not None:
        teacher = np.broadcast_to(np.asarray(table["teacher_params"], dtype=np.float64), cost.shape)
        cost = cost + np.where(pool.taught & np.isfinite(teacher), 2 * teacher * pool.tokens, 0.0)
    return cost
