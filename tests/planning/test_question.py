"""One question: what the command is typed and what `dl.plan` is called with are the same fields, refused alike."""

import inspect
from dataclasses import fields

import pytest

import distillaw as dl
from distillaw.cli.plan_options import AskedOptions, LawOptions, question_of
from distillaw.errors import ConfigError
from distillaw.planning.question import PlanQuestion, situation_of
from distillaw.planning.situation import Teacher

FOR_PYTHON = {"seed", "with_flips"}


def named(cls):
    return [field.name for field in fields(cls)]


def test_options_arguments_and_fields_are_the_same():
    options = named(AskedOptions) + named(LawOptions)
    assert options == [name for name in named(PlanQuestion) if name not in FOR_PYTHON]
    assert list(inspect.signature(dl.plan).parameters) == named(PlanQuestion)


def test_nothing_typed_is_a_question_of_defaults():
    assert question_of(AskedOptions(), LawOptions()) == PlanQuestion()
    said_no = question_of(AskedOptions(may_train_teacher=True), LawOptions(published=True))
    assert not said_no.may_train_teacher and not said_no.published  # --only-existing, --no-published


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"device": "h100-sxm"}, "--device h100-sxm does nothing here"),
        ({"price_per_hour": 3.0}, "it prices --money"),
        ({"serve_bandwidth": 1e12}, "--serve-latency"),
        ({"delta_lgt": 1.0, "delta_pre": 0.0, "scenario": "inference"}, "say all that it would"),
        ({"train_teacher": True}, "give both"),
        ({"students_served": 3, "teachers": ["pythia-1.4b"]}, "they share the bill"),
        ({"may_train_teacher": False}, "leaves no teacher"),
        ({"teachers": ["pythia-1.4b"], "teacher_loss": [2.3, 2.2]}, "one loss for each"),
        ({"teachers": [Teacher(name="t", loss=2.1)], "teacher_loss": [2.3]}, "a loss of its own"),
        ({"teacher_params": ["3B"], "teacher_tokens": ["60B", "1T"]}, "one value per teacher"),
        ({"teacher_tokens": ["60B"]}, "they say nothing"),
        ({"level": 1.5}, "between 0.5 and 1"),
    ],
)
def test_what_does_nothing_or_says_too_little_is_refused(asked, match):
    with pytest.raises(ConfigError, match=match):
        situation_of(PlanQuestion(student_params="1B", student_tokens="20B", **asked))


def test_a_question_in_numbers():
    asked = PlanQuestion(
        student_params="300M", money=2000, teacher_params=["3B"], teacher_tokens=["60B"], delta_pre=0.5
    )
    found = situation_of(asked)
    assert found.student_params == 3e8 and found.student_tokens is None and "2,000 $" in found.budget_text
    assert [(t.params, t.tokens, t.exists) for t in found.teachers] == [(3e9, 6e10, True)]
    assert (found.cost_shares.delta_lgt, found.cost_shares.delta_pre) == (1.0, 0.5)


def test_a_budget_that_a_smaller_vocabulary_could_do_with_is_not_refused_before_models_are_read():
    asked = PlanQuestion(student_params="100k", compute=5e10)
    assert situation_of(asked, more_to_come=True).vocab == 1
    with pytest.raises(ConfigError, match="tokens per parameter"):
        situation_of(asked)
