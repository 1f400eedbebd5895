"""The search for learning rates and batch that precedes every study.

An untuned rate fakes a capacity gap: students that train badly prefer easy teachers. It fakes a gain as well: the best
rate falls with the tokens of a run, faster without a teacher than with one, so a rate that suits both arms at the
smallest budget is wrong for one of them at the largest (docs/rates.md has the table). So every arm has a rate of its
own for every size and budget, constant up to its cooldown.

It is searched among halves and doubles where that is cheap, at the smallest budget for the smallest and the largest
size, and checked at the largest budget of one size, that nearest to the target's; of the smallest and the largest
teacher at their own budgets. What did best is the grid's run, as it is; other sizes and budgets follow a law fitted to
all searches of the arm (laws/rates.py), in steps of `STEP`, so that budgets which want nearly the same share a trunk.

The batch is one for the whole study (runs are paired batch by batch): it is chosen on the supervised arm at the largest
budget, and checked, not moved, on the distilled one.

Students that are cut out of the teacher under test are searched at a mild and at the deepest cut; rates of cuts between
the two lie between theirs (`CutRates`).

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


class SearchPlace(NamedTuple):
    """Where a rate is searched."""

    arm: str
    """`supervised`, `distilled`, `teacher`; of students that are cut `pruned`, `pruned deepest`, `fixed`, each also
    ` alone`."""
    size: str
    is_far: bool = False
    """At the arm's largest budget instead of the search's."""


TAUGHT = ("distilled", "pruned", "pruned deepest", "fixed")
"""Arms with a teacher."""


class LatticePoint(NamedTuple):
    """A rate and a batch at a place."""

    place: SearchPlace
    rate: float
    """i: doubles of the start's, a whole number of `STEP`."""
    batch: int
    """j: in doubles of the start's."""


Lookup = Callable[[LatticePoint], float | None]
"""Point -> loss; None if not yet measured, inf if the run diverged."""

MOVE = 5e-3
"""The batch moves only for a relative gain above this: at its best rate a long run has the same loss over a factor of
four in batch (docs/rates.md), so of two nearly equal ones the one that was asked for is as good."""
TOLERATED = 2e-3
"""Share of its loss that the best of a lattice may lose to the lowest point of its parabola and serve the grid all the
same: below the margin of a verdict, and what a trunk more would cost is spared."""
FALL_EXPONENT = 0.32
"""Where the search at the largest budget begins for arms that learn from text: the best rate falls as D^-0.32 in
Bjorck et al. 2025 (arXiv 2409.19913)."""
STEP = 0.25
"""Octaves between rates that are told apart. An eighth off costs a run 1/64 of what an octave does: at most 0.003 nats
on the steepest curves seen (0.2 per squared octave, docs/rates.md)."""


@dataclass(slots=True)
class RateSearch:
    """What a search has found, and which points it still needs."""

    needed: list[LatticePoint] = field(default_factory=list)
    """Points to measure before the search can go on."""
    rate: dict[SearchPlace, float] = field(default_factory=dict)
    """Best i of each place."""
    batch: int = 0
    """Best j."""
    lowest: dict[SearchPlace, Lowest] = field(default_factory=dict)
    """Where the parabola through the best rate and its neighbours is lowest, in doubles of the best."""
    interior: dict[SearchPlace, bool] = field(default_factory=dict)
    """Whether the best rate lies between worse ones."""
    batch_interior: dict[tuple[str, str], bool] = field(default_factory=dict)
    """(arm, size) -> whether the best batch does."""
    points: dict[LatticePoint, float] = field(default_factory=dict)
    """Every loss the search has looked at."""
    guess: bool = False
    """Take what is not measured to be worse than where the search starts: nothing is needed, and it stays there."""
    rates_known: bool = False
    """Whether rates are decided (on the distilled arm the batch check may still run)."""

    def serves(self, place: SearchPlace) -> bool:
        """Whether the run that did best is near enough to the lowest point to serve the grid as it is."""
        losses = [loss for point, loss in self.points.items() if point.place == place]
        return self.lowest[place].excess <= TOLERATED * min(losses, default=math.inf)

    def best(self, place: SearchPlace) -> LatticePoint:
        """The point that did best at a place."""
        return LatticePoint(place, self.rate[place], self.batch)

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

    def fall(self, arm: str) -> int:
        """Halves by which the rate is expected lower at the largest budget: that of taught students hardly moves."""
        return 0 if arm in TAUGHT else round(FALL_EXPONENT * math.log2(self.far_budget))


def search_supervised(lookup: Lookup, plan: TuningPlan) -> RateSearch:
    """Rates and one batch for all, on the supervised arm."""
    search = RateSearch(guess=plan.guess)
    _search_rates(search, lookup, "supervised", plan)
    for _ in range(plan.rounds + 1):
        if search.needed or not plan.batches:
            break
        best = _search_batch(search, lookup, "supervised", plan, plan.rounds)
        if search.needed or best == search.batch:
            break
        search.batch = best
        # at the rates that follow nobody has looked at this batch's neighbours
        search.batch_interior = dict.fromkeys(search.batch_interior, False)
        search.rate, search.lowest, search.interior = {}, {}, {}
        _search_rates(search, lookup, "supervised", plan)
    search.rates_known = search.is_done
    return search


