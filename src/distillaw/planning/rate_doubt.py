"""How much of an arm's loss may be its rate's fault: runs at other rates say how steep the loss is, and up to where.

    excess = c x^2,    x: octaves between a run's rate and the best one,    E[excess^2] = 3 c^2 E[x^2]^2

c comes from runs that differ in the rate alone: the search's own, or a control's. Where rates on both sides were tried
x is what a lattice of halves leaves open. Beyond the largest budget where they were, the best rate moves on as a power
of the tokens that nobody measured, and the loss gets steeper (docs/rates.md).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.planning.record import Run, StudyRecord

LATTICE = 12**-0.5
"""Standard deviation, octaves, of the best rate around the best of a lattice of halves: uniform within half a step."""
DRIFT = 0.32
"""The best rate falls as D^-0.32 in Bjorck et al. 2025 (arXiv 2409.19913); where nobody looked, that is its error."""
STEEPNESS = {"alone": 0.2, "taught": 0.015}
"""c where no run shows it, nats per squared octave. Alone: what lone students lost at rates of 6 to 16 times smaller
budgets, 0.08 to 0.67 nats, is then within two standard deviations; taught ones hardly lost (docs/rates.md)."""
_SAME = ("batch_tokens", "lambda", "temperature", "divergence", "top_k", "top_p", "init", "split", "cooldown")
"""What runs at other rates have in common."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateDoubt:
    """What is not known of the rate of one arm."""

    steepness: float
    """c at the largest budget that was checked, nats per squared octave."""
    beyond: float
    """c beyond it."""
    checked: float
    """Largest budget at which rates on both sides were tried; else the arm's smallest."""
    is_checked: bool
    """Whether they were tried at all."""

    def at(self, tokens: float) -> float:
        """Standard deviation of what the rate may cost at a budget, nats/token."""
        drift = DRIFT * max(0.0, math.log2(tokens / self.checked))
        return math.sqrt(3) * (self.steepness * LATTICE**2 + self.beyond * drift**2)

    def reaches(self, tokens: float) -> bool:
        """Whether the rate was checked at less than a doubling from this budget."""
        return self.is_checked and tokens < 2 * self.checked


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
    if any(math.isnan(run.branch_lr) for run in own):
        return None
    curves = _curves(record, is_taught=is_taught)
    found = {tokens: c for tokens, points in curves if (c := _steepness(points)) is not None}
    usual = STEEPNESS["taught" if is_taught else "alone"]
    checked = max(found, default=min(budgets))
    return RateDoubt(
        steepness=found.get(checked, usual), beyond=max(usual, found.get(checked, 0.0)), checked=float(checked),
        is_checked=bool(found),
    )  # fmt: skip


def _curves(record: StudyRecord, *, is_taught: bool) -> list[tuple[int, list[tuple[float, float]]]]:
    """(tokens, [(octaves from the grid's rate, loss)]) of every student with runs at other rates, one seed each."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in record.runs:
        if run.row.get("role") == "student" and bool(run.teacher_run) == is_taught:
            key = (run.params, run.tokens, run.teacher_run, run.seed, *(run.row.get(name) for name in _SAME))
            groups.setdefault(key, []).append(run)
    grid = {run.run_id for run in record.students}
    found = []
    for runs in groups.values():
        centre = next((run.branch_lr for run in runs if run.run_id in grid), math.nan)
        if centre > 0:
            points = {math.log2(run.branch_lr / centre): run.loss for run in runs if run.branch_lr > 0}
            found.append((runs[0].tokens, sorted(points.items())))
    return sorted(found, key=lambda one: one[0])


def _steepness(points: Sequence[tuple[float, float]]) -> float | None:
    """C of the parabola through the grid's point and its neighbours; None unless there is one on either side."""
    below, above = [p for p in points if p[0] < -0.1], [p for p in points if p[0] > 0.1]
    centre = [p for p in points if abs(p[0]) <= 0.1]
    if not (below and above and centre):
        return None
    x, y = np.array([below[-1], centre[0], above[0]]).T
    return max(float(np.polyfit(x, y, 2)[0]), 0.0)
