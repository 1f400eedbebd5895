"""Arms of first weights in a study: fresh, cut out of the teacher under test, cut out of one reference."""

import math
from dataclasses import replace

import pytest

from distillaw.errors import CacheError, ConfigError, VocabularyError
from distillaw.runs.store import StudyFolder
from distillaw.sweep.checks import check_cuts, check_study
from distillaw.sweep.cost import MOVES, makespan, study_vocab
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import NOTHING, Facts, Progress, one_per_trunk
from distillaw.sweep.spec import DesignSpec, StudentsSpec, StudySpec, TeacherSpec, TuningSpec
from small_teacher import SHAPE, write_teacher

SPEC = StudySpec(
    name="arms",
    students=StudentsSpec(
        params=("0.03M", "0.1M"), tokens=(10_000, 20_000), starts=("fresh", "pruned", "fixed"), reference="0.4M@30k"
    ),
    teachers=(
        TeacherSpec(params="0.05M", tokens=30_000),
        TeacherSpec(params="0.2M", tokens=30_000),
        TeacherSpec(params="0.4M", tokens=30_000),
    ),
    batch_tokens=256,
    tuning=TuningSpec(enabled=False),
)
FACTS = Facts(vocab_size=512, data_hash="d", fingerprints={})
TUNED = replace(SPEC, tuning=TuningSpec(batch=False))


def _play(spec, best=lambda trunk: 0.0, facts=FACTS, fails=""):
    """Run the planner to its end in a world where the best rate of a trunk lies `best` octaves from the start, and
    teachers of the size `fails` fail."""
    losses, failures = {}, {}
    for _ in range(200):
        ready = Planner(spec, facts, Progress(losses=losses, failures=failures)).ready_jobs()
        ended = losses.keys() | failures.keys()
        missing = [job for job in ready.jobs if any(run_id not in ended for run_id in job.run_ids)]
        if not missing:
            return ready, losses
        for job in missing:
            if (job.trunk.purpose, job.trunk.label) == ("teacher", fails):
                failures |= dict.fromkeys(job.run_ids, "out of memory")
                continue
            rate = math.log2(job.trunk.peak_lr / spec.peak_lr)
            losses |= dict.fromkeys(job.run_ids, 3 + 0.1 * (rate - best(job.trunk)) ** 2)
    raise AssertionError("the study never ends")


def _students(ready, arm):
    return [j.trunk for j in ready.jobs if (j.trunk.purpose, j.trunk.start_arm) == ("grid", arm)]


def test_every_arm_has_its_students_alone_and_from_every_teacher_that_holds_them():
    ready, _ = _play(SPEC)
    assert len(_students(ready, "fresh")) == len(_students(ready, "fixed")) == 2 * (1 + 3)
    pruned = [(t.label, t.teacher_run, t.cut_from) for t in _students(ready, "pruned")]
    small = [p for p in pruned if p[0] == "0.03M"]
    assert len(small) == 2 * 3 and len(pruned) == 2 * 3 + 2 * 2, "0.1M is no part of 0.05M"
    assert all(cut is None for _, teacher, cut in pruned if teacher), "out of the very teacher under test"
    assert {cut for _, teacher, cut in small if not teacher} == {teacher for _, teacher, _ in small if teacher}
    sources = {t.cut_from or t.teacher_run for t in _students(ready, "fixed")}
    assert len(sources) == 1 and sources.pop().startswith("teacher-0.4M")


def test_arms_of_a_size_have_one_architecture():
    ready, _ = _play(SPEC)
    for size in SPEC.students.params:
        shapes = {t.shape for arm in SPEC.students.starts for t in _students(ready, arm) if t.label == size}
        assert len(shapes) == 1


def test_a_run_that_serves_two_arms_is_trained_once():
    """Cut out of the reference and taught by it: the fixed arm's and the pruned arm's."""
    ready, _ = _play(SPEC)
    both = {t.trunk_id for t in _students(ready, "pruned")} & {t.trunk_id for t in _students(ready, "fixed")}
    assert len(both) == 2 * 2, "each size, alone and taught"


def test_cut_students_wait_for_what_they_are_cut_out_of():
    ready = Planner(SPEC, FACTS, NOTHING).ready_jobs()
    assert {job.trunk.start_arm for job in ready.jobs} == {"fresh"} and not any(j.trunk.teacher_run for j in ready.jobs)
    assert any(line.startswith("fixed alone students wait for teacher-0.4M") for line in ready.waiting)


def test_each_arm_gets_its_own_rates():
    octaves = {"fresh": 0.0, "pruned": -2.0, "fixed": -1.0}
    ready, _ = _play(TUNED, lambda t: octaves[t.start_arm] - (0.5 if t.teacher_run is None else 0.0))
    deepest = {"pruned deepest", "pruned deepest alone"}
    assert set(ready.cuts) == {"pruned", "pruned alone", "fixed", "fixed alone"} | deepest
    rates = {
        (arm, bool(t.teacher_run)): t.peak_lr for arm in octaves for t in _students(ready, arm) if t.label == "0.03M"
    }
    assert rates["pruned", True] < rates["fixed", True] < rates["fresh", True]
    assert rates["pruned", False] < rates["fresh", False]


