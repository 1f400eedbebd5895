"""Every template at several scales: it can be run, keeps the rules of a study, and its file says what was meant."""

import tomllib
from dataclasses import replace
from itertools import pairwise

import pytest

from distillaw.controls.control import EMBEDDING_SHARE, LEAST_STEPS
from distillaw.errors import ConfigError
from distillaw.protocols.catalogue import KINDS, Limit, kind_named, within
from distillaw.protocols.scale import DesignWishes, TextSize, embedding_share
from distillaw.protocols.sheet import YOURS, study_file
from distillaw.protocols.statement import state
from distillaw.quantities import format_flop, parse_count
from distillaw.runs.config import from_table
from distillaw.runs.spec import ARMS
from distillaw.sweep.checks import check_study
from distillaw.sweep.cost import study_cost
from distillaw.sweep.spec import StudySpec

SCALES = {
    "defaults": DesignWishes(),
    "small text": DesignWishes(corpus="sotu", text=TextSize(chars=10.7e6, documents=233)),
    "one GPU": DesignWishes(
        students=(0.3e6, 1e6, 3e6), teachers=(1e6, 3e6, 10e6, 30e6), tokens=(3.5e6, 7e6, 14e6, 28e6)
    ),
}
NAMES = [kind.name for kind in KINDS]


def _sheet(name, scale):
    asked = SCALES[scale]
    kind = kind_named(name)
    if scale == "one GPU" and name == "weak-to-strong":
        asked = replace(asked, students=(3e6, 10e6), teachers=(1e6,))
    if not kind.defaults.teachers:
        asked = replace(asked, teachers=())
    return kind.sheet(asked)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_a_template_can_be_run_and_its_file_gives_it_back(name, scale):
    sheet = _sheet(name, scale)
    spec = sheet.spec(name)
    check_study(spec)
    text = study_file(sheet, spec, ["heading"])
    again = from_table(StudySpec, tomllib.loads(text), name)
    if not SCALES[scale].corpus:
        again = replace(again, data=replace(again.data, corpus=YOURS))
    assert again == spec


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_rules_of_a_small_study_are_kept(name, scale):
    sheet = _sheet(name, scale)
    spec = sheet.spec(name)
    budgets = {tokens for block in spec.blocks() for tokens in block.design.tokens} | {t.tokens for t in spec.teachers}
    assert all(tokens % spec.batch_tokens == 0 for tokens in budgets)
    assert min(budgets) >= LEAST_STEPS * spec.batch_tokens
    assert spec.batch_tokens % spec.training.context == 0
    smallest = min(map(parse_count, spec.students.params))
    assert embedding_share(smallest, spec.data.vocab_size, spec.training) <= EMBEDDING_SHARE
    text = sheet.scale.text
    if text is not None:
        longest = spec.longest()
        assert max(longest.get("student", 0), longest.get("teacher", 0)) <= text
        assert longest.get("union", 0) <= 2 * text
    target = spec.target
    assert target is not None
    served = {
        (size, tokens)
        for block in spec.blocks()
        if block.purpose == "grid"
        for size in block.params
        for tokens in block.design.tokens
    }
    assert (target.params, target.tokens) in served


NAMED = DesignWishes(
    students=(0.15e6, 0.2e6, 0.345678e6), teachers=(0.3e6, 0.5e6, 0.6e6, 0.9e6), tokens=(150e3, 3e5, 6e5, 1.2e6)
)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_names_is_what_is_written(name):
    """Every size and budget that was named, no other teacher, budgets rounded one way, nothing listed twice."""
    kind = kind_named(name)
    asked = NAMED if kind.defaults.teachers else replace(NAMED, teachers=())
    sheet = kind.sheet(asked)
    spec = sheet.spec(name)
    teachers = [teacher for teacher in spec.teachers if not teacher.is_control]
    assert {parse_count(teacher.params) for teacher in teachers} == set(asked.teachers)
    if name != "isoflop-teachers":  # whose question are several budgets of each
        assert len(teachers) == len(asked.teachers)
    plain = [block for block in spec.blocks() if block.purpose == "grid"]
    assert {parse_count(size) for block in plain for size in block.params} == set(asked.students)
    assert [whole - tokens for whole, tokens in zip(sheet.scale.tokens, asked.tokens, strict=True)] == [16, 32, 64, 128]
    assert set(sheet.scale.tokens) <= {tokens for block in plain for tokens in block.design.tokens}
    for cells in spec.cells:
        for listed in (cells.params, cells.tokens, cells.teachers):
            assert len(set(listed)) == len(listed)


