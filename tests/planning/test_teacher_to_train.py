"""A teacher that nobody has: its training is paid for before it may head a verdict, under every scenario and budget."""

import pytest

from distillaw.errors import ConfigError
from distillaw.planning.api import plan
from distillaw.planning.situation import SCENARIOS, Teacher

THREE = Teacher(name="3B", params=3e9, tokens=6e10, exists=False)
EIGHT = Teacher(name="8B", params=8e9, tokens=1.6e11)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("teachers", [[], [THREE], [THREE, EIGHT]], ids=["none", "to train", "one of them at hand"])
@pytest.mark.parametrize("students_served", [1, 200])
def test_no_teacher_heads_a_verdict_whose_training_is_not_paid(scenario, teachers, students_served):
    asked = {"scenario": scenario, "teachers": teachers, "students_served": students_served}
    if students_served > 1 and EIGHT in teachers and SCENARIOS[scenario].delta_pre == 0:
        with pytest.raises(ConfigError, match="does nothing here"):  # beside it nobody trains one
            plan("1B", student_tokens="20B", **asked, with_flips=False)
        return
    verdict = plan("1B", student_tokens="20B", **asked, with_flips=False)
    own = verdict.headline.pretrain.compute["total"]
    for row in verdict.strategies:
        if row.teacher is None or row.is_speculative:
            continue
        is_free = row.teacher.exists and SCENARIOS[scenario].delta_pre == 0
        assert is_free or row.compute["total"] <= own * (1 + 1e-6), "no more than pretraining may spend"
    said = " ".join(verdict.assumptions)
    assert "the teacher exists" not in said
    answer = verdict.to_json()
    assert answer["student_tokens"] == 2e10
    if answer["comparison"] == "equal-compute":
        assert answer["equal_compute"]["verdict"] in (answer["verdict"], None)


def test_without_a_teacher_the_question_is_that_of_the_students_own_flop():
    tokens = plan("1B", student_tokens="20B", with_flips=False)
    compute = plan("1B", compute=tokens.headline.pretrain.compute["total"], with_flips=False)
    assert tokens.verdict == compute.verdict == "pretrain"
    assert tokens.probability == compute.probability and tokens.gain == compute.gain
    assert compute.with_a_teacher is None


def test_what_a_teacher_at_hand_would_be_worth_is_said_and_is_what_asking_with_it_gives():
    verdict = plan("1B", student_tokens="20B", with_flips=False)
    supposed = verdict.with_a_teacher
    row = supposed.row.teacher
    there = Teacher(name=row.name, params=row.params, tokens=row.tokens)
    asked = plan("1B", student_tokens="20B", teachers=[there], with_flips=False)
    assert asked.verdict == supposed.call.verdict == "distil"
    assert asked.gain.mean == pytest.approx(supposed.gain.mean, abs=0.003), "one of five, drawn together"
    assert "already trained" in verdict.sentence and any(row.called in line for line in verdict.reasons)
    assert verdict.to_json()["with_a_teacher"]["teacher_params"] == row.params


def test_a_teacher_to_be_trained_wins_where_enough_students_share_it():
    verdicts = {
        n: plan("1B", student_tokens="20B", scenario="best-case", students_served=n, with_flips=False)
        for n in (1, 1000)
    }
    assert {n: v.verdict for n, v in verdicts.items()} == {1: "pretrain", 1000: "distil"}
    assert verdicts[1000].headline.best.kind == "train-teacher"


def test_beside_a_teacher_at_hand_one_to_be_trained_is_left_out_and_said():
    verdict = plan("1B", student_tokens="20B", teachers=[EIGHT, THREE], with_flips=False)
    assert verdict.headline.best.teacher == EIGHT and verdict.situation.comparison == "equal-tokens"
    assert any(line.startswith("left out: the 3B: it must be trained") for line in verdict.warnings)


def test_training_that_nobody_can_price_is_refused():
    alone = Teacher(name="t", loss=2.0)
    with pytest.raises(ConfigError, match="nobody can price"):
        plan("1B", student_tokens="20B", teachers=[alone], scenario="pretraining")
    sized = Teacher(name="t", params=8e9, loss=2.0)
    verdict = plan("1B", compute=1e23, teachers=[sized], scenario="pretraining", with_flips=False)
    assert any("without its tokens its training cannot be priced" in line for line in verdict.warnings)
