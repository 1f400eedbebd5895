"""Is each arm's rate right at its largest budget? And are there enough steps at the smallest?

The best rate falls with the tokens of a run, faster without a teacher than with one (docs/rates.md): an arm whose rate
suits its shortest runs alone loses the comparison at the longest. Runs at other rates say by how much, whoever asked
for them: the search's own, or a control's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distillaw.controls.control import About, Control
from distillaw.controls.study_runs import Difference, Place, StudyRuns
from distillaw.planning.decision import MARGIN
from distillaw.runs.record import Run

HORIZON = About(
    name="horizon",
    guards="the best rate falls with the horizon, faster in one arm than in another: an untuned arm loses unseen",
    remedy='let the search check it: [tuning] horizon = "target" (or "ends"), with more rounds where the best value '
    "lies at an end",
)
STEPS = About(
    name="steps",
    guards="short runs are dominated by warm-up and cooldown, and batches by their noise: they are another regime",
    remedy="a smaller batch_tokens, or more tokens in the smallest budget",
)
LEAST_STEPS = 800
ARMS = {"alone": "alone", "taught": "from a teacher", "teacher": "of a teacher"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """What another rate saves at one place."""

    arm: str
    """A key of `ARMS`."""
    place: Place
    where: str
    loss: float
    """Of the study's own run, nats/token."""
    best: float
    """The other rate that did best, as a multiple of the run's."""
    tried: tuple[float, ...]
    difference: Difference
    """The run minus the best other rate; positive where it loses."""
    is_largest: bool
    """Whether the place is the largest budget of its arm's size."""

    @property
    def margin(self) -> float:
        """What counts as a gain: the margin of a verdict, nats/token."""
        return max(MARGIN * self.loss, self.difference.se)

    @property
    def brackets(self) -> bool:
        """Whether rates on both sides of the run's were tried."""
        return min(self.tried) < 1 < max(self.tried)

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return {"arm": self.arm, "where": self.where, "loss": self.loss, "best_multiple": self.best,
                "tried": list(self.tried), "branch_minus_best": self.difference.to_json(),
                "margin": self.margin}  # fmt: skip


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
    """At the largest budget of each arm no other rate is better by more than the margin of a verdict."""
    found = _excesses(runs)
    numbers = {"excess": [one.to_json() for one in found]}
    lost = [one for one in found if one.difference.mean > one.margin]
    if lost:
        return HORIZON.control("failed", "; ".join(map(_words, lost)), **numbers)
    wanted = [arm for arm in ARMS if _exists(runs, arm)]
    covered = {one.arm for one in found if one.is_largest and one.brackets}
    seen = [_words(max(found, key=lambda one: one.difference.mean / one.loss))] if found else []
    if missing := [ARMS[arm] for arm in wanted if arm not in covered]:
        lacking = "no runs at lower and higher rates at the largest tokens " + ", nor ".join(missing)
        return HORIZON.control("not done", "; ".join([lacking, *seen]), **numbers)
    return HORIZON.control("passed", "; ".join(seen), **numbers)


def _exists(runs: StudyRuns, arm: str) -> bool:
    if arm == "teacher":
        return any(
            run.folder is not None or "train_flops" in run.row for run in runs.record.teachers.values()
        )
    return any(bool(teacher) == (arm == "taught") for _, _, teacher in runs.grid)


def _excesses(runs: StudyRuns) -> list[Excess]:
    """Every place with runs at other rates, of students and of teachers."""
    found = []
    for role, own in (("student", runs.grid), ("teacher", runs.teacher_grid)):
        for place, by_rate in runs.other_rates(role).items():
            if (one := _excess(runs, role, place, own, by_rate)) is not None:
                found.append(one)
    return found


def _excess(
    runs: StudyRuns, role: str, place: Place, own: Mapping[Place, Mapping[int, Run]],
    by_rate: Mapping[float, Mapping[int, Run]],
) -> Excess | None:  # fmt: skip
    branch = own[place]
    differences = {rate: runs.difference(branch, seeds) for rate, seeds in by_rate.items()}
    known = {rate: d for rate, d in differences.items() if d is not None}
    if not known:
        return None
    rate = next(iter(branch.values())).branch_lr
    best = max(known, key=lambda other: known[other].mean)
    largest = max(tokens for params, tokens, teacher in own if (params, teacher) == (place[0], place[2]))
    name = runs.place_name(place)
    return Excess(
        arm="teacher" if role == "teacher" else "taught" if place[2] else "alone", place=place,
        where=name.replace(" alone", " teacher") if role == "teacher" else name,
        loss=float(np.mean([run.loss for run in branch.values()])), best=best / rate,
        tried=tuple(other / rate for other in known), difference=known[best], is_largest=place[1] == largest,
    )  # fmt: skip


def _words(one: Excess) -> str:
    """What another rate saves at a place."""
    low, high = one.difference.interval()
    unpaired = "" if one.difference.is_paired else " (unpaired)"
    interval = f"{one.difference.mean:.3f} [{low:.3f}, {high:.3f}] nats{unpaired}"
    if one.difference.mean <= 0:
        return f"no other rate is better (nearest: {one.where}, x{one.best:.2g} by {interval})"
    return f"{one.where}: x{one.best:.2g} the rate is better by {interval}, margin {one.margin:.3f}"
