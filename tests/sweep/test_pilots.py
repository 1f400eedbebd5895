"""Pilots as runs of a study folder: what a stage needs, what the search finds, what a divergence becomes."""

import math
from dataclasses import replace

import numpy as np
import pytest
from rate_bounds import octaves_off

from distillaw.errors import RunError
from distillaw.runs.paired import DocumentScores
from distillaw.runs.store import RESULT_KEYS, StudyFolder
from distillaw.settling.noise import RateCheck, Rates
from distillaw.settling.pilots import Pilots, Tuned
from distillaw.settling.question import NONE, Stage
from distillaw.sweep.cost import MOVES, START_SECONDS
from distillaw.sweep.ready import Facts, TrunkJob
from distillaw.sweep.spec import StudentsSpec, StudySpec, TeacherSpec, TuningSpec
from distillaw.sweep.tuning import STEP

BEST = {None: 4e-3, "oracle": 1.6e-2}
STAGE = Stage(size="50k", tokens=(8192, 16384), candidates=("oracle:window=1",), seeds=(0, 2))
TUNED = Tuned(
    rates=Rates(
        supervised=RateCheck.unsearched("supervised", 4e-3, 25e3, 8192),
        distilled=RateCheck.unsearched("distilled", 8e-3, 25e3, 8192),
    ),
    batch_tokens=256,
    flops=0.0,
    tuning={},
)
FALLS = {None: 0.4, "oracle": 0.0}
"""Exponent with which the best rate of each arm falls."""


@pytest.fixture
def pilots(tmp_path):
    """Pilots of two oracles in an empty folder, with a search on."""
    spec = StudySpec(
        name="t",
        students=StudentsSpec(params=("25k",), tokens=(8192,)),
        batch_tokens=256,
        seed=5,
        teachers=(TeacherSpec(path="oracle:window=1"), TeacherSpec(path="oracle")),
        tuning=TuningSpec(tokens=8192, batch=False),
    )
    facts = Facts(vocab_size=17, data_hash="d", fingerprints={"oracle": "a", "oracle:window=1": "b"})
    return Pilots(
        spec=spec, facts=facts, study=StudyFolder(tmp_path), forward={"oracle": 10.0, "oracle:window=1": 20.0}
    )


def _finish(pilots: Pilots, job: TrunkJob, tokens: int, loss: float) -> None:
    """A run as training leaves it, its four held-out documents all alike."""
    trunk = job.trunk
    run = pilots.study.run(trunk.run_id(tokens))
    if run.state() == "done":  # a search's trunk that goes on
        return
    facts = {"run_id": run.path.name, "tokens": tokens, "loss": loss, "params": trunk.params, "seed": trunk.seed}
    run.path.mkdir(parents=True)
    noise = np.array([0.4, -0.4, 0.8, -0.8])
    sums = 100 * loss + noise * (trunk.teacher_run is not None)
    run.write_heldout(DocumentScores.numbered(tokens=np.full(4, 100), loss_sum=sums))
    run.finish(dict.fromkeys(RESULT_KEYS) | facts)


def _train_by(pilots: Pilots, loss):
    """A stand-in for the scheduler: every job that is ready ends with the loss that a formula gives."""

    def train(ready) -> None:
        while missing := pilots.missing(ready().jobs):
            for job in missing:
                for tokens in job.budgets:
                    _finish(pilots, job, tokens, loss(job.trunk, tokens))

    return train


def _bowl(trunk, tokens: int) -> float:
    """Best at one rate per arm, whatever the tokens, and at a batch of 256."""
    rate = math.log2(trunk.peak_lr / BEST[trunk.teacher_run] / math.sqrt(trunk.batch_tokens / 256))
    return 3.0 + 0.05 * rate**2 + 0.1 * math.log2(trunk.batch_tokens / 256) ** 2