def search_students(arm: str, lookup: Lookup, plan: TuningPlan, *, batch: int) -> RateSearch:
    """Rates of an arm at the study's batch; the batch's neighbours are only checked, and on the distilled arm alone."""
    search = RateSearch(batch=batch, guess=plan.guess)
    _search_rates(search, lookup, arm, plan)
    search.rates_known = search.is_done
    if search.rates_known and plan.batches and arm == "distilled":
        _search_batch(search, lookup, arm, plan, 0)
    return search


def search_teacher(search: RateSearch, lookup: Lookup, plan: TuningPlan, size: str, *, start: float) -> None:
    """Adds the rate of one teacher at its own largest budget, from where the searches so far expect it."""
    _search_rate(search, lookup, SearchPlace("teacher", size, True), start, plan.rounds)
    search.rates_known = search.is_done


def _search_rates(search: RateSearch, lookup: Lookup, arm: str, plan: TuningPlan) -> None:
    """At the search's budget, and from there at the largest: where one is decided no core waits for others."""
    for size in plan.sizes:
        _search_rate(search, lookup, SearchPlace(arm, size), 0, plan.rounds)
    for size in plan.far_sizes:
        near = search.rate.get(SearchPlace(arm, size))
        if near is not None:
            _search_rate(search, lookup, SearchPlace(arm, size, True), near - plan.fall(arm), plan.rounds)


def _search_rate(search: RateSearch, lookup: Lookup, place: SearchPlace, start: float, rounds: int) -> None:
    """Adds the best rate beside a start, moved outwards while it lies at an end; none while points are missing.

    Where all diverged the lowest is the best: rates rise with the value.
    """

    def point(step: int) -> LatticePoint:
        return LatticePoint(place, start + step, search.batch)

    low, high, best, found, is_interior = -1, 1, 0, AT_AN_END, False
    for _ in range(rounds + 1):
        losses = _measured(search, lookup, [point(value) for value in range(low, high + 1)], [point(0)])
        if losses is None:
            return
        best = min(range(low, high + 1), key=lambda value: (losses[value - low], abs(value)))
        if not math.isfinite(losses[best - low]):
            best = low
        if is_interior := low < best < high:
            is_seen = not search.guess or all(lookup(point(v)) is not None for v in range(best - 1, best + 2))
            parabola = lowest([v - best for v in range(low, high + 1)], losses) if is_seen else _UNSEEN
            found = parabola or AT_AN_END
            break
        low, high = (low - 1, high) if best == low else (low, high + 1)
    search.rate[place], search.lowest[place], search.interior[place] = start + best, found, is_interior


def _search_batch(search: RateSearch, lookup: Lookup, arm: str, plan: TuningPlan, rounds: int) -> int:
    """The best j by the mean relative loss over sizes, each at its own best rate."""
    centre, is_far = search.batch, bool(plan.far_sizes)
    sizes = plan.far_sizes or plan.sizes
    low, high = max(centre - 1, plan.lowest_batch), centre + 1
    best = centre

    def column(j: int) -> list[LatticePoint]:
        places = [SearchPlace(arm, size, is_far) for size in sizes]
        return [LatticePoint(place, search.rate[place], j) for place in places]

    for _ in range(rounds + 1):
        columns = [_measured(search, lookup, column(j), column(centre)) for j in range(low, high + 1)]
        if any(losses is None for losses in columns):
            return best
        values = np.array([np.mean(np.log(losses)) for losses in columns if losses is not None])
        best = low + int(np.argmin(values))
        if not np.isfinite(values.min()) or values[centre - low] - values.min() < MOVE:
            best = centre
        for size in sizes:
            search.batch_interior[arm, size] = low < best < high
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRates:
    """Rates of one arm by size and budget, at width 64."""

    start: float
    """The lattice's rate at the study's batch; without a law the rate of all."""
    law: RateLaw | None = None
    """What all searches of the arm say."""
    near: int = 0
    """The search's budget."""
    far: int = 0
    """The largest budget, where it was checked; else the search's, and all budgets have its rate."""
    exact: Mapping[tuple[float, int], float] = field(default_factory=dict, hash=False)
    """(size, budget) -> rate of the run that was the best of its search: it serves the grid as it is."""

    def at(self, params: float, tokens: int) -> float:
        """Rate of a size at a budget."""
        tokens = tokens if self.far > self.near else self.near
        if (params, tokens) in self.exact or self.law is None:
            return self.exact.get((params, tokens), self.start)
        octaves = self.law.chosen(params, tokens) - math.log2(self.start)
        return float(f"{self.start * 2 ** (STEP * round(octaves / STEP)):.4g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CutRates:
    """Rates of students cut out of one model, between those searched for a milder and for the deepest cut."""

    mild: ArmRates
    deepest: ArmRates
    depth: float
    """How far from the milder (0) to the deepest cut (1), in the logarithm of the model's size."""

    def at(self, params: float, tokens: int) -> float:
        """Rate of a size at a budget, in steps of `STEP` from the milder cut's."""
        mild, deepest = self.mild.at(params, tokens), self.deepest.at(params, tokens)
        if self.depth in (0.0, 1.0):
            return deepest if self.depth else mild
        return float(f"{mild * 2 ** (STEP * round(self.depth * math.log2(deepest / mild) / STEP)):.4g}")


Rates = ArmRates | CutRates
"""What says the rate of a size at a budget."""
