"""Which runs next: the design points that shrink the uncertainty of a target most per FLOP.

Greedy V-optimal design per cost^0.4, linearised at the present fit (or at a guessed law), with a weak prior so that the
first picks are defined. The target is a prediction, or the difference of two (two allocations at equal compute). Its
variance has the three parts of a prediction interval: a run informs the parameters, and one of larger compute shortens
the extrapolation. Whether to distil is not asked of a law but of the runs: settling/propose.py.

    distillaw study next runs.csv --student 7B --tokens 1T --budget 1e21
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import ConfigError
from distillaw.fitting.uncertainty import DesignPoints, LinearBelief, outside
from distillaw.laws.base import Array

COST_POWER = 0.4
"""Price of a FLOP in the greedy score: below 1, because one long run teaches more than many short ones."""
_WORTH = 0.002
"""Share of the target's variance that a run must remove to be proposed at all."""
BUDGETS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Shares of the budget for which the expected interval is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedInterval:
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
    after: ExpectedInterval


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStep:
    """What a budget is expected to buy."""

    budget: float
    spent: float
    num_runs: int
    after: ExpectedInterval


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Proposed runs in order, what the target looks like now, and how it is expected to sharpen with budget."""

    loss: float
    """Predicted loss of the target, nats per token (mean over its points)."""
    gain: float | None
    """Loss of the alternative less that of the target; None without one."""
    level: float
    before: ExpectedInterval
    runs: tuple[NextRun, ...]
    by_budget: tuple[BudgetStep, ...]
    basis: str = ""
    """What stands behind it: the fit and its status, or the guess."""

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return asdict(self)


def propose(
    belief: LinearBelief,
    *,
    target: Mapping[str, ArrayLike],
    candidates: Mapping[str, ArrayLike],
    budget: float,
    against: Mapping[str, ArrayLike] | None = None,
    level: float = 0.9,
    most: int = 40,
    basis: str = "",
) -> Design:
    """Runs that shrink the uncertainty of the target most per cost^0.4, within a budget.

    Args:
        belief: of a usable fit with bootstrap replicates (`FitResult.belief`), or of a guessed law (`guessed_belief`).
        target: params, tokens and (for a distilled student) teacher_loss; with several points their mean
            variance is what shrinks.
        candidates: columns params, tokens, teacher_loss (NaN without a teacher) of the runs that could be made;
            teacher_params adds the teacher's forward pass to the cost; cost replaces the FLOP by prices of
            your own, in the unit of the budget.
        budget: what may be spent: FLOP, 6 N D + 2 N_T D per run, unless the candidates bring their cost.
        against: another allocation, as `target`; what shrinks is then the difference.
        level: coverage of the interval.
        most: runs at most.
        basis: what stands behind the belief, for the answer.

    Raises:
        ConfigError: a coordinate is missing, no candidate is within the budget, or one of target and alternative has a
            teacher and the other none.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level: got {level}; give the coverage as a share between 0 and 1, e.g. 0.9")
    pool = DesignPoints.of(candidates, what="candidates")
    cost = _cost(candidates, pool)
    if not (np.isfinite(budget) and budget > 0) or not (cost <= budget).any():
        raise ConfigError(f"budget: got {budget:.3g}; the cheapest candidate costs {cost.min():.3g}")
    aim = DesignPoints.of(target, what="target")
    alternative = None if against is None else DesignPoints.of(against, what="against")
    if alternative is not None and alternative.taught.any() != aim.taught.any():
        raise ConfigError(
            "against: one has a teacher and the other none. Whether to distil is the verdict: `distillaw study next` "
            "on a study or a table with its teachers, without these options"
        )
    question = _Question(belief, aim, alternative, level)
    J, now = belief.gradient(pool), question.expected(belief.covariance, belief.largest)

    def step(share: float) -> BudgetStep:
        found = question.greedy(pool, cost, J, budget=share * budget, most=most)
        spent, after = (found[-1].total_cost, found[-1].after) if found else (0.0, now)
        return BudgetStep(budget=share * budget, spent=spent, num_runs=len(found), after=after)

    return Design(
        loss=question.loss,
        gain=question.gain,
        level=level,
        before=now,
        runs=question.greedy(pool, cost, J, budget=budget, most=most),
        by_budget=tuple(step(share) for share in BUDGETS if (cost <= share * budget).any()),
        basis=basis,
    )