def test_two_named_teachers_and_one_budget_are_just_that():
    sheet = kind_named("teacher-choice").sheet(
        DesignWishes(students=(0.2e6,), teachers=(0.3e6, 0.6e6), tokens=(150e3,))
    )
    spec = sheet.spec("x")
    assert [t.params for t in spec.teachers if not t.is_control] == ["0.3M", "0.6M"]
    assert len({t.tokens for t in spec.teachers}) == 1
    assert {n for one in spec.replicates for n in one.tokens} == set(spec.students.tokens) == {150_016}
    assert all(len(set(cells.tokens)) == len(cells.tokens) for cells in spec.cells)


def test_teachers_of_a_kind_without_any_are_refused():
    with pytest.raises(ConfigError, match="without a teacher"):
        kind_named("supervised").sheet(DesignWishes(teachers=(0.3e6,)))


@pytest.mark.parametrize("name", NAMES)
def test_every_control_is_planned_or_its_absence_explained(name):
    sheet = _sheet(name, "defaults")
    spec = sheet.spec(name)
    said = state(spec, study_cost(spec, spec.data.vocab_size))
    missing = {one.name for one in said.controls if not one.is_there}
    # how strong teachers are is a matter of scale, which the statement reports with its numbers
    assert missing - {"strong-teachers"} <= set(sheet.left_out)
    words = "\n".join(said.lines(sheet.left_out))
    assert "what it would identify" in words and "controls" in words


def test_law_protocols_have_all_controls():
    for name in ("isoflop-students", "isoflop-teachers", "fixed-ratio"):
        sheet = _sheet(name, "defaults")
        spec = sheet.spec(name)
        said = state(spec, study_cost(spec, spec.data.vocab_size))
        assert {one.name for one in said.controls if not one.is_there} <= {"strong-teachers"}, name


def test_lines_of_equal_compute():
    spec = _sheet("isoflop-students", "defaults").spec("x")
    own = {c.params[0]: c.tokens for c in spec.cells if not spec.is_control(c) and not c.holdout and not c.teachers}
    products = {parse_count(size) * tokens[0] for size, tokens in own.items()}
    assert max(products) / min(products) < 1.02 and len(own) == 3


def test_teachers_of_a_ladder_are_spaced_in_loss_and_paired():
    sheet = _sheet("teacher-choice", "defaults")
    losses = sorted(sheet.teacher_loss(t) for _, t in sheet.teachers if not t.is_control)
    alone = float(sheet.law(params=0.2e6, tokens=sheet.scale.tokens[-1]))
    assert losses[-1] == pytest.approx(1.05 * alone, rel=0.01)
    assert losses[0] < 0.75 * float(sheet.law(params=0.2e6, tokens=sheet.scale.tokens[0]))
    equal = [a for a, b in pairwise(losses) if b / a < 1.01]
    assert len(equal) >= 2


def test_the_capacity_gap_has_every_arm_and_says_which_cuts_it_leaves_out():
    sheet = _sheet("capacity-gap", "defaults")
    spec = sheet.spec("x")
    assert spec.students.starts == ARMS and spec.reference in spec.teachers
    for arm in ("pruned", "fixed"):  # so that one search serves both
        assert spec.tuned_lessons(arm)[0].source == spec.students.reference
    jobs = study_cost(spec, spec.data.vocab_size).wanted
    cuts = {
        (job.trunk.label, job.trunk.cut_from or job.trunk.teacher_run) for job in jobs if job.trunk.init == "pruned"
    }
    smaller = {(size, t.label) for size in spec.students.params for t in spec.teachers if not spec.can_cut(t, size)}
    assert ("0.3M", "0.1M@4.92M") in smaller and "0.3M from 0.1M@4.92M, 0.2M@4.92M" in spec.left_uncut()[0]
    assert len({size for size, _ in cuts}) == 5 and all(
        label not in str(source) for size, source in cuts for small, label in smaller if small == size
    )


