"""How much of an arm's loss may be its rate's fault: runs at other rates say where the best one lies, and how steep.

    excess = c x^2,   x ~ N(m, v): octaves from the best rate up to the run's,
    E[excess^2] = c^2 (m^4 + 6 m^2 v + 3 v^2)

Where rates on both sides were tried, a parabola tells c and the best rate; from there to the size and the budget that
are asked about goes the law of laws/rates.py.

What a rate is thought to cost widens a gain and does not move it: in simulated studies that was no better where rates
were checked, and worse where they were not (docs/rates.md).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.laws.rates import LATTICE, Optimum, excess, fit_rate_law, lowest
from distillaw.runs.record import Run, StudyRecord

STEEPNESS = {"alone": 0.15, "taught": 0.02}
"""c where no run shows it, nats per squared octave. Alone 0.03 to 0.05 at the budgets of searches, 0.09 and 0.10 at
four times them (open and pocket study); with the drift above 0.15 makes what lone students lost at 6 to 16 times the
budget of their search, 0.08, 0.31, 0.38 and 0.67 nats, one standard deviation (rms). Taught 0.06, beyond 0.016."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateDoubt:
    """What is not known of the rate of one arm."""

    params: int
    rates: Mapping[int, float]
    """log2 of the arm's own rate by budget."""
    brackets: Sequence[tuple[Optimum, float]]
    """Where rates on both sides were tried: the best one, and c."""
    kind: str
    """`alone` or `taught`."""
    curves: Mapping[int, Sequence[tuple[Sequence[float], Sequence[float]]]]
    """Budget -> (log2 of the rates, losses) of runs of the arm's own size that differ in the rate alone."""

    @property
    def is_checked(self) -> bool:
        """Whether rates on both sides were tried at any budget."""
        return bool(self.brackets)

    @property
    def checked(self) -> float:
        """Largest budget at which they were; else the arm's smallest."""
        return max((one.tokens for one, _ in self.brackets), default=float(min(self.rates)))

    def reaches(self, tokens: float) -> bool:
        """Whether the rate was checked at less than a doubling from this budget."""
        return self.is_checked and tokens < 2 * self.checked

    def at(self, tokens: float) -> float:
        """Root mean square of what the rate may cost at a budget, nats/token."""
        m, v = self.octaves(tokens)
        foreseen = self.steepness(tokens) * math.sqrt(m**4 + 6 * m**2 * v + 3 * v**2)
        tried = self.curves.get(int(tokens), ())
        return min([foreseen, *(excess(octaves, losses, self._own(tokens)) for octaves, losses in tried)])

    def steepness(self, tokens: float) -> float:
        """Root mean square of c: as measured at the largest budget checked, beyond it no less than usual."""
        found, usual = [c for one, c in self.brackets if one.tokens == self.checked], STEEPNESS[self.kind]
        if not found:
            return usual
        mean = float(np.mean(found))
        return mean if self.reaches(tokens) else max(mean, usual)

    def octaves(self, tokens: float) -> tuple[float, float]:
        """Mean and variance of the octaves from the best rate up to the arm's own."""
        searched = min(self.rates)
        start = Optimum(params=self.params, tokens=searched, octaves=self.rates[searched], sd=LATTICE)
        found = [one for one, _ in self.brackets] or [start]
        arm = "taught" if self.kind == "taught" else "text"
        mean, sd = fit_rate_law(found, arm=arm, params=self.params, tokens=tokens).octaves(
            self.params, tokens
        )
        return self._own(tokens) - mean, sd**2

    def _own(self, tokens: float) -> float:
        """log2 of the arm's rate at a budget, on the straight line of the two nearest where it was not run."""
        budgets = sorted(self.rates)
        if len(budgets) == 1 or tokens in self.rates:
            return self.rates.get(int(tokens), self.rates[budgets[-1]])
        high = min(max(int(np.searchsorted(budgets, tokens)), 1), len(budgets) - 1)
        low, up = budgets[high - 1], budgets[high]
        share = math.log(tokens / low) / math.log(up / low)
        return (1 - share) * self.rates[low] + share * self.rates[up]


def rate_doubt(
    record: StudyRecord, budgets: Mapping[int, Mapping[int, Run]], *, is_taught: bool
) -> RateDoubt | None:
    """What is not known of the rates of an arm; None where its runs do not say their rates.

    Args:
        record: all runs, those of searches and controls included.
        budgets: the arm's own runs: tokens -> seed -> run.
        is_taught: whether it has a teacher; students of any teacher then speak for it.
    """
    own = [run for seeds in budgets.values() for run in seeds.values()]
    if not all(run.branch_lr > 0 for run in own):
        return None
    kind, found = "taught" if is_taught else "alone", _curves(record, is_taught=is_taught)
    curves: dict[int, list[tuple[list[float], list[float]]]] = {}
    for runs in found:
        if runs[0].params == own[0].params:
            curve = [math.log2(run.branch_lr) for run in runs], [run.loss for run in runs]
            curves.setdefault(int(runs[0].tokens), []).append(curve)
    return RateDoubt(
        params=own[0].params, kind=kind,
        rates={tokens: math.log2(seeds[min(seeds)].branch_lr) for tokens, seeds in budgets.items()},
        brackets=[b for runs in found if (b := _bracket(runs)) is not None], curves=curves,
    )  # fmt: skip


def _curves(record: StudyRecord, *, is_taught: bool) -> list[list[Run]]:
    """Runs that differ in nothing but their rate, one of the grid among them, one seed each."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in record.runs:
        if run.row.get("role") == "student" and bool(run.teacher_run) == is_taught and run.branch_lr > 0:
            key = run.params, run.tokens, run.teacher_run, run.seed, *run.recipe
            groups.setdefault(key, []).append(run)
    grid = {run.run_id for run in record.students}
    return [runs for runs in groups.values() if any(run.run_id in grid for run in runs)]


def _bracket(runs: Sequence[Run]) -> tuple[Optimum, float] | None:
    """The best rate and c; None unless rates on both sides were tried."""
    found = lowest([math.log2(run.branch_lr) for run in runs], [run.loss for run in runs])
    if found is None:
        return None
    one = Optimum(params=runs[0].params, tokens=runs[0].tokens, octaves=found.octaves, sd=found.sd)
    return one, found.steepness