class _Question:
    """A target under a belief: its gradient, and its variance for any covariance and any reach of the runs."""

    def __init__(self, belief: LinearBelief, target: DesignPoints, against: DesignPoints | None, level: float):
        self._belief, self._target, self._against = belief, target, against
        self._z, self._G = NormalDist().inv_cdf(0.5 + level / 2), belief.gradient(target)
        loss, self.gain = np.exp(belief.log_loss(target)), None
        self.loss = float(loss.mean())
        if against is not None:
            self.gain = float(np.mean(np.exp(belief.log_loss(against)) - loss))
            self._G = self._G - belief.gradient(against)

    def _variance(self, covariance: Array, largest: Array) -> Array:
        """Mean variance of the target in ln L, for one reach of the runs (5,)."""
        return float(np.mean(np.einsum("ti,ij,tj->t", self._G, covariance, self._G))) + self._misspecified(largest)

    def _misspecified(self, largest: Array) -> Array:
        """Noise and misspecification of the target when the runs reach so far, (..., 5) -> (...).

        They move neighbouring predictions together, so two allocations differ by the difference of their spreads.
        """
        spread = self._spread(self._target, largest)
        if self._against is not None:
            spread = spread - self._spread(self._against, largest)
        return (spread**2).mean(axis=-1)

    def _spread(self, cells: DesignPoints, largest: Array) -> Array:
        beyond = outside(cells.extent, largest[..., None, :])
        return np.hypot(self._belief.noise, self._belief.calibration.spread(beyond))

    def expected(self, covariance: Array, largest: Array) -> ExpectedInterval:
        """The interval in nats, and the probability, of that variance."""
        sd = self.loss * float(np.sqrt(max(float(self._variance(covariance, largest)), 0.0)))
        chance = None if self.gain is None else NormalDist().cdf(self.gain / max(sd, 1e-12))
        return ExpectedInterval(half_width=self._z * sd, probability=chance)

    def greedy(self, pool: DesignPoints, cost: Array, J: Array, *, budget: float, most: int) -> tuple[NextRun, ...]:
        """Rank-one updates of the covariance by gradients J of the pool; a candidate may be chosen once."""
        G, covariance, largest = self._G, self._belief.covariance, self._belief.largest
        noise = max(self._belief.noise, 1e-6) ** 2
        runs: list[NextRun] = []
        spent, left = 0.0, np.ones(len(cost), dtype=bool)
        while len(runs) < most:
            allowed = left & (cost <= budget - spent)
            CJ = covariance @ J.T  # (k, m)
            informed = noise + np.einsum("mk,km->m", J, CJ)
            gain = ((G @ CJ) ** 2).mean(axis=0) / informed
            gain += self._misspecified(largest) - self._misspecified(np.fmax(largest, pool.extent))
            allowed &= gain >= _WORTH * self._variance(covariance, largest)
            if not allowed.any():
                break
            i = int(np.argmax(np.where(allowed, gain / cost**COST_POWER, -np.inf)))
            covariance = covariance - np.outer(CJ[:, i], CJ[:, i]) / informed[i]
            largest = np.fmax(largest, pool.extent[i])
            spent += float(cost[i])
            left[i] = False
            run = NextRun(
                index=i,
                params=float(pool.params[i]),
                tokens=float(pool.tokens[i]),
                teacher_loss=float(pool.teacher_loss[i]) if pool.taught[i] else None,
                cost=float(cost[i]),
                total_cost=spent,
                after=self.expected(covariance, largest),
            )
            runs.append(run)
        return tuple(runs)


def _cost(table: Mapping[str, ArrayLike], pool: DesignPoints) -> Array:
    """FLOP of each candidate: 6 N D, and 2 N_T D for the teacher's forward pass; or the prices given."""
    if table.get("cost") is not None:
        price = np.broadcast_to(np.asarray(table["cost"], dtype=np.float64), pool.params.shape)
        if not (np.isfinite(price) & (price > 0)).all():
            raise ConfigError("candidates: every cost must be positive and finite")
        return price
    cost = pool.extent[:, 0]
    if table.get("teacher_params") is not None:
        teacher = np.broadcast_to(np.asarray(table["teacher_params"], dtype=np.float64), cost.shape)
        cost = cost + np.where(pool.taught & np.isfinite(teacher), 2 * teacher * pool.tokens, 0.0)
    return cost


def candidate_grid(
    fitted: Mapping[str, tuple[float, float]],
    *,
    target: Sequence[DesignPoints],
    budget: float,
    teachers: Sequence[tuple[float, float | None]] = (),
) -> dict[str, NDArray]:
    """Runs one could make: sizes and tokens in factors of two from the smallest run to the target, all teachers.

    Args:
        fitted: range of the runs made, {coordinate: (lowest, highest)} as in `FitResult.fitted_range`.
        target: the target and the alternative.
        budget: cells above ten times it are left out.
        teachers: (loss, size or None) of each teacher; without any, runs without a teacher alone.
    """
    low, high = {}, {}
    for name in ("params", "tokens"):
        asked = np.concatenate([getattr(cells, name) for cells in target])
        made = fitted.get(f"student_{name}", fitted.get(name, (asked.min() / 64, asked.max() / 8)))
        low[name], high[name] = min(made[0], asked.min()), max(made[1], asked.max())
    ratio = fitted.get("tokens_per_param", (5.0, 100.0))
    ratios = np.concatenate([cells.tokens / cells.params for cells in target])
    N, D = (v.ravel() for v in np.meshgrid(*(_doublings(low[k], high[k]) for k in ("params", "tokens"))))
    keep = (D / N >= min(ratio[0], ratios.min()) / 2) & (D / N <= 2 * max(ratio[1], ratios.max()))
    keep &= 6 * N * D <= BUDGETS[-1] * budget
    if not keep.any():
        raise ConfigError(
            f"budget: {budget:.3g} FLOP buys none of the candidate runs; the cheapest costs {(6 * N * D).min():.3g}"
        )
    arms = [(np.nan, None), *teachers]
    losses, sizes = zip(*((loss, np.nan if size is None else size) for loss, size in arms), strict=True)
    return {
        "params": np.tile(N[keep], len(arms)),
        "tokens": np.tile(D[keep], len(arms)),
        "teacher_loss": np.repeat(losses, keep.sum()),
        "teacher_params": np.repeat(sizes, keep.sum()),
    }


def _doublings(low: float, high: float) -> Array:
    """Factors of two from low up to high, to two digits as people write them."""
    steps = low * 2.0 ** np.arange(int(np.floor(np.log2(high / low) + 1e-9)) + 1)
    return np.unique([float(f"{value:.2g}") for value in (*steps, high)])
