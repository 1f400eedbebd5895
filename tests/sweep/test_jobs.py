"""The planner: which trunks a study needs, from what is on disk; no training, no clock."""

import math
from dataclasses import asdict, replace

import pytest
from rate_bounds import SHRUNK, octaves_off

from distillaw.errors import ConfigError, RunError
from distillaw.runs.files import write_json
from distillaw.runs.spec import serves_laws
from distillaw.sweep.changes import changed_settings, what_belongs
from distillaw.sweep.checks import check_study
from distillaw.sweep.cost import study_cost
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import Facts, Progress, left_of, one_per_trunk
from distillaw.sweep.spec import DesignSpec, EarlyStopSpec, StudentsSpec, StudySpec, TeacherSpec, TuningSpec
from distillaw.sweep.tuning import STEP, TOLERATED, LatticePoint, SearchPlace

SPEC = StudySpec(
    name="plan",
    students=StudentsSpec(params=("0.03M", "0.1M"), tokens=(10_000, 20_000)),
    batch_tokens=256,
    teachers=(
        TeacherSpec(params="0.05M", tokens=20_000),
        TeacherSpec(params="0.2M", tokens=30_000),
        TeacherSpec(params="0.4M", tokens=30_000),
    ),
)
FACTS = Facts(vocab_size=512, data_hash="d", fingerprints={})
MOST_OFF = octaves_off(sizes=math.log2(0.1 / 0.03), tokens=1) + STEP / 2
"""Octaves: of the size and the budget that nobody searched."""


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
        ready = Planner(
            SPEC, FACTS, Progress(losses=losses, failures=failures, diverged=frozenset(diverged))
        ).ready_jobs()
        done = losses.keys() | failures.keys() | diverged
        job = next((j for j in ready.jobs if any(r not in done for r in j.run_ids)), None)
        if job is None:
            return ready, losses
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
    ready, _ = _play(lambda trunk: _losses(trunk, supervised_best=-1, distilled_best=1))
    students = [j for j in ready.jobs if j.trunk.purpose == "grid"]
    runs = {run_id for job in students for run_id in job.run_ids}
    assert len(runs) == 2 * (1 + 3) * len(SPEC.students.tokens) and not ready.waiting
    for job in students:
        best = -1 if job.trunk.arm == "supervised" else 1
        assert -MOST_OFF < math.log2(job.trunk.peak_lr / SPEC.peak_lr) - best < 0.01, "at most as low as caution wants"
    assert {j.trunk.batch_tokens for j in ready.jobs if j.trunk.purpose != "tuning"} == {256}


def test_every_run_that_was_made_belongs_to_the_study_that_asked_for_it():
    """Also those of a search that has ended."""
    ready, losses = _play(lambda trunk: _losses(trunk, supervised_best=-1, distilled_best=1))
    belong, others = what_belongs(ready, list(losses))
    assert sorted(belong) == sorted(losses) and not others
    assert sum(j.trunk.purpose == "tuning" for j in ready.jobs) > 10


def test_a_rate_that_diverges_supervised_may_be_the_best_distilled():
    world = lambda trunk: _losses(trunk, supervised_best=0, distilled_best=2)  # noqa: E731
    fast = lambda t: "diverged" if t.arm == "supervised" and t.peak_lr > 1.5 * SPEC.peak_lr else None  # noqa: E731
    ready, _ = _play(world, fast)
    distilled = [j.trunk.peak_lr for j in ready.jobs if j.trunk.purpose == "grid" and j.trunk.arm == "distilled"]
    lower = [math.log2(4 * SPEC.peak_lr / rate) for rate in distilled]
    assert all(-1e-3 < octaves < MOST_OFF for octaves in lower), "at most as low as caution wants"


@pytest.mark.parametrize("arm", ["supervised", "distilled"])
def test_an_arm_in_which_every_rate_diverges_is_an_error(arm):
    with pytest.raises(RunError, match=rf"every learning rate tried for 0.03M \({arm}\) diverged"):
        _play(fail=lambda t: "diverged" if t.purpose == "tuning" and t.arm == arm else None)


def test_a_failure_other_than_divergence_is_not_a_finding_of_the_search():
    """A killed tuning run must not move the rate: the search waits for the next call."""
    hit = lambda t: "disk full" if t.purpose == "tuning" and t.peak_lr == SPEC.peak_lr else None  # noqa: E731
    ready, losses = _play(fail=hit)
    assert ready.waiting and not [j for j in ready.jobs if j.trunk.purpose == "grid"]
    assert losses


