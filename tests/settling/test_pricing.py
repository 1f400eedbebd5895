"""What further runs cost beside those that exist: trunks and teachers' forward passes as training counts them."""

from dataclasses import replace
from itertools import pairwise

import pytest

from distillaw.accounting.flops import forward_flops
from distillaw.runs.store import StudyFolder
from distillaw.sequential.question import Asked, setup_of_study
from distillaw.settling.noise import KINDS, RateCheck, Rates
from distillaw.settling.pilots import Pilots, Tuned
from distillaw.settling.question import (
    NONE,
    Candidate,
    PilotRun,
    Size,
    Stage,
    extra_flops,
    joined,
    made_by,
    stage_flops,
    wanted_by,
)
from distillaw.sweep.ready import Facts
from distillaw.sweep.spec import StudentsSpec, StudySpec, TeacherSpec
from distillaw.sweep.tuning import ArmRates
from tests.cli.test_study_next import STUDY
from tests.settling.questions import make_question

TEACHER = "t0"
QUESTION = replace(
    make_question(), candidates=(Candidate(name=TEACHER, loss=1.9, flops=1e9), *make_question().candidates[1:])
)
ONE_RATE = replace(QUESTION, has_one_rate=True)
SIZE, SMALL = QUESTION.sizes[3], QUESTION.sizes[1]
UNIT = 65_536


def stage(*tokens, size=SIZE, candidates=(), seeds=(0,), also=()):
    return Stage(size=size.label, also=also, tokens=tuple(k * UNIT for k in tokens), candidates=candidates, seeds=seeds)


def price(new, *before, question=QUESTION):
    return extra_flops(question, wanted_by(question, before), wanted_by(question, [new]))


def test_every_budget_is_a_run_of_its_own_and_what_exists_is_free():
    assert price(stage(25, 50, 100)) == stage_flops(QUESTION, stage(25, 50, 100))
    assert price(stage(25, 50, 100)) == pytest.approx(SIZE.flops * UNIT * 175)
    made = stage(25, 50)
    assert price(stage(25), made) == price(stage(50, 25), made) == 0.0
    assert price(stage(50, 100), made) == price(stage(100)) == pytest.approx(SIZE.flops * UNIT * 100)


def test_budgets_of_one_rate_share_a_trunk_that_goes_on_from_its_last_branch_point():
    made = stage(25, 50)
    longer = SIZE.flops * UNIT * (0.8 * (100 - 50) + 0.2 * 100)
    assert price(stage(100), made, question=ONE_RATE) == pytest.approx(longer)
    assert price(stage(50, 100), made, question=ONE_RATE) == pytest.approx(longer)
    assert price(made, question=ONE_RATE) == pytest.approx(SIZE.flops * UNIT * (0.8 * 50 + 0.2 * 75))


def test_a_shorter_budget_starts_over():
    made = stage(100)
    assert price(stage(50), made, question=ONE_RATE) == pytest.approx(SIZE.flops * UNIT * 50)
    both = price(stage(50, 200), made, question=ONE_RATE)
    assert both == pytest.approx(SIZE.flops * UNIT * (0.8 * 200 + 0.2 * 250))


def test_growing_a_trunk_costs_what_it_costs_at_once():
    budgets = (25, 50, 100, 400)
    parts = [
        price(stage(budgets[i]), *([stage(*budgets[:i])] if i else []), question=ONE_RATE) for i in range(len(budgets))
    ]
    assert sum(parts) == pytest.approx(price(stage(*budgets), question=ONE_RATE))
    assert all(low < high for low, high in pairwise(parts))


def test_one_forward_pass_serves_the_students_of_a_seed():
    teacher = QUESTION.candidate(TEACHER).flops * UNIT
    free = replace(QUESTION, candidates=make_question().candidates)

    def teaching(new, *before):
        return price(new, *before) - price(new, *before, question=free)

    both = stage(50, 100, candidates=(TEACHER,), also=(SMALL.label,))
    assert teaching(both) == pytest.approx(teacher * 100)  # as for the longest run alone
    assert teaching(stage(100, candidates=(TEACHER,), seeds=(0, 1))) == pytest.approx(2 * teacher * 100)
    made = stage(100, candidates=(TEACHER,))
    beside = stage(100, candidates=(TEACHER,), also=(SMALL.label,))
    assert teaching(beside, made) == pytest.approx(teacher * 100)
    assert teaching(made, made) == 0.0