def test_the_search_finds_the_rate_of_each_arm_and_counts_what_it_cost(pilots):
    tuned = pilots.search(_train_by(pilots, _bowl))
    peaks = {check.arm: check.rate(8192) for check in tuned.rates}
    assert peaks == {"supervised": pytest.approx(4e-3), "distilled": pytest.approx(1.6e-2)}
    assert tuned.batch_tokens == 256
    done = sorted(path.parent.name for path in pilots.study.path.glob("runs/*/result.json"))
    assert sorted(tuned.run_ids) == done
    usual = pilots.usual_search()
    assert usual.num_runs == 6
    assert tuned.flops == pytest.approx(usual.flops / 6 * len(done), rel=0.01)  # one run each, of one size
    trained = list(done)
    assert pilots.search(_train_by(pilots, _bowl)) == tuned
    assert sorted(path.parent.name for path in pilots.study.path.glob("runs/*/result.json")) == trained


def _falling_bowl(trunk, tokens: int) -> float:
    """Best at a constant rate that is lower the more tokens there are, unlike in each arm; steeper alone.

    A rate that falls is scored by its peak: it has cost a long run what a high rate costs (docs/rates.md).
    """
    best = BEST[trunk.teacher_run] * (tokens / 8192) ** -FALLS[trunk.teacher_run]
    steepness = 0.08 if trunk.teacher_run is None else 0.02
    return 3.0 + steepness * math.log2(trunk.peak_lr / best) ** 2


@pytest.fixture
def far(pilots):
    """The same pilots, with rates searched at 16 times the tokens as well."""
    students = StudentsSpec(params=("25k",), tokens=(16 * 8192,))
    tuning = replace(pilots.spec.tuning, horizon="smallest")
    return replace(pilots, spec=replace(pilots.spec, students=students, tuning=tuning))


def test_every_arm_gets_a_rate_near_its_best_at_both_ends_of_the_search(far):
    tuned = far.search(_train_by(far, _falling_bowl))
    stage = Stage(size="50k", tokens=(8192, 16 * 8192), candidates=("oracle",), seeds=(0,))
    for job in far.jobs(stage, tuned):
        for tokens in job.budgets:
            steepness = 0.08 if job.trunk.teacher_run is None else 0.02
            most = 3 + steepness * (octaves_off(1, math.log2(tokens / 8192)) + STEP / 2) ** 2
            assert _falling_bowl(job.trunk, tokens) < most, (job.trunk.trunk_id, tokens)
    for check, steepness in zip(tuned.rates, (0.08, 0.02), strict=True):
        assert (check.searched, check.checked) == (8192, 16 * 8192)
        assert check.steepness == pytest.approx(steepness, rel=0.01)


def test_the_time_of_a_search_has_what_cores_wait_for_in_it_and_its_moves(far):
    """Long runs wait for the short ones' best rate, and the arm with a teacher for the other."""
    left = far.search_left()
    assert left.wall_seconds(1) - START_SECONDS == pytest.approx((1 + MOVES) * sum(left.seconds))
    longest = {(job.trunk.arm, max(job.budgets)): seconds for job, seconds in zip(left.jobs, left.seconds, strict=True)}
    waited = sum(longest.values()) + MOVES * sum(left.seconds)
    assert left.wall_seconds(64) - START_SECONDS == pytest.approx(waited)
    far.search(_train_by(far, _falling_bowl))
    assert far.search_left().wall_seconds(2) == 0


def test_budgets_that_want_other_rates_have_trunks_of_their_own(far):
    """Constant rates: nothing falls over a trunk, and each run's is that of its own size and budget."""
    tuned = far.search(_train_by(far, _falling_bowl))
    stage = Stage(size="50k", tokens=(8192, 16 * 8192), candidates=("oracle",), seeds=(0, 1))
    jobs = far.jobs(stage, tuned)
    params = float(jobs[0].trunk.params)
    wanted = {(arm, tokens): tuned.rates.of(arm).rates.at(params, tokens) for arm in (0, 1) for tokens in stage.tokens}
    assert wanted[0, 8192] > wanted[0, 16 * 8192]
    found = {
        (int(job.trunk.teacher_run is not None), tokens, job.trunk.seed): job.trunk
        for job in jobs
        for tokens in job.budgets
    }
    assert len(found) == 8
    for (arm, tokens, _), trunk in found.items():
        assert trunk.peak_lr == wanted[arm, tokens] and trunk.rate_power == 0
    rows = _results_of(far, stage, tuned)
    assert {row.run_id for row in rows} == {run_id for job in jobs for run_id in job.run_ids}


