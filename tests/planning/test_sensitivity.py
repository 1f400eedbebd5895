"""What would change the answer: each flip is checked by asking the changed question."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from distillaw.planning.api import plan
from distillaw.planning.sensitivity import switching_values
from distillaw.planning.situation import Teacher
from in_process import answer
from random_questions import changed as changed_question
from random_questions import of_command, random_question, words_of

CALL = {"student_params": "1B", "compute": 1e21}
EIGHT = Teacher(name="8B", params=8e9, tokens=3e11)


def changed(flip, call, teachers):
    """The arguments of `plan` with one flip made true."""
    if flip.input == "teacher_loss":
        return {**call, "teachers": [replace(t, loss=flip.then) if t.name == flip.teacher else t for t in teachers]}
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
        assert then.verdict == flip.verdict, flip.sentence
        assert flip.sentence in verdict.flips_if


def test_a_change_that_does_not_matter_is_not_a_flip():
    verdict = plan(
        "1B",
        compute=1e21,
        teachers=[Teacher(name="bad", params=1e9, loss=2.55)],
        may_train_teacher=False,
        distill_weight=1,
    )
    assert verdict.verdict == "pretrain"
    assert not [f for f in verdict.flips if f.input == "students_served"]


def test_where_the_laws_alone_say_otherwise_nothing_is_said_to_flip():
    bad = Teacher(name="bad", params=5e8, tokens=1e10)
    weak = plan("1B", student_tokens=2e10, teachers=[bad], distill_weight=1)
    assert weak.verdict == "pretrain" and weak.flips
    decided_by_runs = switching_values(weak.situation, weak.sources, "distil", trains_teacher=False)
    assert decided_by_runs == [], "a step of nothing at all would have flipped it"


def test_flips_are_in_the_json():
    answer = plan(**CALL, teachers=[EIGHT]).to_json()
    for flip in answer["flips"]:
        assert {"input", "now", "then", "verdict", "distance", "teacher", "sentence"} == flip.keys()


def flips_of(asked):
    """The verdict and the flips of the command; None where the question is refused."""
    done = answer(*words_of(asked), "--json")
    assert done.returncode in (0, 2), done.stderr
    return None if done.returncode else json.loads(done.stdout)


def check(asked, monkeypatch):
    """Ask, and ask again with every change that was named; how many there were, by input."""
    asked = of_command(asked)
    now = flips_of(asked)
    found = Counter()
    with monkeypatch.context() as patch:
        patch.setattr("distillaw.planning.api.switching_values", lambda *args, **words: [])
        for flip in now["flips"] if now else []:
            then = flips_of(of_command(changed_question(asked, flip)))
            assert then is not None and then["verdict"] == flip["verdict"] != now["verdict"], (asked, flip)
            assert flip["sentence"] in now["flips_if"]
            found[flip["input"]] += 1
    return found


@pytest.mark.parametrize(
    "asked",
    [
        {"named": ["Llama-3.1-8B"], "losses": ["2.3"], "own": []},
        {"named": [], "losses": [], "own": [{"params": "6.98B", "tokens": "15T", "loss": "2.3"}]},
        {
            "named": [],
            "losses": [],
            "own": [{"params": "3B", "tokens": "60B", "loss": "2.15"}, {"params": "7B", "tokens": "1T", "loss": "2"}],
        },
    ],
    ids=["named", "by numbers", "two"],
)
def test_a_change_of_a_teachers_loss_is_what_the_command_answers(asked, monkeypatch):
    check({"student": "1B", "budgetKind": "tokens", "budget": "100B", **asked}, monkeypatch)


@pytest.mark.parametrize("questions", [5, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_every_change_named_gives_the_verdict_promised(questions, monkeypatch):
    rng = np.random.default_rng(2)
    found = sum((check(random_question(rng), monkeypatch) for _ in range(questions)), Counter())
    inputs = {"tokens", "compute", "student_params", "students_served", "scenario", "teacher_loss", "teacher"}
    assert found.total() >= questions and (questions < 500 or found.keys() == inputs)
