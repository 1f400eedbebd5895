"""How long a study is said to take, against its own planner played through on a clock."""

import heapq
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from distillaw.doctor.examination import THREAD_VARIABLES
from distillaw.runs import spec as runs_spec
from distillaw.runs.files import write_json
from distillaw.sweep import cost as cost_module
from distillaw.sweep import cost as module
from distillaw.sweep.checks import load_study
from distillaw.sweep.cost import START_SECONDS, jobs_cost, makespan, study_cost, teacher_forward
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import Facts, Progress, left_of
from distillaw.sweep.scheduler import log_event, share_out
from distillaw.sweep.spec import StudentsSpec, StudySpec, TeacherSpec, TuningSpec
from distillaw.sweep.status import read_status

SPEC = StudySpec(
    name="clock",
    students=StudentsSpec(params=("0.1M", "0.2M"), tokens=(50_000, 100_000)),
    batch_tokens=256,
    teachers=(TeacherSpec(params="0.1M", tokens=125_000), TeacherSpec(params="0.5M", tokens=300_000)),
    tuning=TuningSpec(horizon="smallest"),
)
FACTS = Facts(vocab_size=512, data_hash="d", fingerprints={})


def _loss(trunk, tokens):
    """Best where the searches begin, but between the rates that are tried."""
    batch = math.log2(trunk.batch_tokens / SPEC.batch_tokens)
    return 3 + 0.1 * (math.log2(trunk.peak_lr / SPEC.peak_lr) - batch / 2) ** 2 + 0.1 * batch**2


def _clock(spec, workers):
    """Seconds that the study takes: planner and sharing out as in the scheduler, a job's time by the cost model."""
    losses, running, now, busy = {}, [], 0.0, set()
    foreseen = study_cost(spec, 512, facts=FACTS).wanted
    while True:
        progress = Progress(losses=losses, failures={})
        jobs = Planner(spec, FACTS, progress).ready_jobs().jobs
        ready = [job for job in left_of(jobs, losses.keys()) if job.trunk.trunk_id not in busy]
        free = workers - len(running)
        for task in share_out(ready, free, {}) if free else ():
            seconds = sum(jobs_cost(task, teacher_forward(spec, [*foreseen, *jobs])).seconds)
            heapq.heappush(running, (now + seconds, len(busy), task))
            busy |= {job.trunk.trunk_id for job in task}
        if not running:
            return now
        now, _, task = heapq.heappop(running)
        busy -= {job.trunk.trunk_id for job in task}
        losses |= {job.trunk.run_id(t): _loss(job.trunk, t) for job in task for t in job.budgets}


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("tokens", [(50_000, 100_000), (50_000, 200_000, 800_000)])
def test_a_study_takes_what_was_foreseen(monkeypatch, workers, tokens):
    """Cores that wait for a search or for a teacher included."""
    monkeypatch.setattr(module, "MOVES", 0.0)
    spec = replace(SPEC, students=replace(SPEC.students, tokens=tokens))
    cost = study_cost(spec, 512, facts=FACTS)
    took = makespan(cost.jobs, cost.seconds, cost.wanted, workers)
    assert took == pytest.approx(_clock(spec, workers), rel=0.15)


def test_moves_of_searches_take_time_that_more_cores_do_not_shorten():
    cost = study_cost(SPEC, 512, facts=FACTS)
    searched = {job.trunk.trunk_id for job in cost.wanted if job.trunk.purpose == "tuning"}
    moves = module.MOVES * sum(
        s for job, s in zip(cost.jobs, cost.seconds, strict=True) if job.trunk.trunk_id in searched
    )
    alone = makespan(cost.jobs, cost.seconds, cost.wanted, 1)
    assert alone == pytest.approx(sum(cost.seconds) + moves)
    times = [makespan(cost.jobs, cost.seconds, cost.wanted, workers) for workers in (1, 2, 4, 64)]
    assert times == sorted(times, reverse=True) and times[-1] > moves


def test_students_wait_for_their_teacher_and_nobody_for_searches_that_there_are_not():
    jobs = study_cost(replace(SPEC, tuning=TuningSpec(enabled=False)), 512, facts=FACTS).jobs
    seconds = [100.0 if job.trunk.role == "teacher" else 1.0 for job in jobs]
    students = sum(job.trunk.role == "student" for job in jobs)
    assert makespan(jobs, seconds, (), 10 * len(jobs)) == 101.0
    assert makespan(jobs, seconds, (), 2) == 100.0 + students / 2
    assert makespan([], [], (), 2) == 0.0


def test_a_clock_is_played_through_without_hashing_a_trunk_twice(monkeypatch):
    """A study of 171 trunks had taken five seconds, and `study new` prices dozens."""
    cost, hashed = study_cost(SPEC, 512, facts=FACTS), []
    monkeypatch.setattr(runs_spec, "content_hash", lambda *given, **more: hashed.append(given) or "0")
    cost.wall_seconds(2)
    assert not hashed


def test_the_probe_of_a_core_keeps_to_one_whatever_numpy_may_use():
    code = (
        "import time; from distillaw.sweep.cost import slowness\n"
        "all, own = time.process_time(), time.thread_time(); slowness()\n"
        "print((time.process_time() - all) / (time.thread_time() - own))"
    )
    threads = {name: "2" for name in THREAD_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | threads, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1.2


def test_a_slower_machine_takes_longer(monkeypatch):
    here = study_cost(SPEC, 512, facts=FACTS)
    slower = 2 * cost_module.slowness()
    assert 0 < slower < math.inf
    monkeypatch.setattr(cost_module, "slowness", lambda: slower)
    there = study_cost(SPEC, 512, facts=FACTS)
    assert there.seconds == pytest.approx([2 * one for one in here.seconds])
    assert there.wall_seconds(2) > 1.5 * here.wall_seconds(2)


def test_the_time_left_of_a_study_is_that_which_was_said_before_it_began(tiny, tmp_path):
    """What cores wait for is in both."""
    spec, data = load_study(tiny), {"vocab_size": 300, "data_hash": "d"}
    write_json(tmp_path / "study.json", {"name": spec.name, "spec": asdict(spec), "data": data})
    log_event(tmp_path, "began", workers=4)
    said = study_cost(spec, 300).wall_seconds(4) - START_SECONDS
    assert read_status(tmp_path).left_seconds == pytest.approx(said)
