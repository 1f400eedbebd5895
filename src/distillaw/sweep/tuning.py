"""The search for learning rates and batch that precedes every study.

An untuned rate fakes a capacity gap: students that train badly prefer easy teachers. It fakes a gain as well: the best
rate falls with the tokens of a run, faster without a teacher than with one, so a rate that suits both arms at the
smallest budget is wrong for one of them at the largest (docs/rates.md has the table). So each arm has two numbers of
its own, each best among its halves and doubles:

    rate(t) = r 2^i          until the budget of the search, then falling as a power of the tokens t
    fall                     how many halves lower the rate is at the largest budget; power = fall ln 2 / ln(D / D_0)

The rate is searched at the smallest budget D_0, at the smallest and the largest size; the fall at the largest budget D
of one size, that nearest to the target's, in every arm, teachers included (that the exponent does not depend on the
size is what arXiv 2409.19913 found). One trunk then serves all budgets, each cooled from a rate that suits its own
length. The trunk that did best is the grid's, as it is; other sizes and budgets follow a law fitted to all searches of
the arm (laws/rates.py).

The batch is one for the whole study (runs are paired batch by batch): it is chosen on the supervised arm at the largest
budget, and checked, not moved, on the distilled one.

The lattice: point (i, j) has batch B 2^j and rate r 2^i sqrt(2^j) (the square-root rule for Adam), so that
moving along j alone keeps the rate near its optimum. Pure functions of the losses known so far: no clock, no
disk, so a killed search goes on where it was.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from distillaw.laws.rates import LATTICE, UNKNOWN, Lowest, RateLaw, lowest


class LatticePoint(NamedTuple):
    """One place of the lattice."""

    arm: str
    """`supervised`, `distilled` or `teacher`."""
    size: str
    rate: int
    """i: the rate of the search's budget, in doubles of the start's."""
    batch: int
    """j: in doubles of the start's."""
    fall: int
    """Halves by which the rate is lower at the largest budget."""
    is_far: bool = False
    """Whether it is measured at the largest budget instead of the search's."""


Lookup = Callable[[LatticePoint], float | None]
"""Point -> loss; None if not yet measured, inf if the run diverged."""

MOVE = 5e-3
"""The batch moves only for a relative gain above this: at its best rate a long run has the same loss over a factor of
four in batch (docs/rates.md), so of two nearly equal ones the one that was asked for is as good."""
TOLERATED = 2e-3
"""Share of its loss that the best of a lattice may lose to the lowest point of its parabola and serve the grid all the
same: below the margin of a verdict, and what a trunk more would cost is spared."""
FALL_EXPONENT = 0.32
"""Where the search for the fall of arms that learn from text begins: the best rate falls as D^-0.32 in Bjorck et al.
2025 (arXiv 2409.19913)."""


@dataclass(slots=True)
class RateSearch:
    """What a search has found, and which points it still needs."""

    needed: list[LatticePoint] = field(default_factory=list)
    """Points to measure before the search can go on."""
    rate: dict[tuple[str, str], int] = field(default_factory=dict)
    """Best i of each (arm, size)."""
    fall: dict[tuple[str, str], int] = field(default_factory=dict)
    """Best fall of each (arm, size) that was checked at the largest budget."""
    batch: int = 0
    """Best j."""
    lowest: dict[tuple[str, str, str], Lowest] = field(default_factory=dict)
    """(arm, size, `rate` or `fall`) -> where the parabola through the best value and its neighbours is lowest, in
    doubles of the rate from the best value."""
    interior: dict[tuple[str, str, str], bool] = field(default_factory=dict)
    """(arm, size, `rate`, `fall` or `batch`) -> whether the best value was interior."""
    points: dict[LatticePoint, float] = field(default_factory=dict)
    """Every loss the search has looked at."""
    guess: bool = False
    """Take what is not measured to be worse than where the search starts: nothing is needed, and it stays there."""
    rates_known: bool = False
    """Whether rates and falls are decided (on the distilled arm the batch check may still run)."""

    def serves(self, arm: str, size: str) -> bool:
        """Whether the trunk that did best is near enough to the lowest point to serve the grid as it is."""
        losses = [loss for point, loss in self.points.items() if (point.arm, point.size) == (arm, size)]
        tolerated = TOLERATED * min(losses, default=math.inf)
        found = (self.lowest.get((arm, size, what)) for what in ("rate", "fall"))
        return all(one is None or one.excess <= tolerated for one in found)

    def best(self, arm: str, size: str) -> LatticePoint:
        """The point at the largest budget that did best."""
        return LatticePoint(arm, size, self.rate[arm, size], self.batch, self.fall[arm, size], True)

    @property
    def is_done(self) -> bool:
        """Whether nothing more is needed."""
        return not self.needed


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningPlan:
    """What is searched, and how far."""

    sizes: Sequence[str]
    """Smallest and largest student size: where rates are searched."""
    far_sizes: Sequence[str]
    """Those of them that are checked at the largest budget; none where it is the search's own, or not wanted."""
    rounds: int
    """How often each search may move outwards."""
    lowest_batch: int
    """Smallest j (one sequence per step)."""
    batches: bool = True
    """Whether the batch is searched too."""
    far_budget: float = 1.0
    """The largest budget over the search's."""
    guess: bool = False
    """See `RateSearch.guess`."""

    def start_fall(self, arm: str) -> int:
        """Where the search for the fall of an arm begins: the distilled arm's best rate hardly moves."""
        return 0 if arm == "distilled" or not self.far_sizes else first_fall(self.far_budget)


