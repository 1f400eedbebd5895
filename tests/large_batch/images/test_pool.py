"""Processes: every job once, errors come home, deaths are said."""

import os
import threading

import pytest

from distillaw.errors import DataError, RunError
from distillaw.large_batch.images.study import run_all


class Worker:
    """Does what a job says; picklable, as what a study sends."""

    def __call__(self, place):
        return do


def do(job, beat):
    what, number = job
    beat(number / 2)
    if what == "refuse":
        raise DataError("as a user meets it")
    if what == "fail":
        raise KeyError("as a library raises it")
    if what == "die":
        os.kill(os.getpid(), 9)
    if what == "sleep":
        threading.Event().wait()  # the end of the others is all that ends it
    return number * number


class Unwilling:
    """Workers that cannot begin."""

    def __call__(self, place):
        raise DataError("no data")


def run(jobs, start=None, workers=2):
    answers, beats = {}, {}
    run_all(jobs, start or Worker(), workers=workers, done=answers.__setitem__, progressed=beats.__setitem__)
    return answers, beats


def test_every_job_is_done_once_and_says_how_far_it_is():
    jobs = [("square", n) for n in range(5)]
    answers, beats = run(jobs)
    assert answers == {job: job[1] ** 2 for job in jobs} and beats == {job: job[1] / 2 for job in jobs}


@pytest.mark.parametrize(
    ("job", "start", "error", "message"),
    [
        ("refuse", None, DataError, "as a user meets it"),
        ("fail", None, RunError, "KeyError: 'as a library raises it'"),
        ("square", Unwilling(), DataError, "no data"),
        ("die", None, RunError, "killed by SIGKILL.*give fewer --workers"),
    ],
)
@pytest.mark.usefixtures("forked")
@pytest.mark.timeout(120)  # nothing but that end wakes the worker that sleeps
def test_what_goes_wrong_comes_home_and_ends_the_others(job, start, error, message):
    with pytest.raises(error, match=message):
        run([(job, 1), ("sleep", 1)] if start is None else [(job, 1)], start, workers=2 if start is None else 1)
