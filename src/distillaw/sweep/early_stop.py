"""Cells that are given up: students who fall further and further behind the best teacher's of their size.

A pure function of finished losses. Budgets are released one at a time, and only when every arm of a size and seed has
reached the one before, so that what is stopped does not depend on who trained first.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from distillaw.quantities import format_count

if TYPE_CHECKING:
    from distillaw.sweep.jobs import Job


def release(
    jobs: Sequence["Job"],
    losses: Mapping[str, float],
    ended: frozenset[str],
    *,
    margin: float,
    is_complete: bool,
) -> tuple[list["Job"], list[str]]:
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
    races: dict[tuple[str, int], list[Job]] = {}
    for job in jobs:
        races.setdefault((job.trunk.label, job.trunk.seed), []).append(job)
    released, stopped = [], []
    for race in races.values():
        for job, budgets, reason in _race(race, losses, ended, margin, is_complete=is_complete):
            if budgets:
                released.append(replace(job, budgets=budgets))
            if reason:
                stopped.append(reason)
    return released, stopped


def _race(
    race: Sequence["Job"],
    losses: Mapping[str, float],
    ended: frozenset[str],
    margin: float,
    *,
    is_complete: bool,
) -> list[tuple["Job", tuple[int, ...], str]]:
    """Each job of one size and seed with its released budgets, and why it was stopped, if it was."""
    allowed: dict[str, list[int]] = {job.trunk.trunk_id: [] for job in race}
    reasons: dict[str, str] = {}
    lags: dict[str, float] = {}
    for tokens in sorted({t for job in race for t in job.budgets}):
        here = [job for job in race if tokens in job.budgets and job.trunk.trunk_id not in reasons]
        for job in here:
            allowed[job.trunk.trunk_id].append(tokens)
        runs = {job.trunk.trunk_id: job.trunk.run_id(tokens) for job in here}
        if not is_complete or any(run not in losses and run not in ended for run in runs.values()):
            break
        best = min((losses[run] for run in runs.values() if run in losses), default=math.inf)
        for job in here:
            name = job.trunk.trunk_id
            lag = losses.get(runs[name], math.inf) - best
            if (
                job.trunk.teacher_run
                and lag > margin
                and lag >= lags.get(name, math.inf)
                and tokens < max(job.budgets)
            ):
                reasons[name] = (
                    f"{name} stops at {format_count(tokens)} tokens: {lag:.3f} nats behind the best of its size, and "
                    "not catching up"
                )
            lags[name] = lag
    return [(job, tuple(allowed[job.trunk.trunk_id]), reasons.get(job.trunk.trunk_id, "")) for job in race]