def test_any_kind_takes_the_arms_that_it_is_given():
    sheet = kind_named("teacher-choice").sheet(DesignWishes(starts=("fresh", "fixed"), teachers=(4e5, 8e5)))
    spec = sheet.spec("x")
    check_study(spec)
    assert spec.students.starts == ("fresh", "fixed") and spec.students.reference == spec.tuning.teacher


@pytest.mark.parametrize("name", ["l-shaped", "supervised", "long-run"])
def test_a_budget_is_nearly_spent_and_never_exceeded(name):
    limit = Limit(amount=2e15, price=lambda cost: cost.flops, show=format_flop)
    spec = within(kind_named(name), DesignWishes(), limit).spec(name)
    spent = study_cost(spec, spec.data.vocab_size).flops
    assert 0.5 * limit.amount < spent <= limit.amount


def test_a_budget_too_small_names_the_smallest_that_works():
    kind = kind_named("capacity-gap")
    limit = Limit(amount=1e12, price=lambda cost: cost.flops, show=format_flop)
    with pytest.raises(ConfigError, match=r"the smallest that works costs \d") as raised:
        within(kind, DesignWishes(), limit)
    least = float(str(raised.value).split("costs ")[1].split(" ")[0])
    enough = Limit(amount=1.01 * least, price=lambda cost: cost.flops, show=format_flop)
    assert within(kind, DesignWishes(), enough).scale.tokens[0] > 0


def test_what_leaves_no_choice_or_no_text_is_refused():
    limit = Limit(amount=1e15, price=lambda cost: cost.flops, show=format_flop)
    with pytest.raises(ConfigError, match="leave nothing to choose"):
        within(kind_named("supervised"), DesignWishes(students=(1e5, 2e5, 4e5), tokens=(2e5, 4e5, 8e5)), limit)
    with pytest.raises(ConfigError, match="needs at least 3"):
        kind_named("supervised").sheet(DesignWishes(students=(1e5,)))
    with pytest.raises(ConfigError, match="800 steps of the smallest batch"):
        kind_named("supervised").sheet(DesignWishes(tokens=(1e3, 2e3, 4e3)))
    with pytest.raises(ConfigError, match=r"one half of tiny\.txt holds about"):
        kind_named("supervised").sheet(DesignWishes(corpus="tiny.txt", text=TextSize(chars=1e6, documents=None)))
    with pytest.raises(ConfigError, match="did you mean 'l-shaped'"):
        kind_named("l-shapd")


@pytest.mark.parametrize("name", ["isoflop-students", "supervised"])
def test_hold_outs_take_no_run_from_what_a_study_would_identify(name):
    spec = _sheet(name, "defaults").spec(name)
    assert any(cells.holdout for cells in spec.cells)
    without = replace(spec, cells=tuple(cells for cells in spec.cells if not cells.holdout))
    with_them, counted = (state(s, study_cost(s, 1024)).prospect.outlooks for s in (spec, without))
    for said, wanted in zip(with_them, counted, strict=True):
        assert wanted.has_enough or wanted.form == "kappa"
        assert (said.form, said.num_runs, said.num_trunks) == (wanted.form, wanted.num_runs, wanted.num_trunks)


def test_sections_of_few_long_texts_are_the_documents_that_are_held_out():
    """A hundred of them are not all of a text of two hundred speeches."""
    sheet = kind_named("teacher-choice").sheet(DesignWishes(corpus="sotu", text=None))
    spec = sheet.spec("x")
    cut = replace(spec, data=replace(spec.data, section_chars=20_000, validation_documents=233))
    control = {one.name: one for one in state(cut, study_cost(cut, cut.data.vocab_size)).controls}["single-epoch"]
    assert "about 0 " not in control.words