def test_rates_of_pruned_students_go_with_the_depth_of_the_cut():
    """Searched at a mild and at the deepest cut; a cut between them lies between."""
    spec = replace(TUNED, teachers=(*TUNED.teachers[1:], TeacherSpec(params="0.8M", tokens=30_000)))
    spec = replace(spec, tuning=replace(spec.tuning, teacher="0.2M@30k"))
    octaves = {"teacher-0.2M": 0.0, "teacher-0.4M": -1.0, "teacher-0.8M": -2.0}

    def best(trunk):
        source = trunk.cut_from or trunk.teacher_run or ""
        is_pruned = trunk.start_arm == "pruned"
        return next((o for name, o in octaves.items() if is_pruned and source.startswith(name)), 0.0)

    ready, _ = _play(spec, best)
    for is_taught in (True, False):
        found = {
            str(t.cut_from or t.teacher_run)[:12]: math.log2(t.peak_lr / spec.peak_lr)
            for t in _students(ready, "pruned")
            if t.label == "0.03M" and bool(t.teacher_run) == is_taught
        }
        assert found == {name: pytest.approx(best, abs=0.3) for name, best in octaves.items()}


def test_one_failed_teacher_costs_its_own_students_alone():
    """Rates of cut arms are then searched with another teacher, as those of the distilled arm are."""
    ready, _ = _play(TUNED, fails="0.2M")
    of = {arm: {t.teacher_run or t.cut_from for t in _students(ready, arm)} for arm in TUNED.students.starts}
    assert all(len(of[arm] - {None}) == 2 for arm in ("fresh", "pruned")) and not any(
        "teacher-0.2M" in str(name) for names in of.values() for name in names
    )
    fixed = {t.teacher_run for t in _students(ready, "fixed")}
    assert len(fixed) == 3 and all("0.2M@30k" in line or "teacher-0.2M" in line for line in ready.waiting)


def test_the_search_of_fresh_students_from_a_teacher_is_for_studies_that_have_them():
    def searched(**students):
        ready, _ = _play(replace(TUNED, students=replace(TUNED.students, **students)))
        trunks = [job.trunk for job in ready.jobs if job.trunk.purpose == "tuning"]
        return {(trunk.start_arm, trunk.arm) for trunk in trunks if trunk.role == "student"}

    alone = ("fresh", "supervised")  # batch and teachers' rates rest on it
    assert searched(starts=("pruned",), reference="") == {alone, ("pruned", "supervised"), ("pruned", "distilled")}
    assert ("fresh", "distilled") in searched(starts=("fresh", "pruned"), reference="")


def test_a_study_without_starts_has_the_runs_that_it_had():
    plain = replace(SPEC, students=StudentsSpec(params=SPEC.students.params, tokens=SPEC.students.tokens))
    ready, _ = _play(plain)
    assert {t.trunk_id for t in _students(ready, "fresh")} == {t.trunk_id for t in _students(_play(SPEC)[0], "fresh")}


def test_cuts_of_earlier_versions_keep_their_names():
    """As v0.1 named them: the uniform cut out of the student's own teacher."""
    trunk = Planner(SPEC, FACTS, NOTHING).trunk(
        "student", "0.03M", 0.01, 256, 0, "teacher-0.2M@30k-alone-s0-12345678-30000t"
    )
    assert replace(trunk, init="pruned").trunk_id == "student-0.03M-from-0.2M@30k-s0-7e4bf912"


@pytest.mark.parametrize(
    ("students", "said"),
    [
        ({"starts": ("fresh", "cut")}, "none of fresh, pruned, fixed"),
        ({"starts": ("pruned", "pruned")}, "at most once"),
        ({"starts": ("fresh",)}, "add it to starts"),
        ({"reference": ""}, "without a reference"),
        ({"reference": "0.3M@30k"}, "neither a teacher of this study"),
        ({"reference": "0.05M@30k"}, "0.1M cannot be cut out of 0.05M"),
        ({"params": ("0.03M", "0.3M")}, "pruned arm takes 2"),
        ({"criterion": "magnitude"}, "uniform, activation, gradient"),
        ({"reference": "0.4M@30k on student text"}, "has read the students' text"),
    ],
)
def test_what_cannot_be_cut_is_said_before_anything_trains(students, said):
    spoilt = TeacherSpec(params="0.4M", tokens=30_000, split="student")
    with pytest.raises(ConfigError, match=said):
        check_study(
            _with_corpus(replace(SPEC, students=replace(SPEC.students, **students), teachers=(*SPEC.teachers, spoilt)))
        )


