"""What further runs cost beside those that exist."""

from itertools import pairwise

import pytest

from distillaw.settling.question import (
    NONE,
    PilotRun,
    Stage,
    extra_flops,
    joined,
    made_by,
    stage_flops,
    wanted_by,
)
from tests.settling.questions import make_question

QUESTION = make_question()
SIZE, SMALL = QUESTION.sizes[3], QUESTION.sizes[1]
UNIT = 65_536
TEACHER = "t0"


def stage(*tokens, size=SIZE, candidates=(), seeds=(0,), also=()):
    return Stage(
        size=size.label, also=also, tokens=tuple(k * UNIT for k in tokens), candidates=candidates, seeds=seeds
    )


def price(new, made=None, question=QUESTION):
    return extra_flops(question, made or {}, wanted_by(QUESTION, [new]))


def test_from_nothing_it_is_the_price_of_a_stage():
    for one in (stage(100), stage(25, 50, 100, candidates=(TEACHER,), seeds=(0, 1), also=(SMALL.label,))):
        assert price(one) == pytest.approx(stage_flops(QUESTION, one))


def test_what_exists_is_free_and_a_longer_budget_goes_on_from_the_last_branch_point():
    made = wanted_by(QUESTION, [stage(25, 50)])
    assert price(stage(25), made) == price(stage(50, 25), made) == 0.0
    longer = SIZE.flops * UNIT * (0.8 * (100 - 50) + 0.2 * 100)
    assert price(stage(100), made) == price(stage(50, 100), made) == pytest.approx(longer)
    assert price(stage(100), made) < price(stage(100))


def test_a_shorter_budget_starts_over():
    made = wanted_by(QUESTION, [stage(100)])
    assert price(stage(50), made) == pytest.approx(SIZE.flops * UNIT * 50)
    assert price(stage(50, 200), made) == pytest.approx(SIZE.flops * UNIT * (0.8 * 200 + 0.2 * 250))


def test_growing_a_trunk_costs_what_it_costs_at_once():
    budgets, whole = (25, 50, 100, 400), stage(25, 50, 100, 400)
    parts = [
        extra_flops(QUESTION, wanted_by(QUESTION, [stage(*budgets[:i])]) if i else {}, wanted_by(QUESTION, [stage(budgets[i])]))
        for i in range(len(budgets))
    ]
    assert sum(parts) == pytest.approx(price(whole))
    assert all(low < high for low, high in pairwise(parts))


def test_one_forward_pass_serves_the_students_of_a_seed():
    question = make_question()
    dear = [
        c if c.name != TEACHER else type(c)(name=TEACHER, loss=c.loss, flops=1e9) for c in question.candidates
    ]
    question = type(question)(
        **{name: getattr(question, name) for name in question.__slots__} | {"candidates": tuple(dear)}
    )
    teacher = 1e9 * UNIT

    def teaching(new, made=None):
        free = type(question)(
            **{name: getattr(question, name) for name in question.__slots__}
            | {"candidates": make_question().candidates}
        )
        return price(new, made, question) - price(new, made, free)

    both = stage(50, 100, candidates=(TEACHER,), also=(SMALL.label,))
    assert teaching(both) == pytest.approx(teacher * (80 + 0.2 * 150))  # as for one student
    assert teaching(stage(100, candidates=(TEACHER,), seeds=(0, 1))) == pytest.approx(2 * teacher * 100)
    made = wanted_by(QUESTION, [stage(100, candidates=(TEACHER,))])
    assert teaching(stage(100, candidates=(TEACHER,), also=(SMALL.label,)), made) == pytest.approx(
        teacher * 100
    )
    assert teaching(stage(200, candidates=(TEACHER,), also=(SMALL.label,)), made) == pytest.approx(
        teacher * 200
    )


def test_runs_are_trunks():
    runs = [
        PilotRun(candidate=name, params=SIZE.params, tokens=k * UNIT, seed=1, loss=3.0)
        for name in (NONE, TEACHER)
        for k in (25, 50)
    ]
    strange = PilotRun(candidate=NONE, params=123.0, tokens=UNIT, seed=0, loss=3.0)
    made = made_by(QUESTION, [*runs, strange])
    assert made == wanted_by(QUESTION, [stage(25, 50, candidates=(TEACHER,), seeds=(1,))])
    assert joined(made, wanted_by(QUESTION, [stage(100, seeds=(1,))]))[SIZE.label, NONE, 1] == {
        25 * UNIT,
        50 * UNIT,
        100 * UNIT,
    }