def test_runs_are_trunks():
    runs = [
        PilotRun(candidate=name, params=SIZE.params, tokens=k * UNIT, seed=1, loss=3.0)
        for name in (NONE, TEACHER)
        for k in (25, 50)
    ]
    strange = PilotRun(candidate=NONE, params=123.0, tokens=UNIT, seed=0, loss=3.0)
    for question in (QUESTION, ONE_RATE):
        made = made_by(question, [*runs, strange])
        assert made == wanted_by(question, [stage(25, 50, candidates=(TEACHER,), seeds=(1,))])
    (trunk,) = joined(made_by(ONE_RATE, runs[:2]), wanted_by(ONE_RATE, [stage(100, seeds=(1,))])).values()
    assert trunk == {25 * UNIT, 50 * UNIT, 100 * UNIT}


@pytest.mark.parametrize("rates", ["one", "by budget", "two alike"])
def test_a_stage_is_priced_as_the_jobs_that_it_becomes(rates, tmp_path):
    """The ladder's price is what training counts (sweep/cost.py), whichever budgets share a rate."""
    budgets = (4096, 8192, 16384)
    spec = StudySpec(
        name="t",
        students=StudentsSpec(params=("25k",), tokens=budgets),
        batch_tokens=256,
        teachers=(TeacherSpec(path="oracle"), TeacherSpec(path="oracle:window=1")),
    )
    forward = {"oracle": 3e6, "oracle:window=1": 2e5}
    facts = Facts(vocab_size=17, data_hash="d", fingerprints={name: name for name in forward})
    pilots = Pilots(spec=spec, facts=facts, study=StudyFolder(tmp_path), forward=forward)
    sizes = tuple(_size(pilots, label) for label in ("25k", "50k"))
    own = {"one": (8e-3, 8e-3), "by budget": (4e-3, 2e-3), "two alike": (8e-3, 4e-3)}[rates]
    found = ArmRates(
        start=8e-3,
        near=budgets[0],
        far=budgets[-1],
        exact={(s.params, d): rate for s in sizes for d, rate in zip(budgets[1:], own, strict=True)},
    )
    checks = {arm: replace(RateCheck.unsearched(arm, 8e-3, 25e3, 4096), rates=found) for arm in KINDS}
    tuned = Tuned(rates=Rates(**checks), batch_tokens=256, flops=0.0, tuning={})
    question = replace(
        make_question(),
        sizes=sizes,
        candidates=tuple(Candidate(name=n, loss=2.0, flops=f) for n, f in forward.items()),
        rates=tuned.rates,
        cooldown=spec.training.cooldown,
    )
    asked = Stage(size="50k", also=("25k",), tokens=budgets, candidates=tuple(forward), seeds=(0, 1))
    jobs = pilots.jobs(asked, tuned)
    assert len(jobs) == 2 * 3 * 2 * {"one": 1, "by budget": 3, "two alike": 2}[rates]
    assert {run_id for job in jobs for run_id in job.run_ids} == {
        pilots._trunk(label, name, seed, tokens, tuned).run_id(tokens)
        for label in asked.labels
        for name in ("", *forward)
        for seed in asked.seeds
        for tokens in budgets
    }
    assert stage_flops(question, asked) == pytest.approx(pilots.cost(jobs).flops)


def _size(pilots, label):
    trunk = pilots._trunk(label, NONE, 0, 4096, _fixed())
    return Size(label=label, params=float(trunk.params), flops=3 * forward_flops(trunk.shape).total)


def _fixed():
    checks = {arm: RateCheck.unsearched(arm, 8e-3, 25e3, 4096) for arm in KINDS}
    return Tuned(rates=Rates(**checks), batch_tokens=256, flops=0.0, tuning={})


@pytest.mark.parametrize("table, shared", [("", False), ("horizon = 'none'", True), ("enabled = false", True)])
def test_budgets_of_a_study_share_a_trunk_where_it_has_one_rate(tmp_path, table, shared):
    """`study next` prices its batches as `study run` trains them."""
    file = tmp_path / "mine.toml"
    file.write_text(f"{STUDY}[tuning]\n{table}\n")
    question = setup_of_study(file, Asked(params=None, tokens=None, margin=None, losses={})).question
    size, budgets = question.sizes[0], (250_000, 500_000, 1_000_000)
    tokens = 0.8 * max(budgets) + 0.2 * sum(budgets) if shared else sum(budgets)
    one = Stage(size=size.label, tokens=budgets, candidates=(), seeds=(0,))
    assert stage_flops(question, one) == pytest.approx(size.flops * tokens)