def test_a_failed_reference_teacher_is_replaced_and_the_others_students_are_trained():
    ready, _ = _play(fail=lambda t: "worker died" if t.role == "teacher" and t.label == "0.2M" else None)
    teachers = {j.trunk.teacher_run for j in ready.jobs if j.trunk.purpose == "grid" and j.trunk.teacher_run}
    assert len(teachers) == 2
    assert ready.waiting == ["students of 0.2M@30k wait for their teacher"]


FAR = replace(
    SPEC,
    students=StudentsSpec(params=("0.03M", "0.1M"), tokens=(10_000, 40_000, 160_000)),
    teachers=(TeacherSpec(params="0.05M", tokens=80_000), TeacherSpec(params="0.2M", tokens=160_000)),
    tuning=TuningSpec(batch=False),
)
"""Budgets over a factor of 16."""
POWER = {"supervised": 0.5, "distilled": 0.0}
"""With which the best rate falls; teachers learn from text as lone students do."""


def _best(trunk, tokens):
    """The best rate of a run, octaves from the study's."""
    return -POWER[trunk.arm] * math.log2(tokens / 10_000)


def _falling(trunk, tokens, steepness=0.1):
    """A world in which each arm's best rate falls with the tokens of a run."""
    return 3 + steepness * (math.log2(trunk.peak_lr / SPEC.peak_lr) - _best(trunk, tokens)) ** 2


def _between(trunk, tokens):
    """The same world, but the best rate lies between those that are tried, in a wide valley."""
    return _falling(trunk, tokens, steepness=0.02) + 0.004 * math.log2(trunk.peak_lr)


def _play_falling(world=_falling, spec=FAR):
    losses = {}
    while True:
        ready = Planner(spec, FACTS, Progress(losses=losses, failures={})).ready_jobs()
        missing = [job for job in ready.jobs if any(r not in losses for r in job.run_ids)]
        if not missing:
            return ready, losses
        for job in missing:
            for tokens in job.budgets:
                losses[job.trunk.run_id(tokens)] = world(job.trunk, tokens)


def test_every_run_has_the_rate_of_its_arm_size_and_budget():
    """As near to the best one as can be known, with every search a world of its own size away."""
    ready, losses = _play_falling()
    wanted = [job for job in ready.jobs if job.trunk.purpose != "tuning"]
    # a run that serves as it is may lose that much as its parabola sees it
    tolerated = 3 * TOLERATED / (1 - 2 * SHRUNK) ** 2
    for job in wanted:
        # lone and distilled students were searched at 0.03M, both teachers at their own size and budget
        sizes = math.log2(0.1 / 0.03) if job.trunk.label == "0.1M" else 0.0
        for run_id, tokens in zip(job.run_ids, job.budgets, strict=True):
            off = octaves_off(sizes, math.log2(tokens / 10_000)) + STEP / 2
            assert losses[run_id] < 3 + max(0.1 * off**2, tolerated), (run_id, losses[run_id])
    runs = {
        (job.trunk.arm, job.trunk.label, tokens): math.log2(job.trunk.peak_lr / SPEC.peak_lr)
        for job in wanted
        if job.trunk.role == "student"
        for tokens in job.budgets
    }
    lone = [runs["supervised", "0.03M", tokens] for tokens in FAR.students.tokens]
    assert lone == pytest.approx([0, -1, -2], abs=0.3)
    assert [runs["distilled", "0.03M", tokens] for tokens in FAR.students.tokens] == pytest.approx([0, 0, 0], abs=0.3)


@pytest.mark.parametrize("share", [{"cooldown": 0.5}, {"cooldown": 1.0, "decay": "cosine"}])
def test_rates_of_budgets_do_not_depend_on_the_share_that_is_cooled(monkeypatch, share):
    """Half of the largest budget is the smallest one here, and they have different best rates nevertheless."""
    monkeypatch.setitem(POWER, "supervised", 2.0)
    spec = replace(FAR, students=replace(FAR.students, tokens=(10_000, 20_000)))

    def rates(recipe):
        ready, _ = _play_falling(spec=replace(spec, training=recipe))
        return {
            (job.trunk.arm, job.trunk.label, tokens): job.trunk.peak_lr
            for job in ready.jobs
            if (job.trunk.role, job.trunk.purpose) == ("student", "grid")
            for tokens in job.budgets
        }

    assert rates(replace(SPEC.training, **share)) == rates(SPEC.training)