def first_fall(ratio: float) -> int:
    """The fall of `FALL_EXPONENT` over a ratio of budgets, in whole halves."""
    return round(FALL_EXPONENT * math.log2(ratio))


def fall_power(fall: float, ratio: float) -> float:
    """The exponent with which the rate falls by `fall` halves over a ratio of budgets."""
    return fall * math.log(2) / math.log(ratio) if fall else 0.0


def search_supervised(lookup: Lookup, plan: TuningPlan) -> RateSearch:
    """Rates, falls and one batch for all, on the supervised arm."""
    search = RateSearch(guess=plan.guess)
    for _ in range(plan.rounds + 1):
        _search_rates(search, lookup, "supervised", plan)
        _search_falls(search, lookup, "supervised", plan)
        if search.needed or not plan.batches:
            break
        best = _search_batch(search, lookup, "supervised", plan, plan.rounds)
        if search.needed or best == search.batch:
            break
        search.batch = best
        search.rate, search.fall, search.lowest, search.interior = {}, {}, {}, {}
    search.rates_known = search.is_done
    return search


def search_distilled(lookup: Lookup, plan: TuningPlan, *, batch: int) -> RateSearch:
    """Rates and falls on the distilled arm at the study's batch; the batch's neighbours are only checked."""
    search = RateSearch(batch=batch, guess=plan.guess)
    _search_rates(search, lookup, "distilled", plan)
    _search_falls(search, lookup, "distilled", plan)
    search.rates_known = search.is_done
    if search.rates_known and plan.batches:
        _search_batch(search, lookup, "distilled", plan, 0)
    return search


def search_teacher(lookup: Lookup, plan: TuningPlan, size: str, *, batch: int, start: int) -> RateSearch:
    """The fall of teachers, at the largest budget of one of them; their rate is the supervised arm's."""
    search = RateSearch(batch=batch, guess=plan.guess, rate={("teacher", size): 0})
    _search_fall(search, lookup, "teacher", size, start, plan.rounds)
    search.rates_known = search.is_done
    return search


def _search_rates(search: RateSearch, lookup: Lookup, arm: str, plan: TuningPlan) -> None:
    fall = plan.start_fall(arm)  # no rate has begun to fall yet; like this the trunk may serve the grid
    for size in plan.sizes:
        point = lambda i, size=size: LatticePoint(arm, size, i, search.batch, fall)  # noqa: E731
        found = _best(search, lookup, point, 0, plan.rounds)
        if found is not None:
            search.rate[arm, size] = found.value
            search.lowest[arm, size, "rate"] = found.lowest
            search.interior[arm, size, "rate"] = found.is_interior


def _search_falls(search: RateSearch, lookup: Lookup, arm: str, plan: TuningPlan) -> None:
    """Falls of sizes whose rate is decided: others may still search, no core waits for them."""
    for size in plan.far_sizes:
        if (arm, size) in search.rate:
            _search_fall(search, lookup, arm, size, plan.start_fall(arm), plan.rounds)


def _search_fall(search: RateSearch, lookup: Lookup, arm: str, size: str, start: int, rounds: int) -> None:
    rate = search.rate[arm, size]
    point = lambda rise: LatticePoint(arm, size, rate, search.batch, -rise, True)  # noqa: E731
    found = _best(search, lookup, point, -start, rounds)
    if found is not None:
        search.fall[arm, size] = -found.value
        search.lowest[arm, size, "fall"] = found.lowest
        search.interior[arm, size, "fall"] = found.is_interior


class _Best(NamedTuple):
    value: int
    lowest: Lowest
    is_interior: bool


def _best(
    search: RateSearch, lookup: Lookup, point: Callable[[int], LatticePoint], start: int, rounds: int
) -> _Best | None:
    """The best value beside the start, moved outwards while it lies at an end.

    None while points are missing. Where all diverged the lowest is the best: rates rise with the value.
    """
    low, high, best = start - 1, start + 1, start
    for _ in range(rounds + 1):
        losses = _measured(search, lookup, [point(value) for value in range(low, high + 1)], [point(start)])
        if losses is None:
            return None
        best = min(range(low, high + 1), key=lambda value: (losses[value - low], abs(value - start)))
        if not math.isfinite(losses[best - low]):
            best = low
        if low < best < high:
            own = losses[best - low - 1 : best - low + 2]
            is_seen = not search.guess or all(lookup(point(v)) is not None for v in range(best - 1, best + 2))
            found = lowest((-1, 0, 1), own) if is_seen else _UNSEEN
            return _Best(best, found or AT_AN_END, is_interior=True)
        low, high = (low - 1, high) if best == low else (low, high + 1)
    return _Best(best, AT_AN_END, is_interior=False)