def _results_of(pilots, stage, tuned):
    pilots.run(stage, tuned, _train_by(pilots, _falling_bowl))
    return pilots.results(stage, tuned)


def test_what_is_left_of_a_search_shrinks_to_nothing_and_its_whole_cost_is_what_was_run(far):
    usual, left = far.usual_search(), []

    def train(ready) -> None:
        while missing := far.missing(ready().jobs):
            left.append(far.search_left().flops)
            for tokens in missing[0].budgets:
                _finish(far, missing[0], tokens, _falling_bowl(missing[0].trunk, tokens))

    tuned = far.search(train)
    assert left[0] == pytest.approx(usual.flops)
    assert left[-1] < 0.3 * usual.flops
    assert far.search_left().flops == 0
    done = {path.parent.name for path in far.study.path.glob("runs/*/result.json")}
    assert set(tuned.run_ids) == done


def test_a_stage_is_paired_runs_of_one_stream(pilots):
    jobs = pilots.jobs(STAGE, TUNED)
    assert len(jobs) == 4
    assert all(job.budgets == STAGE.tokens for job in jobs)
    for seed in (5, 7):  # the study's first seed is 5
        pair = {job.trunk.teacher_run: job.trunk for job in jobs if job.trunk.seed == seed}
        assert set(pair) == {None, "oracle:window=1"}
        alone, taught = pair[None], pair["oracle:window=1"]
        assert (alone.peak_lr, taught.peak_lr) == (4e-3, 8e-3)
        assert (alone.shape, alone.split, alone.batch_tokens) == (taught.shape, taught.split, taught.batch_tokens)


def test_results_are_paired_by_document(pilots):
    pilots.run(STAGE, TUNED, _train_by(pilots, lambda trunk, _: 3.0 - 0.1 * (trunk.teacher_run is not None)))
    rows = pilots.results(STAGE, TUNED)
    assert [(row.candidate, row.seed, row.tokens) for row in rows] == [
        (name, seed, tokens) for name in (NONE, "oracle:window=1") for seed in (0, 2) for tokens in (8192, 16384)
    ]
    spread = math.sqrt(4 / 3 * (2 * 0.4**2 + 2 * 0.8**2)) / 400
    for row in rows:
        taught = row.candidate != NONE
        assert row.loss == (2.9 if taught else 3.0)
        assert row.gain_se == pytest.approx(spread) if taught else math.isnan(row.gain_se)


@pytest.mark.parametrize("diverged", [True, False])
def test_a_candidate_that_diverges_is_a_finding_another_failure_is_not(pilots, diverged):
    for job in pilots.jobs(STAGE, TUNED):
        for tokens in job.budgets:
            if job.trunk.teacher_run is None:
                _finish(pilots, job, tokens, 3.0)
            else:
                run = pilots.study.run(job.trunk.run_id(tokens))
                run.set_status("failed", error="out of memory", diverged=diverged)
    if diverged:
        pilots.run(STAGE, TUNED, lambda ready: None)
        losses = {row.candidate: row.loss for row in pilots.results(STAGE, TUNED)}
        assert losses == {NONE: 3.0, "oracle:window=1": math.inf}
    else:
        with pytest.raises(RunError, match="out of memory"):
            pilots.run(STAGE, TUNED, lambda ready: None)


def test_training_alone_that_diverges_is_an_error_that_says_what_to_do(pilots):
    for job in pilots.jobs(STAGE, TUNED):
        for run_id in job.run_ids:
            pilots.study.run(run_id).set_status("failed", error="nan", diverged=True)
    pilots.run(STAGE, TUNED, lambda ready: None)
    with pytest.raises(RunError, match="lower peak_lr"):
        pilots.results(STAGE, TUNED)