def test_the_best_run_of_a_search_is_the_grids():
    ready, _ = _play_falling()
    jobs = {}
    for job in ready.jobs:
        jobs.setdefault(job.trunk.trunk_id, []).append(job)
    shared = [found for found in jobs.values() if {j.trunk.purpose for j in found} > {"tuning"}]
    assert len(shared) >= 3, "at least one in every arm"


def test_a_control_on_a_trunk_of_the_grid_stays_a_control():
    """It was the grid's, so that a lone student at twice its best rate was what `plan` compared with."""
    cell = DesignSpec(name="rates", params=("0.1M",), tokens=(20_000, 40_000), teachers=("none",), rates=(1.0, 2.0))
    spec = replace(SPEC, tuning=TuningSpec(enabled=False), cells=(cell,))
    ready = Planner(spec, FACTS, Progress(losses={}, failures={})).ready_jobs()
    alone = [j for j in ready.jobs if (j.trunk.label, j.trunk.arm, j.trunk.role) == ("0.1M", "supervised", "student")]
    found = {(j.trunk.peak_lr, tokens): j.trunk.purpose for j in alone for tokens in j.budgets}
    rate = spec.peak_lr
    assert found == {
        **dict.fromkeys([(rate, 10_000), (rate, 20_000)], "grid"),
        **dict.fromkeys([(rate, 40_000), (2 * rate, 20_000), (2 * rate, 40_000)], "control:rates"),
    }
    (shared,) = [job for job in one_per_trunk(alone) if job.trunk.peak_lr == rate]
    assert (shared.trunk.purpose, shared.budgets) == ("grid", (10_000, 20_000, 40_000))


def test_the_smallest_and_the_largest_teacher_are_searched_and_a_law_serves_between():
    middle = (FAR.teachers[0], TeacherSpec(params="0.1M", tokens=80_000), FAR.teachers[1])

    def searched(horizon):
        spec = replace(FAR, teachers=middle, tuning=TuningSpec(batch=False, horizon=horizon))
        jobs = Planner(spec, FACTS, Progress(losses={}, failures={}), guess=True).ready_jobs().jobs
        return {job.trunk.label for job in jobs if (job.trunk.role, job.trunk.purpose) == ("teacher", "tuning")}

    assert searched("target") == searched("ends") == {"0.05M", "0.2M"}
    assert searched("smallest") == {"0.05M"}
    assert searched("none") == set()


def test_budgets_that_want_one_rate_share_a_trunk():
    spec = replace(FAR, tuning=TuningSpec(batch=False, horizon="none"))
    jobs = Planner(spec, FACTS, Progress(losses={}, failures={}), guess=True).ready_jobs().jobs
    grid = [job for job in jobs if job.trunk.purpose == "grid"]
    assert all(job.budgets == FAR.students.tokens for job in grid) and len(grid) == 2 * (1 + 2)


