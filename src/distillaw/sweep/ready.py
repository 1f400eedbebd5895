"""What a study has on disk and what it can train now, as plain records: jobs, and lists of them.

A job is one trunk with the budgets wanted from it. Early stopping is decided here too: a pure function of finished
losses, which releases budgets one at a time, and only when every arm of a size and seed has reached the one before, so
that what is stopped does not depend on who trained first.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from distillaw.quantities import format_count
from distillaw.runs.spec import TrunkSpec, executed_tokens
from distillaw.sweep.tuning import RateSearch


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What jobs depend on besides the study file."""

    vocab_size: int
    data_hash: str
    fingerprints: Mapping[str, str]
    """External teacher, as runs name it -> hash of its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is on disk."""

    losses: Mapping[str, float]
    """Finished run id -> held-out loss."""
    failures: Mapping[str, str]
    """Failed run id -> its error, divergence aside."""
    diverged: frozenset[str] = frozenset()
    """Runs whose loss or gradient ceased to be finite: to a search they are the worst there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrunkJob:
    """One trunk and the budgets wanted from it: the unit a worker takes."""

    trunk: TrunkSpec
    budgets: tuple[int, ...]
    reached: int = 0
    """Budget up to which the trunk is trained already."""

    @property
    def run_ids(self) -> list[str]:
        """Runs this job makes."""
        return [self.trunk.run_id(tokens) for tokens in self.budgets]

    @property
    def tokens(self) -> float:
        """Tokens it trains on."""
        return executed_tokens(self.budgets, self.trunk.recipe.cooldown, reached=self.reached)

    @property
    def urgency(self) -> tuple[bool, bool, float]:
        """Sorts jobs: tuning before teachers before students, and the longest first, so that no core ends alone."""
        trunk = self.trunk
        return trunk.purpose != "tuning", trunk.role != "teacher", -self.tokens * trunk.total_params


@dataclass(slots=True, kw_only=True)
class ReadyJobs:
    """All jobs known at this moment, in the order they should start."""

    jobs: list[TrunkJob]
    """Every job whose inputs are decided (finished ones included)."""
    waiting: list[str]
    """What cannot be decided yet, in words."""
    stopped: list[str] = field(default_factory=list)
    """Students that get no longer budget (`release`), and why."""
    supervised: RateSearch | None = None
    teacher: RateSearch | None = None
    distilled: RateSearch | None = None
    cuts: dict[str, RateSearch] = field(default_factory=dict)
    """Searches of students that are cut, by `Lesson.name`."""
    reference: str | None = None
    """Run (or folder) of the teacher that the distilled arm is tuned with."""


NOTHING = Progress(losses={}, failures={})


def one_per_trunk(jobs: Sequence[TrunkJob]) -> list[TrunkJob]:
    """Jobs of one trunk as one: held-out budgets go on where the grid's ended, the grid's where a search did."""
    budgets: dict[str, set[int]] = {}
    trunks: dict[str, TrunkSpec] = {}
    for job in jobs:
        name = job.trunk.trunk_id
        budgets.setdefault(name, set()).update(job.budgets)
        trunks[name] = min(trunks.get(name, job.trunk), job.trunk, key=lambda t: _LATER.get(t.purpose, 1))
    return [TrunkJob(trunk=trunks[name], budgets=tuple(sorted(tokens))) for name, tokens in budgets.items()]


_LATER = {"teacher": 0, "grid": 0, "holdout": 2, "tuning": 3}
"""Purposes by who gives way to another of the same trunk; 1: controls."""


def left_of(jobs: Sequence[TrunkJob], ended: Collection[str]) -> list[TrunkJob]:
    """One job per trunk with the budgets that have not ended, from where those that have brought it."""
    left = []
    for job in one_per_trunk(jobs):
        budgets = tuple(t for t in job.budgets if job.trunk.run_id(t) not in ended)
        before = [t for t in job.budgets if t not in budgets and t < min(budgets, default=0)]
        if budgets:
            left.append(replace(job, budgets=budgets, reached=max(before, default=0)))
    return left


def parts_of(jobs: Sequence[TrunkJob], wanted: Callable[[str], bool]) -> list[TrunkJob]:
    """Jobs with those of their budgets whose run is wanted."""
    parts = [replace(j, budgets=tuple(t for t in j.budgets if wanted(j.trunk.run_id(t)))) for j in jobs]
    return [job for job in parts if job.budgets]


def release(
    jobs: Sequence[TrunkJob], losses: Mapping[str, float], ended: frozenset[str], *, margin: float, is_complete: bool
) -> tuple[list[TrunkJob], list[str]]:
    """The budgets of a study's grid that may be trained now.

    Args:
        jobs: students of the grid, alone and from every teacher, with all their budgets.
        losses: finished run id -> held-out loss, nats/token.
        ended: runs that failed or diverged; nobody waits for them.
        margin: how far behind the best arm of its size and budget a student may be, nats/token. One that is further
            behind, and not catching up since its budget before, gets no longer budget.
        is_complete: whether all arms are among the jobs; else some teacher is still in training, and only the
            shortest budgets are released.

    Returns:
        The jobs with the budgets that are released (finished ones included), and what was stopped, in words.
    """
    races: dict[tuple[str, int, str], list[TrunkJob]] = {}
    for job in jobs:
        races.setdefault((job.trunk.label, job.trunk.seed, job.trunk.start_arm), []).append(job)
    released, stopped = [], []
    for race in races.values():
        for job, budgets, reason in _race(race, losses, ended, margin, is_complete=is_complete):
            if budgets:
                released.append(replace(job, budgets=budgets))
            if reason:
                stopped.append(reason)
    return released, stopped


def _race(
    race: Sequence[TrunkJob], losses: Mapping[str, float], ended: frozenset[str], margin: float, *, is_complete: bool
) -> list[tuple[TrunkJob, tuple[int, ...], str]]:
    """Each job of one size and seed with its released budgets, and why it was stopped, if it was."""
    arms = {job.trunk.trunk_id: job.trunk.teacher_run or f"alone {job.trunk.cut_from or ''}" for job in race}
    last = {arm: max(max(job.budgets) for job in race if arms[job.trunk.trunk_id] == arm) for arm in arms.values()}
    allowed: dict[str, list[int]] = {arm: [] for arm in last}
    reasons: dict[str, str] = {}
    lags: dict[str, float] = {}
    for tokens in sorted({t for job in race for t in job.budgets}):
        here = {arms[job.trunk.trunk_id]: job for job in race if tokens in job.budgets}
        here = {arm: job for arm, job in here.items() if arm not in reasons}
        for arm in here:
            allowed[arm].append(tokens)
        runs = {arm: job.trunk.run_id(tokens) for arm, job in here.items()}
        if not is_complete or any(run not in losses and run not in ended for run in runs.values()):
            break
        best = min((losses[run] for run in runs.values() if run in losses), default=math.inf)
        for arm, job in here.items():
            lag = losses.get(runs[arm], math.inf) - best
            is_behind = lag > margin and lag >= lags.get(arm, math.inf)
            if job.trunk.teacher_run and is_behind and tokens < last[arm]:
                reasons[arm] = (
                    f"{job.trunk.trunk_id} stops at {format_count(tokens)} tokens: {lag:.3f} nats behind the best of "
                    "its size, and not catching up"
                )
            lags[arm] = lag
    told = {arm: job.trunk.trunk_id for job in reversed(race) for arm in [arms[job.trunk.trunk_id]]}
    found = []
    for job in race:
        arm = arms[job.trunk.trunk_id]
        budgets = tuple(t for t in job.budgets if t in allowed[arm])
        found.append((job, budgets, reasons.get(arm, "") if told[arm] == job.trunk.trunk_id else ""))
    return found
