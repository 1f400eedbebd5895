"""What would change the answer: each flip is checked by asking the changed question."""

import pytest

from distillaw.planning.api import plan
from distillaw.planning.flips import find_flips
from distillaw.planning.situation import Teacher

CALL = {"student_params": "1B", "compute": 1e21}
EIGHT = Teacher(name="8B", params=8e9, tokens=3e11)


def changed(flip, call, teachers):
    """The arguments of `plan` with one flip made true, or nearly (steps are halved, not solved)."""
    if flip.input == "teacher_loss":
        moved = flip.then - min(t.loss for t in teachers)
        new = [Teacher(name=t.name, params=t.params, tokens=t.tokens, loss=t.loss + moved) for t in teachers]
        return {**call, "teachers": new}
    names = {"tokens": "student_tokens"}
    return {**call, "teachers": teachers, names.get(flip.input, flip.input): flip.then}


@pytest.mark.parametrize(
    ("call", "teachers"),
    [
        (CALL, [EIGHT]),
        ({"student_params": "1B", "student_tokens": 2e10}, [EIGHT]),
        ({"student_params": "1B", "student_tokens": 2e10}, [Teacher(name="t", params=4e9, loss=2.0)]),
        ({**CALL, "scenario": "pretraining"}, []),
    ],
)
def test_asking_the_changed_question_gives_the_verdict_promised(call, teachers):
    verdict = plan(**call, teachers=teachers)
    assert [f.distance for f in verdict.flips] == sorted(f.distance for f in verdict.flips)
    for flip in verdict.flips:
        then = plan(**changed(flip, call, teachers), with_flips=False)
        assert flip.verdict != verdict.verdict
        # fewer draws are taken while searching: at the very edge the call may fall back to too close, or to before
        edge = min(abs(then.call.distil - 0.8), abs(then.call.pretrain - 0.8)) < 0.03
        assert then.verdict == flip.verdict or edge, (flip.sentence, then.verdict)
        assert flip.sentence in verdict.flips_if


def test_a_change_that_does_not_matter_is_not_a_flip():
    verdict = plan(
        "1B", compute=1e21, teachers=[Teacher(name="bad", params=1e9, loss=2.55)], may_train_teacher=False
    )
    assert verdict.verdict == "pretrain"
    assert not [f for f in verdict.flips if f.input == "students_served"]


def test_where_the_laws_alone_say_otherwise_nothing_is_said_to_flip():
    weak = plan("1B", student_tokens=2e10, teachers=[Teacher(name="bad", params=5e8, tokens=1e10)])
    assert weak.verdict == "pretrain" and weak.flips
    decided_by_runs = find_flips(weak.situation, weak.sources, "distil", trains_teacher=False)
    assert decided_by_runs == [], "a step of nothing at all would have flipped it"


def test_flips_are_in_the_json():
    answer = plan(**CALL, teachers=[EIGHT]).to_json()
    for flip in answer["flips"]:
        assert {"input", "now", "then", "verdict", "distance", "sentence"} == flip.keys()