def test_a_reference_that_goes_by_the_name_of_another_teacher_is_refused(tmp_path):
    """Both would be `model` in tables, and one would be taken for the other."""
    for place in ("a/model", "b/model"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.json").write_text("{}")
    teachers = (*SPEC.teachers, TeacherSpec(path=str(tmp_path / "a/model")))
    for place in ("a/model", "b/model"):
        students = replace(SPEC.students, starts=("fresh", "fixed"), reference=str(tmp_path / place))
        spec = _with_corpus(replace(SPEC, teachers=teachers, students=students))
        if place == "a/model":
            check_study(spec)
            continue
        with pytest.raises(ConfigError, match="rename one of the folders"):
            check_study(spec)


def test_sizes_of_cells_are_held_by_two_teachers_and_named_where_one_does_not():
    more = replace(SPEC, cells=(DesignSpec(tokens=(10_000,), params=("0.3M",)),))
    with pytest.raises(ConfigError, match=r"0\.3M is part of 1 of the teachers"):
        check_study(_with_corpus(more))
    enough = replace(more, teachers=(*SPEC.teachers, TeacherSpec(params="0.8M", tokens=30_000)))
    check_study(_with_corpus(enough))
    assert "0.3M from 0.05M@30k, 0.2M@30k" in enough.left_uncut()[0]


def test_cut_students_wait_on_the_clock_too_for_what_they_are_cut_out_of():
    jobs = one_per_trunk(Planner(SPEC, FACTS, NOTHING, guess=True).ready_jobs().jobs)
    own = [job for job in jobs if job.trunk.role == "teacher" or (job.trunk.cut_from and not job.trunk.teacher_run)]
    seconds = [1000.0 if job.trunk.role == "teacher" else 100.0 for job in own]
    assert makespan(own, seconds, jobs, 64) == 1100


def test_rates_of_cut_students_are_searched_beside_those_of_students_with_a_teacher():
    jobs = Planner(TUNED, FACTS, NOTHING, guess=True).ready_jobs().jobs
    searched = [job for job in jobs if job.trunk.purpose == "tuning" and job.budgets == (10_000,)]
    cut = next(job for job in searched if job.trunk.cut_from and not job.trunk.teacher_run)
    taught = next(job for job in searched if job.trunk.teacher_run and not job.trunk.cut_from)
    teacher = next(job for job in jobs if taught.trunk.teacher_run in job.run_ids)
    assert makespan([teacher, cut, taught], [1000.0, 100.0, 100.0], jobs, 64) == 1000 + 100 + MOVES * 200


@pytest.mark.parametrize("count", [0, 1])
def test_an_arm_with_fewer_than_two_teachers_is_refused(count):
    spec = replace(
        SPEC, teachers=SPEC.teachers[:count], students=replace(SPEC.students, starts=("pruned",), reference="")
    )
    with pytest.raises(ConfigError, match=f"with {count} teachers"):
        check_study(_with_corpus(spec))


def test_an_external_teacher_that_does_not_hold_a_student_is_refused():
    outside = replace(SPEC, teachers=(*SPEC.teachers, TeacherSpec(path="owner/small")))
    with pytest.raises(ConfigError, match="cannot be cut out of small"):
        check_cuts(outside, 512, lambda name: SPEC.shape("0.02M", 512))


def test_teachers_of_two_vocabularies_are_refused_before_a_text_is_tokenised(tmp_path):
    folders = [write_teacher(tmp_path / str(vocab), replace(SHAPE, vocab=vocab), batches=1) for vocab in (300, 310)]
    teachers = tuple(TeacherSpec(path=str(folder)) for folder in folders)
    outside = replace(SPEC, teachers=teachers, students=replace(SPEC.students, starts=("pruned",), reference=""))
    for tokenizer in ("", str(folders[0])):
        with pytest.raises(VocabularyError, match=r"310: the teacher has another vocabulary \(310 .* against 300"):
            study_vocab(replace(outside, data=replace(outside.data, tokenizer=tokenizer)))
    alike = replace(outside, teachers=outside.teachers[:1], data=replace(outside.data, tokenizer=str(folders[0])))
    assert study_vocab(alike) == 300


def _with_corpus(spec):
    return replace(spec, data=replace(spec.data, corpus="sotu"))


def test_a_model_that_was_replaced_is_not_cut_under_its_old_name(tmp_path):
    """The run is named by the weights that the study was planned with."""
    from distillaw.train.group import cut_source

    write_teacher(tmp_path / "model")
    trunk = Planner(SPEC, FACTS, NOTHING).trunk("student", "0.03M", 0.01, 256, 0)
    cut = replace(trunk, init="pruned", cut_from=str(tmp_path / "model"), cut_fingerprint="another")
    with pytest.raises(CacheError, match="not the model"):
        cut_source(cut, StudyFolder(tmp_path / "study"), None)
