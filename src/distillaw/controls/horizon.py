"""Does the rate tuned at one token count serve all of them? And are there enough steps at the smallest?

The best rate falls with the horizon. A trunk keeps one rate for all its branches, so its longest branches may be worse
than they could be, and its law's token exponent too flat. Runs at other rates say by how much: at the largest token
count they must be made for it, at the smallest the search has often made them already.

    slope = -d ln L / d ln D of the grid
    tilt = (e_large / L_large - e_small / L_small) / (slope ln(D_large / D_small))

with e the loss that the best other rate saves. A slope of ln L that is off by this share is an exponent of what is
reducible that is off by the same share, to first order.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.controls.control import About, Control, Status, worst
from distillaw.controls.study_runs import Difference, Place, StudyRuns
from distillaw.planning.record import Run, budget_text

HORIZON = About(
    name="horizon",
    guards="the best rate falls with the horizon, so one rate for all branches of a trunk can tilt the token exponent",
    remedy="add [[cells]] with rates = [0.5, 2.0] at the smallest and largest tokens of one size, alone and from a "
    "teacher; where it failed, give the long budgets trunks of their own at the better rate",
)  # fmt: skip
STEPS = About(
    name="steps",
    guards="short runs are dominated by warm-up and cooldown, and batches by their noise: they are another regime",
    remedy="a smaller batch_tokens, or more tokens in the smallest budget",
)
TILT = 0.1
"""Share of the slope by which one rate for all horizons may tilt it."""
LEAST_STEPS = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """What another rate saves at one place."""

    place: Place
    loss: float
    """Of the grid's branch, nats/token."""
    best: float
    """The other rate that did best, as a multiple of the grid's."""
    tried: tuple[float, ...]
    difference: Difference
    """Branch minus the best other rate; positive where the branch loses."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Interval of the excess, never negative: where no rate beats the branch nothing is lost."""
        low, high = self.difference.interval()
        return max(low, 0.0), max(high, 0.0)

    @property
    def brackets(self) -> bool:
        """Whether rates on both sides of the grid's were tried."""
        return min(self.tried) < 1 < max(self.tried)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tilt:
    """What that does to the token axis of one arm of one size."""

    place: Place
    """At the largest token count with other rates."""
    is_whole: bool
    """Whether these are the smallest and the largest token count of the arm."""
    slope: float
    low: float
    high: float
    """Bounds of the tilt as a share of the slope."""

    @property
    def status(self) -> Status:
        """Whether it is surely small, or surely not."""
        if -TILT <= self.low and self.high <= TILT:
            return "passed"
        return "failed" if self.low > TILT or self.high < -TILT else "undecided"


def check_steps(runs: StudyRuns) -> Control:
    """At least 800 optimiser steps at the smallest token count."""
    steps = {run.run_id: _steps(run) for run in runs.record.students}
    known = {run_id: n for run_id, n in steps.items() if math.isfinite(n)}
    if not known:
        return STEPS.control("not done", "the table says neither steps nor batch")
    least = min(known.values())
    return STEPS.control("passed" if least >= LEAST_STEPS else "failed",
                         f"{least:,.0f} steps in the shortest run; {LEAST_STEPS} are wanted", least=least)  # fmt: skip


def _steps(run: Run) -> float:
    steps = run.number("steps")
    return steps if math.isfinite(steps) else run.tokens / run.number("batch_tokens")


def check_horizon(runs: StudyRuns) -> Control:
    """Other rates at the smallest and the largest token count do not beat the branches by what tilts the exponent."""
    found = {place: _excess(runs, place, by_rate) for place, by_rate in runs.variants("peak_lr").items()}
    excesses = {place: one for place, one in found.items() if one is not None}
    tilts = _tilts(runs, excesses)
    numbers = {
        "excess": [_excess_numbers(runs, one) for one in excesses.values()],
        "tilt": [_tilt_numbers(runs, tilt) for tilt in tilts],
    }
    seen = [_tilt_words(runs, tilts)] if tilts else []
    seen += [_worst_excess(runs, excesses)] if excesses else []
    lacking = _lacking(runs, excesses, tilts)
    if lacking and all(tilt.status != "failed" for tilt in tilts):
        return HORIZON.control("not done", "; ".join([f"no runs at other rates {lacking}", *seen]), **numbers)
    return HORIZON.control(worst(tilt.status for tilt in tilts), "; ".join(seen), **numbers)


def _tilt_words(runs: StudyRuns, tilts: Sequence[Tilt]) -> str:
    """The arm whose slope may be off most."""
    tilt = max(tilts, key=lambda one: max(abs(one.low), abs(one.high)))
    upto = "" if tilt.is_whole else f" up to {budget_text(tilt.place[1])}"
    return (
        f"the token slope of {runs.place_name(tilt.place).split(' on ')[0]}{upto} is off by {100 * tilt.low:.0f} to "
        f"{100 * tilt.high:.0f} % (limit {100 * TILT:.0f} %)"
    )


