"""Which jobs go to one worker: by teacher on cores, by stream where a device trains students of one shape together."""

import pytest

from distillaw.runs.spec import shared_batches, shared_stream
from distillaw.sweep.checks import load_study
from distillaw.sweep.cost import study_cost
from distillaw.sweep.scheduler import share_out


@pytest.fixture
def jobs(tiny):
    """The students of the tiny study, one job per trunk: two sizes, with and without a teacher, a second seed."""
    every = study_cost(load_study(tiny), 300).jobs
    trunks = {job.trunk.trunk_id: job for job in every if job.trunk.role == "student"}
    return list(trunks.values())


def test_on_cores_students_of_one_teacher_share_a_worker_and_the_others_are_alone(jobs):
    tasks = share_out(jobs, workers=1, crashes={})
    assert len(share_out(jobs, workers=100, crashes={})) == len(jobs), "no core idles"
    (task,) = tasks
    assert len({shared_stream(job.trunk) for job in task}) == 1
    alone = [job for job in jobs if job.trunk.teacher_run is None]
    assert [len(share) for share in share_out(alone, workers=1, crashes={})] == [1]


def test_on_a_device_one_stream_goes_together_whatever_teaches(jobs):
    (task,) = share_out(jobs, workers=1, crashes={}, stacked=True)
    first = shared_batches(task[0].trunk)
    assert {job.trunk.trunk_id for job in task} == {
        job.trunk.trunk_id for job in jobs if shared_batches(job.trunk) == first
    }
    assert {job.trunk.teacher_run is None for job in task} == {True, False}


def test_two_devices_get_a_shape_each(jobs):
    one_seed = [job for job in jobs if job.trunk.seed == 0]
    small, large = share_out(one_seed, workers=2, crashes={}, stacked=True)
    assert {job.trunk.params for job in small} < {job.trunk.params for job in one_seed}
    assert max(job.trunk.params for job in small) < min(job.trunk.params for job in large)


def test_a_trunk_that_killed_its_worker_goes_alone(jobs):
    suspect = jobs[0].trunk.trunk_id
    tasks = share_out(jobs, workers=2, crashes={suspect: 1}, stacked=True)
    assert [job.trunk.trunk_id for job in tasks[0]] == [suspect]
