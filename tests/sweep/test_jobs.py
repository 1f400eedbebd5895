"""The planner: which trunks a study needs, from what is on disk; no training, no clock."""

import math

import pytest

from distillaw.errors import RunError
from distillaw.sweep.jobs import Facts, Planner, Progress
from distillaw.sweep.spec import StudentsSpec, StudySpec, TeacherSpec

SPEC = StudySpec(
    name="plan", students=StudentsSpec(params=("0.03M", "0.1M"), tokens=(10_000, 20_000)), batch_tokens=256,
    teachers=(TeacherSpec(params="0.05M", tokens=20_000), TeacherSpec(params="0.2M", tokens=30_000),
              TeacherSpec(params="0.4M", tokens=30_000)),
)  # fmt: skip
FACTS = Facts(vocab_size=512, data_hash="d", fingerprints={})


def _losses(trunk, supervised_best=0, distilled_best=0):
    """A smooth world: the best rate of each arm lies `best` doublings from the start, the best batch at it."""
    best = supervised_best if trunk.arm == "supervised" else distilled_best
    batch = math.log2(trunk.batch_tokens / SPEC.batch_tokens)
    rate = math.log2(trunk.peak_lr / SPEC.peak_lr) - batch / 2
    return 3 + 0.1 * (rate - best) ** 2 + 0.1 * batch**2


def _play(world=_losses, fail=lambda trunk: None):
    """Run the planner to its end in a world; `fail` may return `error` or `diverged` for a trunk."""
    losses, failures, diverged = {}, {}, set()
    for _ in range(100):
        board = Planner(
            SPEC, FACTS, Progress(losses=losses, failures=failures, diverged=frozenset(diverged))
        ).board()
        done = losses.keys() | failures.keys() | diverged
        job = next((j for j in board.jobs if any(r not in done for r in j.run_ids)), None)
        if job is None:
            return board, losses
        fate = fail(job.trunk)
        for run_id in job.run_ids:
            if fate == "diverged":
                diverged.add(run_id)
            elif fate:
                failures[run_id] = fate
            else:
                losses[run_id] = world(job.trunk)
    raise AssertionError("the study never ends")


def test_the_whole_study_is_reached_and_each_arm_gets_its_own_rate():
    board, _ = _play(lambda trunk: _losses(trunk, supervised_best=-1, distilled_best=1))
    students = [j for j in board.jobs if j.trunk.purpose == "grid"]
    assert len(students) == 2 * (1 + 3) and not board.waiting
    rates = {j.trunk.arm: j.trunk.peak_lr for j in students}
    assert rates == {"supervised": pytest.approx(SPEC.peak_lr / 2, rel=1e-3),
                     "distilled": pytest.approx(SPEC.peak_lr * 2, rel=1e-3)}  # fmt: skip
    assert {j.trunk.batch_tokens for j in board.jobs} == {256}


def test_a_rate_that_diverges_supervised_may_be_the_best_distilled():
    world = lambda trunk: _losses(trunk, supervised_best=0, distilled_best=2)  # noqa: E731
    fast = lambda t: "diverged" if t.arm == "supervised" and t.peak_lr > 1.5 * SPEC.peak_lr else None  # noqa: E731
    board, _ = _play(world, fast)
    distilled = {
        j.trunk.peak_lr for j in board.jobs if j.trunk.purpose == "grid" and j.trunk.arm == "distilled"
    }
    assert list(distilled) == [pytest.approx(4 * SPEC.peak_lr, rel=1e-3)]


@pytest.mark.parametrize("arm", ["supervised", "distilled"])
def test_an_arm_in_which_every_rate_diverges_is_an_error(arm):
    with pytest.raises(RunError, match=rf"every learning rate tried for 0.03M \({arm}\) diverged"):
        _play(fail=lambda t: "diverged" if t.purpose == "tuning" and t.arm == arm else None)


def test_a_failure_other_than_divergence_is_not_a_finding_of_the_search():
    """A killed tuning run must not move the rate: the search waits for the next call."""
    hit = lambda t: "disk full" if t.purpose == "tuning" and t.peak_lr == SPEC.peak_lr else None  # noqa: E731
    board, losses = _play(fail=hit)
    assert board.waiting and not [j for j in board.jobs if j.trunk.purpose == "grid"]
    assert losses


def test_a_failed_reference_teacher_is_replaced_and_the_others_students_are_trained():
    board, _ = _play(fail=lambda t: "worker died" if t.role == "teacher" and t.label == "0.2M" else None)
    teachers = {j.trunk.teacher_run for j in board.jobs if j.trunk.purpose == "grid" and j.trunk.teacher_run}
    assert len(teachers) == 2
    assert board.waiting == ["students of 0.2M@30k wait for their teacher"]


def test_run_ids_tell_near_budgets_apart():
    trunk = Planner(SPEC, FACTS, Progress(losses={}, failures={})).point("supervised", "0.1M", 0, 0, None)
    assert trunk.run_id(100_000) != trunk.run_id(100_400)