def _tilt_numbers(runs: StudyRuns, tilt: Tilt) -> dict[str, object]:
    return {"arm": runs.place_name(tilt.place), "whole": tilt.is_whole, "slope": tilt.slope, "low": tilt.low,
            "high": tilt.high}  # fmt: skip


def _excess(runs: StudyRuns, place: Place, by_rate: Mapping[float, Mapping[int, Run]]) -> Excess | None:
    branch = runs.grid[place]
    differences = {rate: runs.difference(branch, seeds) for rate, seeds in by_rate.items()}
    known = {rate: d for rate, d in differences.items() if d is not None}
    if not known:
        return None
    own = next(iter(branch.values())).number("peak_lr")
    best = max(known, key=lambda rate: known[rate].mean)
    return Excess(place=place, loss=float(np.mean([run.loss for run in branch.values()])), best=best / own,
                  tried=tuple(rate / own for rate in known), difference=known[best])  # fmt: skip


def _tilts(runs: StudyRuns, excesses: Mapping[Place, Excess]) -> list[Tilt]:
    """Of every arm of a size that has other rates at two token counts, over these."""
    found = []
    for params, teacher in sorted({(n, t) for n, _, t in excesses}):
        known = [d for n, d, t in excesses if (n, t) == (params, teacher) and excesses[n, d, t].brackets]
        small, large = min(known, default=0), max(known, default=0)
        if small == large:
            continue
        first, last = excesses[params, small, teacher], excesses[params, large, teacher]
        if last.loss >= first.loss:  # more tokens do not help: there is no slope to tilt
            continue
        span = math.log(large / small)
        slope = math.log(first.loss / last.loss) / span
        low, high = (
            last.bounds[i] / last.loss - first.bounds[1 - i] / first.loss for i in (0, 1)
        )  # interval arithmetic: the two ends are not independent
        ends = sorted((low / (slope * span), high / (slope * span)))
        is_whole = (small, large) == _ends(runs, params, teacher)
        found.append(Tilt(place=last.place, is_whole=is_whole, slope=slope, low=ends[0], high=ends[1]))
    return found


def _ends(runs: StudyRuns, params: int, teacher: str) -> tuple[int, int]:
    tokens = [d for n, d, t in runs.grid if (n, t) == (params, teacher)]
    return min(tokens), max(tokens)


def _lacking(runs: StudyRuns, excesses: Mapping[Place, Excess], tilts: Sequence[Tilt]) -> str:
    """What is not covered, in words; empty where each arm has a size with both ends."""
    parts = []
    for name, is_taught in (("alone", False), ("from a teacher", True)):
        exists = any(bool(teacher) == is_taught for _, _, teacher in runs.grid)
        if not exists or any(tilt.is_whole and bool(tilt.place[2]) == is_taught for tilt in tilts):
            continue
        ends = {"smallest": False, "largest": False}
        for (params, tokens, teacher), one in excesses.items():
            small, large = _ends(runs, params, teacher)
            if bool(teacher) == is_taught and one.brackets:
                ends["smallest"] |= tokens == small
                ends["largest"] |= tokens == large
        missing = [end for end, is_there in ends.items() if not is_there]
        where = " and ".join(missing) if missing else "smallest and largest of one size's"
        parts.append(f"at the {where} tokens {name}")
    return ", nor ".join(parts)


def _worst_excess(runs: StudyRuns, excesses: Mapping[Place, Excess]) -> str:
    """Where another rate saves most, in words."""
    one = max(excesses.values(), key=lambda e: e.difference.mean / e.loss)
    where, saved = runs.place_name(one.place), one.difference.mean
    if saved <= 0:
        return f"no other rate beats a branch (nearest: {where}, by {saved:.3f} nats)"
    low, high = one.difference.interval()
    largest = _ends(runs, one.place[0], one.place[2])[1]
    short = "" if one.place[1] == largest else f" (of {budget_text(largest)})"
    unpaired = "" if one.difference.is_paired else " (unpaired)"
    saving = f"{saved:.3f} [{low:.3f}, {high:.3f}] nats{unpaired}"
    return f"most lost: {where}{short}, where x{one.best:g} is better by {saving}"


def _excess_numbers(runs: StudyRuns, one: Excess) -> dict[str, object]:
    return {"where": runs.place_name(one.place), "loss": one.loss, "best_multiple": one.best,
            "tried": list(one.tried), "branch_minus_best": one.difference.to_json()}  # fmt: skip
