"""How much of an arm's loss may be its rate's fault: runs at other rates say where the best one lies, and how steep.

    excess = c x^2,   x ~ N(m, v): octaves from the best rate up to the run's,
    E[excess^2] = c^2 (m^4 + 6 m^2 v + 3 v^2)

Where rates on both sides were tried, a parabola tells c and the best rate. From there to the size and the budget that
are asked about, it moves in straight lines over log size and log tokens, with priors on their slopes:

    log2 best(N, D) = a + b n - q d + i n d,   n = log2 N / N_asked,   d = log2 D / D_asked,   a is what is asked

What a rate is thought to cost widens a gain and does not move it: in simulated studies that was no better where rates
were checked, and worse where they were not (docs/rates.md).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.planning.gains import ASSUMED_SEED_SD
from distillaw.planning.record import Run, StudyRecord

LATTICE = 12**-0.5
"""Standard deviation, octaves, of the best rate around the best of a lattice of halves: uniform within half a step.
The parabola sharpens it; where no other rates were tried the smallest budget is taken to have been searched so."""
DRIFT = {"alone": (0.32, 0.3), "taught": (0.2, 0.15)}
"""Prior mean and standard deviation of q. Bjorck et al. 2025 (arXiv 2409.19913) have 0.32. Here alone: 0.17 and 0.22 in
the open study, 0.25 and more on technical documents, 1.2 in a study of 6k to 24k tokens; taught: 0.09 (twice), 0.25
(twice) and 0.34 there (docs/rates.md)."""
BY_SIZE = 0.16
"""Prior standard deviation of b: -0.32 to -0.02 per doubling of size in six pairs of sizes of the open and the pocket
study, rms 0.16."""
BY_BOTH = 0.05
"""Prior standard deviation of i: lone students 1.9 doublings of size apart have q 0.05 apart in the open study, with an
error of 0.1. The paper above finds one q for all sizes."""
STEEPNESS = {"alone": 0.15, "taught": 0.02}
"""c where no run shows it, nats per squared octave. Alone 0.03 to 0.05 at the budgets of searches, 0.09 and 0.10 at
four times them (open and pocket study); with the drift above 0.15 makes what lone students lost at 6 to 16 times the
budget of their search, 0.08, 0.31, 0.38 and 0.67 nats, one standard deviation (rms). Taught 0.06, beyond 0.016."""
NEAR = 1.3
"""Octaves from the lowest loss within which a parabola is drawn: the next point of a lattice of halves, not a cliff."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """Rates on both sides of the best one, at one size and budget."""

    params: int
    tokens: int
    best: float
    """log2 of the best rate."""
    sd: float
    """Its standard deviation, octaves."""
    steepness: float
    """Root mean square of c, nats per squared octave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateDoubt:
    """What is not known of the rate of one arm."""

    params: int
    rates: Mapping[int, float]
    """log2 of the arm's own rate by budget."""
    brackets: Sequence[Bracket]
    drift: tuple[float, float]
    usual: float
    """c where nobody looked."""

    @property
    def is_checked(self) -> bool:
        """Whether rates on both sides were tried at any budget."""
        return bool(self.brackets)

    @property
    def checked(self) -> float:
        """Largest budget at which they were; else the arm's smallest."""
        return float(max((b.tokens for b in self.brackets), default=min(self.rates)))

    def reaches(self, tokens: float) -> bool:
        """Whether the rate was checked at less than a doubling from this budget."""
        return self.is_checked and tokens < 2 * self.checked

    def at(self, tokens: float) -> float:
        """Root mean square of what the rate may cost at a budget, nats/token."""
        m, v = self.octaves(tokens)
        return self.steepness(tokens) * math.sqrt(m**4 + 6 * m**2 * v + 3 * v**2)

    def steepness(self, tokens: float) -> float:
        """Root mean square of c: as measured at the largest budget checked, beyond it no less than usual."""
        found = [b.steepness for b in self.brackets if b.tokens == self.checked]
        if not found:
            return self.usual
        mean = float(np.mean(found))
        return mean if self.reaches(tokens) else max(mean, self.usual)

    def octaves(self, tokens: float) -> tuple[float, float]:
        """Mean and variance of the octaves from the best rate up to the arm's own."""
        searched = min(self.rates)
        places = [(b.params, b.tokens, b.best, b.sd) for b in self.brackets] or [
            (self.params, searched, self.rates[searched], LATTICE)
        ]
        params, budgets, best, sd = np.array(places).T
        n, d = np.log2(params / self.params), np.log2(budgets / tokens)
        q, q_sd = self.drift
        design = np.stack([np.ones_like(n), n, d, n * d], axis=1)
        prior = np.diag(np.array([np.inf, BY_SIZE, q_sd, BY_BOTH]) ** -2.0)
        cov = np.linalg.inv(design.T @ (design / sd[:, None] ** 2) + prior)
        mean = cov @ design.T @ ((best + q * d) / sd**2)
        return self._own(tokens) - float(mean[0]), float(cov[0, 0])

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
    kind = "taught" if is_taught else "alone"
    return RateDoubt(
        params=own[0].params, drift=DRIFT[kind], usual=STEEPNESS[kind],
        rates={tokens: math.log2(seeds[min(seeds)].branch_lr) for tokens, seeds in budgets.items()},
        brackets=[b for runs in _curves(record, is_taught=is_taught) if (b := _bracket(runs)) is not None],
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


def _bracket(runs: Sequence[Run]) -> Bracket | None:
    """The parabola around the lowest loss; None unless rates half an octave away or more lie on either side of it."""
    lowest = min(runs, key=lambda run: run.loss)
    x = np.array([math.log2(run.branch_lr / lowest.branch_lr) for run in runs])
    near = np.abs(x) < NEAR
    if not (x[near].min() <= -0.5 and x[near].max() >= 0.5):
        return None
    design = np.stack([x[near] ** 2, x[near], np.ones(near.sum())], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    y = np.array([run.loss for run in runs])[near]
    c, slope, _ = inverse @ design.T @ y
    noise = (ASSUMED_SEED_SD * lowest.loss) ** 2
    c2 = max(c, 0.0) ** 2 + noise * inverse[0, 0]
    # the vertex is -slope / 2c; a flat one says nothing beyond the lattice
    vertex, var = 0.0, math.inf
    if c > 0:
        vertex = float(np.clip(-slope / (2 * c), -1.0, 1.0))
        jacobian = np.array([-vertex / c, -1 / (2 * c)])
        var = float(jacobian @ inverse[:2, :2] @ jacobian) * noise
    kept = 1 / (1 + var / LATTICE**2)
    return Bracket(
        params=lowest.params, tokens=lowest.tokens, best=math.log2(lowest.branch_lr) + kept * vertex,
        sd=LATTICE * math.sqrt(1 - kept), steepness=math.sqrt(c2),
    )  # fmt: skip