def _search_batch(search: RateSearch, lookup: Lookup, arm: str, plan: TuningPlan, rounds: int) -> int:
    """The best j by the mean relative loss over sizes, each at its own best rate and fall."""
    centre, is_far = search.batch, bool(plan.far_sizes)
    sizes = plan.far_sizes or plan.sizes
    low, high = max(centre - 1, plan.lowest_batch), centre + 1
    best = centre

    def column(j: int) -> list[LatticePoint]:
        return [
            LatticePoint(arm, s, search.rate[arm, s], j, search.fall.get((arm, s), 0), is_far) for s in sizes
        ]

    for _ in range(rounds + 1):
        columns = [_measured(search, lookup, column(j), column(centre)) for j in range(low, high + 1)]
        if any(losses is None for losses in columns):
            return best
        values = np.array([np.mean(np.log(losses)) for losses in columns if losses is not None])
        best = low + int(np.argmin(values))
        if not np.isfinite(values.min()) or values[centre - low] - values.min() < MOVE:
            best = centre
        for size in sizes:
            search.interior[arm, size, "batch"] = low < best < high
        if low < best < high or (best == low == plan.lowest_batch):
            return best
        low, high = (max(low - 1, plan.lowest_batch), high) if best == low else (low, high + 1)
    return best


def _measured(
    search: RateSearch, lookup: Lookup, points: Sequence[LatticePoint], start: Sequence[LatticePoint]
) -> list[float] | None:
    """Losses of all points, or None after noting the missing ones as needed; `start` is what a guess stays at."""
    losses = {point: lookup(point) for point in points}
    if search.guess:
        unseen = {point: _UNSEEN_START if point in start else math.inf for point in points}
        losses = {point: unseen[point] if loss is None else loss for point, loss in losses.items()}
    search.points.update({p: loss for p, loss in losses.items() if loss is not None})
    missing = [point for point, loss in losses.items() if loss is None]
    search.needed.extend(point for point in missing if point not in search.needed)
    return None if missing else [loss for loss in losses.values() if loss is not None]


_UNSEEN_START = 1e-9
"""Loss of a start that is not measured, in a guess: better than any other."""
AT_AN_END = Lowest(0.0, UNKNOWN, 0.0, 0.0)
"""Of a best value that has no finite loss on both sides."""
_UNSEEN = Lowest(1e-3, LATTICE, 0.0, 0.0)
"""A guess knows no lowest point, but that it will not be the lattice's: sizes that follow from others have trunks of
their own."""


class TrunkRate(NamedTuple):
    """What a trunk is trained with."""

    peak: float
    """At the search's budget, at width 64."""
    power: float = 0.0
    """Exponent with which it falls with further tokens."""

    def rounded(self) -> "TrunkRate":
        """To four digits, as runs name it."""
        return TrunkRate(float(f"{self.peak:.4g}"), float(f"{self.power:.4g}"))


@dataclass(frozen=True, slots=True)
class OneRate:
    """The same for all sizes and budgets, where nothing is searched."""

    peak: float

    def __call__(self, params: float) -> TrunkRate:
        """The rate at a size."""
        return TrunkRate(self.peak)


@dataclass(frozen=True, slots=True)
class FallingRate:
    """What the searches of an arm say: it falls from `start` tokens on and suits budgets branching at `end`."""

    law: RateLaw
    start: float
    end: float

    def __call__(self, params: float) -> TrunkRate:
        """The rate at a size."""
        peak = 2 ** self.law.chosen(params, self.start)
        if self.end <= self.start:
            return TrunkRate(peak)
        octaves = math.log2(peak) - self.law.chosen(params, self.end)
        return TrunkRate(peak, octaves / math.log2(self.end / self.start))


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRates:
    """Rates of one arm by size."""

    others: OneRate | FallingRate
    """Of a size whose own search does not decide it."""
    exact: Mapping[float, TrunkRate] = field(default_factory=dict)
    """Size -> rate of the trunk that was the best of its search: it serves the grid as it is."""
    smallest_params: float = 0.0
    """The smallest size that was searched."""

    @property
    def smallest(self) -> TrunkRate:
        """Rate at the smallest size that was searched."""
        return self.at(min(self.exact, default=self.smallest_params))

    def at(self, params: float) -> TrunkRate:
        """Rate at a size."""
        return self.exact.get(params) or self.others(params).rounded()
