"""How long a study's jobs take on so many cores: the scheduler's own sharing out, played through on estimated seconds.

Cores wait where one run decides what comes next: the last of a search, each of its moves outwards (one run at a time),
a teacher. A step begins when the searches of those before have ended, in the order of sweep/jobs.py: alone 0 rates, 1
rates at the largest budget, 2 batch; 3 teachers' rates and lone students; 4 teachers; from a teacher 5 rates, 6 rates
at the largest budget, 7 the batch's check and all students; those that are cut, alone too, count as from a teacher.
"""

import heapq
import math
from collections.abc import Sequence

from distillaw.sweep.ready import TrunkJob
from distillaw.sweep.scheduler import share_out

MOVES = 0.2
"""What searches that move, and budgets that then share fewer trunks, add to the time of searches that stay: 0.12, 0.32
and 0.20 of it in two quickstarts and a study of technical documents (dev/LOG.md, 2026-11-23)."""

_Task = tuple[float, tuple[str, ...]]
"""Seconds that a core spends, or when it is done; and what on."""


def makespan(
    jobs: Sequence[TrunkJob], seconds: Sequence[float], wanted: Sequence[TrunkJob], workers: int
) -> float:
    """Seconds until the last job has ended.

    Args:
        jobs: what is to be trained, one job per trunk, the most urgent first.
        seconds: of each on one core.
        wanted: all jobs by purpose, of a study or of its searches: they tell which trunks a search asks for; none if
            there is no search.
        workers: cores.
    """
    of = {job.trunk.trunk_id: one for job, one in zip(jobs, seconds, strict=True)}
    steps, searches = _steps(wanted), {j.trunk.trunk_id for j in wanted if j.trunk.purpose == "tuning"}
    makers: dict[str | None, str] = {run_id: job.trunk.trunk_id for job in jobs for run_id in job.run_ids}
    moves: dict[str, float] = {}  # of each step's searches, as one more job when they have ended
    for name in searches & of.keys():
        move = f"moves of step {steps[name]}"
        steps[move], moves[move] = steps[name], moves.get(move, 0.0) + MOVES * of[name]
    now, running = 0.0, list[_Task]()
    waiting = {job.trunk.trunk_id: job for job in jobs}
    while waiting or moves or running:
        undone = {*waiting, *moves, *(name for _, names in running for name in names)}
        step = min((steps[name] for name in undone if name in searches or name not in of), default=math.inf)
        searched = all(steps[name] > step for name in undone & searches)
        tasks: list[_Task] = [(moves[name], (name,)) for name in moves if searched and steps[name] == step]
        ready = [
            job
            for name, job in waiting.items()
            if steps.get(name, 0) <= step
            and undone.isdisjoint({makers.get(job.trunk.teacher_run), makers.get(job.trunk.cut_from)})
        ]
        free = workers - len(running)
        for task in share_out(ready, free - len(tasks), {}) if free > len(tasks) else ():
            names = tuple(job.trunk.trunk_id for job in task)
            tasks.append((sum(of[name] for name in names), names))
        for length, names in tasks[:free]:
            heapq.heappush(running, (now + length, names))
            for name in names:
                waiting.pop(name, None)
                moves.pop(name, None)
        now, _ = heapq.heappop(running)
    return now


def _steps(wanted: Sequence[TrunkJob]) -> dict[str, int]:
    """Trunk -> its step of the study."""
    near = min((min(job.budgets) for job in wanted if job.trunk.purpose == "tuning"), default=0)
    batches = {job.trunk.batch_tokens for job in wanted if job.trunk.purpose != "tuning"}
    steps: dict[str, int] = {}
    for job in wanted:
        trunk = job.trunk
        kind = "distilled" if trunk.cut_from else trunk.role if trunk.role == "teacher" else trunk.arm
        if trunk.purpose != "tuning":
            step = {"supervised": 3, "teacher": 4, "distilled": 7}[kind]
        elif batches and trunk.batch_tokens not in batches:
            step = {"supervised": 2, "distilled": 7}[kind]
        else:
            step = {"supervised": 0, "teacher": 3, "distilled": 5}[kind]
            step += kind != "teacher" and max(job.budgets) > near
        steps[trunk.trunk_id] = min(step, steps.get(trunk.trunk_id, step))
    return steps
