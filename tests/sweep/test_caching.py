"""The bound on what stored targets could save, against counting by hand."""

from dataclasses import replace

import pytest

from distillaw.accounting.flops import forward_flops
from distillaw.sweep.checks import load_study
from distillaw.sweep.cost import stored_targets, study_cost
from distillaw.sweep.ready import TrunkJob


@pytest.fixture
def job(tiny):
    """A distilled student of the tiny study: budgets of 4k and 8k tokens, cooldown 0.2."""
    jobs = study_cost(load_study(tiny), 300).jobs
    return next(job for job in jobs if job.trunk.teacher_run and job.budgets == (4000, 8000))


def test_one_pass_over_one_budget_saves_nothing(job):
    alone = TrunkJob(trunk=job.trunk, budgets=(8000,))
    other_size = TrunkJob(trunk=replace(job.trunk, peak_lr=job.trunk.peak_lr / 2), budgets=(8000,))
    bound = stored_targets([alone, other_size], {job.trunk.teacher_run: 1e6}, 300)
    assert (bound.saved_flops, bound.bytes, bound.passes) == (0, 0, 1)
    assert bound.teacher_flops == 8000 * 1e6, "they read one stream: one forward pass"
    assert "no text read twice" in bound.words


def test_other_seeds_and_branches_are_what_a_store_saves(job):
    seeds = [TrunkJob(trunk=replace(job.trunk, seed=s), budgets=(4000, 8000)) for s in range(3)]
    bound = stored_targets(seeds, {job.trunk.teacher_run: 1e6}, 300)
    asked = 3 * (0.8 * 8000 + 0.2 * 12000)
    assert bound.teacher_flops == pytest.approx(asked * 1e6)
    assert bound.saved_flops == pytest.approx((asked - 8000) * 1e6)
    assert bound.bytes == 8000 * 4 * 301 and bound.passes == pytest.approx(asked / 8000)
    students = sum(3 * forward_flops(job.trunk.shape).total * one.tokens for one in seeds)
    assert bound.share == pytest.approx(bound.saved_flops / (students + asked * 1e6))
    assert "could save at most" in bound.words


def test_a_study_without_teachers_has_nothing_to_store(job):
    bound = stored_targets([TrunkJob(trunk=replace(job.trunk, teacher_run=None), budgets=(8000,))], {}, 300)
    assert bound.teacher_flops == bound.share == 0