def test_what_can_be_foreseen_is_what_is_trained_where_searches_stay(monkeypatch):
    """Before anything is trained, and at every moment after, done and left add up to the whole."""
    monkeypatch.setitem(POWER, "supervised", 0.25)
    spec = replace(FAR, teachers=FAR.teachers[:1])
    before = study_cost(spec, 512, facts=FACTS)
    ready, losses = _play_falling(_between, spec)
    assert before.num_runs == len(losses)
    assert len(before.jobs) == len({job.trunk.trunk_id for job in ready.jobs})
    some = dict(list(losses.items())[: len(losses) // 2])
    left = study_cost(spec, 512, facts=FACTS, progress=Progress(losses=some, failures={}))
    assert left.num_runs == len(losses) - len(some) and sum(left.seconds) < sum(before.seconds)
    done = study_cost(spec, 512, facts=FACTS, progress=Progress(losses=losses, failures={}))
    assert done.num_runs == 0 and done.wall_seconds(2) == 0


def test_whatever_is_wanted_is_foreseen_at_every_moment():
    """Best values lie between those tried; what was found counts as found, so that time left reaches nothing."""
    losses = {}
    while True:
        progress = Progress(losses=losses, failures={})
        ready = Planner(FAR, FACTS, progress).ready_jobs()
        ahead = study_cost(FAR, 512, facts=FACTS, progress=progress).wanted
        foreseen = {run_id for job in ahead for run_id in job.run_ids}
        wanted = {job.trunk.run_id(t): _between(job.trunk, t) for job in ready.jobs for t in job.budgets}
        assert wanted.keys() <= foreseen
        if wanted.keys() <= losses.keys():
            break
        losses |= wanted
    assert study_cost(FAR, 512, facts=FACTS, progress=progress).num_runs == 0


def test_a_trunk_that_goes_on_costs_what_is_left_of_it():
    (job, *_) = _students(_ready(SPEC), "grid")
    (left,) = left_of([job], {job.run_ids[0]})
    assert left.budgets == job.budgets[1:]
    assert left.tokens == pytest.approx(0.8 * (20_000 - 10_000) + 0.2 * 20_000)


def test_run_ids_tell_near_budgets_apart():
    point = LatticePoint(SearchPlace("supervised", "0.1M"), 0, 0)
    trunk = Planner(SPEC, FACTS, Progress(losses={}, failures={})).point(point, None).trunk
    assert trunk.run_id(100_000) != trunk.run_id(100_400)


def _ready(spec, **settings):
    """The ready of a study that searches no rate and has everything finished that something waits for."""
    fixed = replace(spec, tuning=TuningSpec(enabled=False))
    return Planner(fixed, FACTS, Progress(losses=_All(), failures={}), **settings).ready_jobs()


class _All(dict):
    def __contains__(self, key):
        return True


def _students(ready, purpose):
    return [job for job in ready.jobs if job.trunk.role == "student" and job.trunk.purpose == purpose]


def test_cells_go_on_where_the_grid_ends():
    """A longer budget for one size is the same trunk: its branch is added, nothing is trained twice."""
    spec = replace(SPEC, cells=(DesignSpec(params=("0.03M",), tokens=(40_000,), teachers=("none", "0.2M@30k")),))
    longer = {job.trunk.trunk_id: job.budgets for job in _students(_ready(spec), "grid")}
    before = {job.trunk.trunk_id: job.budgets for job in _students(_ready(SPEC), "grid")}
    assert longer.keys() == before.keys()
    assert sorted(set(longer.values())) == [(10_000, 20_000), (10_000, 20_000, 40_000)]
    assert sum(40_000 in budgets for budgets in longer.values()) == 2


def test_held_out_students_wait_until_their_predictions_are_frozen():
    spec = replace(SPEC, cells=(DesignSpec(params=("0.1M",), tokens=(80_000,), teachers=("none",), holdout=True),))
    assert not _students(_ready(spec, holdout=False), "holdout")
    (job,) = _students(_ready(spec), "holdout")
    assert job.budgets == (80_000,)
    assert job.trunk.trunk_id in {other.trunk.trunk_id for other in _students(_ready(spec), "grid")}


def test_a_cell_may_bring_its_rate_and_is_no_control_for_it():
    known = DesignSpec(params=("0.1M",), tokens=(80_000,), teachers=("none",), peak_lr=0.0026)
    (trunk,) = {job.trunk for job in _students(_ready(replace(SPEC, cells=(known,))), "grid")} - {
        job.trunk for job in _students(_ready(SPEC), "grid")
    }
    assert trunk.peak_lr == 0.0026
    with pytest.raises(ConfigError, match="peak_lr = 2: a rate at width 64"):
        check_study(replace(SPEC, cells=(replace(known, peak_lr=2.0),)))


def test_controls_are_runs_of_their_own_that_no_law_sees():
    weak = DesignSpec(
        name="lambda", params=("0.1M",), tokens=(20_000,), teachers=("0.2M@30k",), training={"distill_weight": 0.5}
    )
    union = DesignSpec(name="union", params=("0.1M",), tokens=(20_000,), teachers=("none",), split="union")
    rates = DesignSpec(name="horizon", params=("0.1M",), tokens=(20_000,), teachers=("none",), rates=(0.5, 1.0, 2.0))
    ready = _ready(replace(SPEC, cells=(weak, union, rates)))
    assert len(_students(ready, "grid")) == len(_students(_ready(SPEC), "grid"))
    (job,) = _students(ready, "control:lambda")
    assert job.trunk.recipe == replace(SPEC.training, distill_weight=0.5)
    (job,) = _students(ready, "control:union")
    assert job.trunk.split == "union"
    found = sorted(job.trunk.peak_lr for job in _students(ready, "control:horizon"))
    assert found == [pytest.approx(SPEC.peak_lr / 2), pytest.approx(SPEC.peak_lr * 2)]  # times 1 is the grid's own
    assert not any(serves_laws(f"control:{name}") for name in ("lambda", "union", "horizon"))


def test_a_teacher_of_the_students_own_text_teaches_only_who_asks():
    seen = TeacherSpec(params="0.2M", tokens=30_000, split="student")
    cells = DesignSpec(name="seen", params=("0.1M",), tokens=(20_000,), teachers=(seen.label,))
    ready = _ready(replace(SPEC, teachers=(*SPEC.teachers, seen), cells=(cells,)))
    (job,) = _students(ready, "control:seen")
    teacher = next(j.trunk for j in ready.jobs if j.trunk.role == "teacher" and j.trunk.split == "student")
    assert job.trunk.teacher_run == teacher.run_id(30_000)
    assert len(_students(ready, "grid")) == len(_students(_ready(SPEC), "grid"))


def _play_stopping(spec, world):
    """Run a study with early stopping to its end; returns its students' (teacher's run, tokens), and the notes."""
    losses, order = {}, []
    while True:
        ready = Planner(spec, FACTS, Progress(losses=losses, failures={})).ready_jobs()
        missing = [(job.trunk, t) for job in ready.jobs for t in job.budgets if job.trunk.run_id(t) not in losses]
        if not missing:
            return order, ready.stopped
        trunk, tokens = missing[0]
        losses[trunk.run_id(tokens)] = 3.0 if trunk.role == "teacher" else world(trunk.teacher_run or "none", tokens)
        if trunk.role == "student":
            order.append((trunk.teacher_run or "none", tokens))


def test_students_who_fall_behind_and_do_not_catch_up_get_no_longer_budget():
    budgets = (10_000, 20_000, 40_000)
    lags = {"none": (0.5, 0.6, 0.7), "-0.05M-": (0.05, 0.3, 0.6), "-0.2M-": (0, 0, 0), "-0.4M-": (0.3, 0.2, 0.05)}
    spec = replace(
        SPEC,
        tuning=TuningSpec(enabled=False),
        early_stop=EarlyStopSpec(margin=0.1),
        students=StudentsSpec(params=("0.03M",), tokens=budgets),
    )

    def world(teacher, tokens):
        return 3 + next(lag for name, lag in lags.items() if name in teacher)[budgets.index(tokens)]

    order, (note,) = _play_stopping(spec, world)
    reached = {name: [t for teacher, t in order if name in teacher] for name in lags}
    assert reached == {name: list(budgets[:2] if name == "-0.05M-" else budgets) for name in lags}
    assert "from-0.05M" in note and "0.300 nats behind" in note
    tokens = [t for _, t in order]
    assert tokens == sorted(tokens), "a longer budget began before every arm had finished the one before"


def test_early_stopping_waits_for_teachers_still_in_training():
    spec = replace(SPEC, tuning=TuningSpec(enabled=False), early_stop=EarlyStopSpec(margin=0.1))
    ready = Planner(spec, FACTS, Progress(losses={}, failures={})).ready_jobs()
    assert ready.waiting
    assert {job.budgets for job in _students(ready, "grid")} == {(10_000,)}


def test_a_removed_cell_is_one_change_and_a_changed_setting_another(tmp_path):
    """... not one for every setting of the cells after it."""
    cells = tuple(DesignSpec(tokens=(10_000 * k,), name=f"control-{k}", split="union") for k in range(1, 8))
    write_json(tmp_path / "study.json", {"spec": asdict(replace(SPEC, cells=cells))})
    assert changed_settings(tmp_path, replace(SPEC, cells=cells)) == []
    (line,) = changed_settings(tmp_path, replace(SPEC, cells=(*cells[:2], *cells[3:])))
    assert line == 'cells.3 was removed: tokens [30000], name "control-3", split "union"'
    (line,) = changed_settings(tmp_path, replace(SPEC, cells=(replace(cells[0], seeds=2), *cells[1:])))
    assert line == "cells.1.seeds was 1, now 2"
    (line,) = changed_settings(tmp_path, replace(SPEC, cells=cells, batch_tokens=512))
    assert line == "batch_tokens was 256, now 512"
