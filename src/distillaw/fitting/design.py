"""Which runs next: the design points that shrink the uncertainty of a target most per FLOP.

Greedy V-optimal design per cost^0.4, linearised at the present fit (or at a guessed law), with a weak prior so that the
first picks are defined. The target is a prediction, or the difference of two (two allocations at equal compute). Its
variance has the three parts of a prediction interval: a run informs the parameters, and one of larger compute shortens
the extrapolation. Whether to distil is not asked of a law but of the runs: settling/propose.py. A table is fitted, a
fit is taken as it is, and where the runs carry no law a published one is the guess, informed by the runs so far.

    distillaw study next runs.csv --student 7B --tokens 1T --budget 1e21
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import ConfigError, FitError
from distillaw.fitting.api import fit
from distillaw.fitting.observations import Observations, observe
from distillaw.fitting.query import load_law, refuse_mixed
from distillaw.fitting.result import FitResult
from distillaw.fitting.uncertainty import DesignPoints, LinearBelief, guessed_belief, guessed_curve, outside, scaled_to
from distillaw.laws.base import Array
from distillaw.laws.published import PublishedLaw, laws_available, published
from distillaw.runs.table import naming, read_table

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


NOISE = 0.003
"""Spread of one run in ln L that a guess assumes: 0.3 % of the loss."""
MOST_TEACHERS = 6
"""Teachers offered to a design at most: the best, the worst and evenly between; a sixth tells two breaks apart."""
_RATIOS = (0.7, 0.8, 0.9, 1.0)
"""Teacher's loss over the student's own, where no teacher is known: the range that shows c0, kappa and f1."""


def next_runs(
    source: FitResult | Mapping[str, ArrayLike] | str | Path,
    *,
    target: Mapping[str, ArrayLike],
    budget: float,
    against: Mapping[str, ArrayLike] | None = None,
    candidates: Mapping[str, ArrayLike] | None = None,
    guess: str | None = None,
    noise: float = NOISE,
    family: str | None = None,
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    where: Mapping[str, str] | None = None,
    unit: str | None = None,
    params_convention: str | None = None,
    bootstrap: int = 400,
    level: float | None = None,
    most: int = 40,
) -> Design:
    """The runs that shrink a target's uncertainty most per FLOP, and what each budget is expected to buy.

    Args:
        source: runs (columns in memory, a CSV, Parquet or JSON lines file, a study folder), a fitted law (a
            FitResult or its JSON file), or the name of a published law as a guess without runs.
        target: params, tokens and, for a distilled student, teacher_loss (and teacher_params) of the prediction.
        budget: FLOP, or the unit of the candidates' own cost.
        against: another allocation, with a teacher where the target has one: what shrinks is the difference.
        candidates: runs that could be made (`design.propose`); by default sizes and tokens in factors of two
            from the smallest run to the target, with every teacher of the runs.
        guess: published law to design from where the runs do not carry a law.
        noise: spread of one run's ln loss that the guess assumes.
        family: law to fit to a table; by default supervised, or distillation-reduced for a distilled target.
        columns: as in `fit`, like the next five.
        group: column that names the independent run.
        where: {column: value}, to learn from some rows only.
        unit: of the losses.
        params_convention: of the params column and of the target.
        bootstrap: replicates of the fit.
        level: coverage of the interval; None: that of the fitted law, 0.9 where there is none.
        most: runs proposed at most.

    Raises:
        FitError: the runs carry no law, and no guess was given.
        ConfigError: the question is incomplete, or the budget buys nothing.
        DataError: the table cannot be used, or a law's file is not there.
        UnitError: the law counts other parameters than the question.
    """
    guessed = None if guess is None else load_law(guess)
    if isinstance(guessed, FitResult):
        raise ConfigError(f"guess: {guess!r} is a fitted law; give that file as the source instead")
    points = [DesignPoints.of(target, what="target")]
    points += [] if against is None else [DesignPoints.of(against, what="against")]
    taught = any(each.taught.any() for each in points)
    law = rows = None
    if isinstance(source, str) and source in laws_available():
        guessed = published(source)
    elif isinstance(source, FitResult) or (isinstance(source, str | Path) and Path(source).suffix == ".json"):
        law = source if isinstance(source, FitResult) else FitResult.load(source)
        refuse_mixed("the law", law, params_convention or "non-embedding")
    else:
        table = read_table(source) if isinstance(source, str | Path) else source
        options = {"columns": columns, "group": group, "unit": unit, "params_convention": params_convention}
        with naming(source):
            rows = observe(table, where=where, **options)
        family = family or ("distillation-reduced" if taught else "supervised")
        law = fit(table, family=family, bootstrap=bootstrap, level=level or 0.9, where=where, **options)
        if not law.is_usable and guessed is None:
            raise FitError(
                f"next runs: {law.family} is {law.status.name}. {law.remedy} To design from a published law and the "
                f"runs so far, add --guess NAME, e.g. --guess surrogate-s2 (`distillaw laws` lists them)"
            )
    teachers: Teachers = [] if rows is None else _teachers(rows)
    if law is not None and (rows is None or law.is_usable):
        belief, ranges = law.belief(), law.fitted_range.as_dict()
        basis = f"{law.family}: {law.status.name}, {law.nobs} rows in {law.ngroups} independent runs"
        losses = np.linspace(*ranges["teacher_loss"], MOST_TEACHERS) if "teacher_loss" in ranges else ()
        teachers = [(float(loss), None) for loss in losses] if rows is None else teachers
    else:
        assert guessed is not None
        belief, basis = _guess(guessed, rows, points[0], noise, taught)
        ranges = {} if rows is None else rows.box().as_dict()
        own = np.exp(belief.log_loss(replace(points[0], teacher_loss=np.full(len(points[0]), np.nan))))
        teachers = teachers or [(float(own.mean() * ratio), None) for ratio in _RATIOS]
    if candidates is None:
        teachers = _with(teachers, target) if taught else []
        candidates = candidate_grid(ranges, target=points, budget=budget, teachers=teachers)
    return propose(
        belief,
        target=target,
        candidates=candidates,
        budget=budget,
        against=against,
        level=level or (0.9 if law is None else law.level),
        most=most,
        basis=basis,
    )


def _guess(
    law: PublishedLaw, rows: Observations | None, around: DesignPoints, noise: float, taught: bool
) -> tuple[LinearBelief, str]:
    """A published law in the user's own losses, informed by the runs made, and what to call it."""
    label = f"guessed from {law.name}, noise {100 * noise:.2g} %"
    if rows is None:
        return guessed_belief(guessed_curve(law, around=around, taught=taught), noise=noise), label
    made = DesignPoints(params=rows.params, tokens=rows.tokens, teacher_loss=rows.teacher_loss)
    curve = scaled_to(guessed_curve(law, around=made, taught=taught), made, rows.loss)
    made = made if taught else made.rows(~made.taught)
    label += f", moved to the level of the runs and informed by {len(made)} of them"
    return guessed_belief(curve, noise=noise, runs=made), label


Teachers = list[tuple[float, float | None]]
"""(loss, size or None) of each."""


def _teachers(rows: Observations) -> Teachers:
    """Some teachers of the runs, from best to worst."""
    taught = np.isfinite(rows.teacher_loss)
    pairs = np.unique(np.column_stack([rows.teacher_loss, np.nan_to_num(rows.teacher_params)])[taught], axis=0)
    picked = np.unique(np.linspace(0, max(len(pairs) - 1, 0), MOST_TEACHERS).round().astype(int))
    return [(float(loss), float(size) or None) for loss, size in (pairs[picked] if len(pairs) else pairs)]


def _with(teachers: Teachers, target: Mapping[str, ArrayLike]) -> Teachers:
    """The teachers and the target's own."""
    loss, size = target.get("teacher_loss"), target.get("teacher_params")
    if loss is None or np.ndim(loss) or any(abs(known / float(loss) - 1) < 1e-9 for known, _ in teachers):  # type: ignore[arg-type]
        return teachers
    return [*teachers, (float(loss), None if size is None else float(size))]  # type: ignore[arg-type]


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
