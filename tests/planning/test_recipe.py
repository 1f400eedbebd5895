"""The recipe of a question, and what outcomes taught of gains by published laws."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

import distillaw as dl
from distillaw.errors import ConfigError
from distillaw.laws.published import published
from distillaw.outcomes.table import ASKED_ONLY, read_outcomes
from distillaw.planning.learnt import Learnt, TeachingRecipe, learnt
from distillaw.planning.voices import find_voices
from distillaw.verifying.retrodiction import Retrodiction, retrodict

STRONG = {"student_tokens": "20B", "teacher_params": ["1.2B"], "teacher_tokens": ["2T"], "with_flips": False}
WEAK = STRONG | {"teacher_params": ["100M"], "teacher_tokens": ["2B"]}
ANSWERS = Path(__file__).parents[2] / "dev" / "answers.csv"


def gain(**asked):
    return dl.plan("300M", **asked).gain.mean


def test_half_the_weight_keeps_half_of_a_gain_and_an_eighth_of_a_loss():
    assert gain(**STRONG, distill_weight=0.5) == pytest.approx(gain(**STRONG) / 2, rel=0.05)
    assert gain(**WEAK, distill_weight=1) < 0
    assert gain(**WEAK, distill_weight=0.5) == pytest.approx(gain(**WEAK, distill_weight=1) / 8, rel=0.1)


def test_a_weight_that_was_not_said_may_be_well_chosen():
    said, unsaid = dl.plan("300M", **WEAK, distill_weight=1), dl.plan("300M", **WEAK)
    assert said.verdict == "pretrain" and unsaid.verdict == "too-close"
    assert unsaid.gain.mean == pytest.approx(learnt().alone * said.gain.mean, rel=0.1)
    assert unsaid.gain.lower < said.gain.upper and unsaid.gain.upper < -0.2 * said.gain.mean, (
        "no tail on the other side"
    )
    assert "--distill-weight" in unsaid.sentence and "--distill-weight" not in said.sentence
    assert any("No weight" in line for line in unsaid.assumptions)
    strong = dl.plan("300M", **STRONG, distill_weight=1)
    assert gain(**STRONG) == pytest.approx(strong.gain.mean), "what nobody loses does not hang on it"
    cut = WEAK | {"teacher_params": ["400M"], "start": "pruned"}
    assert abs(gain(**cut)) == pytest.approx(abs(gain(**cut, distill_weight=1)), rel=0.2), "cuts mostly learn alone"


def test_beside_fits_of_ones_own_the_weight_is_theirs():
    own = published("surrogate-s1")
    found = find_voices(None, [own], published_too=True)
    assert {voice.learnt.alone for voice in found if voice.learnt} == {learnt().alone}
    assert learnt().of_runs.alone_of("random") == learnt().of_runs.alone_of("pruned") == 1
    assert TeachingRecipe(is_said=False).readings(learnt().of_runs, "random") == (1.0,)


def test_what_ends_on_the_text_keeps_something_and_loses_nothing():
    whole, first = dl.plan("300M", **STRONG), dl.plan("300M", **STRONG, schedule="first")
    assert first.gain.mean == pytest.approx(whole.gain.mean / 2, rel=0.05) and first.call.distil < whole.call.distil
    weak = dl.plan("300M", **WEAK, schedule="annealed")
    assert abs(weak.gain.mean) < 0.001 * weak.headline.pretrain.loss.mean and weak.verdict == "too-close"


@pytest.mark.parametrize("policy", ["on", "sequence"])
def test_nothing_is_said_of_text_that_nobody_measured(policy):
    asked = dl.plan("300M", **STRONG, policy=policy)
    assert asked.verdict == "too-close" and not asked.headline.is_decisive and asked.call.probability == 0.5
    assert asked.headline.status == "NO_RECIPE_LAW" and "samples" in asked.sentence


def test_a_student_may_be_its_own_teacher_and_teachers_a_mean():
    born = dl.plan("300M", student_tokens="20B", teachers=["self"], with_flips=False)
    assert born.headline.best.teacher_loss == pytest.approx(born.headline.pretrain.loss.mean, rel=1e-3)
    known = {"student_tokens": "20B", "teacher_params": ["300M"], "teacher_loss": [2.5], "with_flips": False}
    one, four = dl.plan("300M", **known), dl.plan("300M", **known, ensemble=4)
    assert four.headline.best.compute["teacher_logits"] == 4 * one.headline.best.compute["teacher_logits"]
    assert four.gain == one.gain and "mean of 4 300M models" in four.headline.best.name


def test_truncated_targets_take_a_gain_away_and_leave_it_unsure():
    whole, cut = dl.plan("300M", **STRONG), dl.plan("300M", **STRONG, top_k=12)
    assert whole.verdict == "distil" and cut.verdict == "too-close"
    assert cut.gain.upper - cut.gain.lower > 1.5 * (whole.gain.upper - whole.gain.lower)
    assert dl.plan("300M", **STRONG, top_p=0.9).gain.mean == pytest.approx(cut.gain.mean)


def test_what_truncation_costs_fades_with_the_ids_that_are_kept():
    whole, few = gain(**STRONG), gain(**STRONG, top_k=12)
    kept = [gain(**STRONG, top_k=k) for k in (181, 1_000, 10_000, 32_767)]
    assert few == kept[0] < kept[1] < kept[2] < kept[3] == pytest.approx(whole, rel=1e-3)
    assert few < gain(**STRONG, top_p=0.95) < gain(**STRONG, top_p=0.999) < whole


def test_what_is_not_known_of_a_recipe_is_said_and_changes_nothing():
    usual, asked = (dl.plan("300M", **STRONG), dl.plan("300M", **STRONG, divergence="reverse-kl", temperature=1.2))
    assert asked.gain == usual.gain
    said = " ".join(asked.assumptions)
    assert "reverse-kl" in said and "1.2" in said and "reverse-kl" not in " ".join(usual.assumptions)


@pytest.mark.parametrize(
    "recipe",
    [
        {"distill_weight": 0},
        {"distill_weight": 1.1},
        {"temperature": 0},
        {"top_k": 0},
        {"top_k": 2.5},
        {"top_p": 1.0},
        {"divergence": "kl"},
        {"schedule": "last"},
        {"policy": "some"},
        {"start": "fresh"},
        {"divergence": "reverse-kl", "top_p": 0.9},
        {"schedule": "annealed", "distill_weight": 1},
        {"policy": "sequence", "temperature": 2},
        {"ensemble": 1},
        {"ensemble": 4},
    ],
)
def test_what_is_no_recipe_is_refused(recipe):
    with pytest.raises(ConfigError, match=next(iter(recipe)).replace("_", "-")):
        dl.plan("300M", **STRONG, **recipe)


def test_a_gain_shrinks_as_far_outside_as_students_were_and_no_further():
    known = learnt()
    assert known.share({}) == 1
    assert known.share({"student_params": math.log(10) / 2}) == pytest.approx((1 + known.realised) / 2)
    assert known.share({"student_params": 2.0, "student_tokens": 7.0}) == pytest.approx(known.realised)


def test_repeated_text_is_worth_a_teacher():
    asked = {"student_tokens": "8B", "teacher_params": ["300M"], "teacher_tokens": ["8B"], "with_flips": False}
    few, many = (dl.plan("300M", **asked, unique_tokens=unique) for unique in ("2B", "1B"))
    assert many.call.distil > few.call.distil + 0.3
    assert any("read more than four times" in line for line in many.assumptions)


def test_another_pass_over_the_text_changes_the_answer_by_little():
    """Between four passes and the fewest of any outcome nobody measured."""
    asked = {"student_tokens": "8B", "teacher_params": ["300M"], "teacher_tokens": ["8B"], "with_flips": False}
    found = [dl.plan("300M", **asked, unique_tokens=8e9 / passes).gain for passes in np.geomspace(3.8, 6, 20)]
    means, widths = (np.array(one) for one in zip(*((g.mean, g.upper - g.lower) for g in found), strict=True))
    assert means[-1] - means[0] > 0.05
    assert np.diff(means).max() < 0.015
    assert np.abs(np.diff(np.log(widths))).max() < 0.2


def test_a_source_that_is_left_out_teaches_nothing():
    table = {row.source for row in read_outcomes()}
    changed = [source for source in table if learnt(source) != learnt()]
    assert len(changed) >= 8 and isinstance(learnt("nobody"), Learnt) and learnt("nobody") == learnt()
    assert set(ASKED_ONLY) <= table - set(changed), "a score of rows that no constant saw"


def test_a_tuned_weight_loses_nothing_to_a_weak_teacher():
    tuned = dl.plan("300M", **WEAK, distill_weight="tuned")
    assert 0 < tuned.gain.mean < 0.005 * tuned.headline.pretrain.loss.mean and tuned.verdict == "too-close"
    assert any("several weights" in line for line in tuned.assumptions)


def test_published_laws_alone_are_never_sure():
    assert dl.plan("300M", **WEAK, distill_weight=1).call.pretrain == pytest.approx(0.95, abs=0.01)
    short = dl.plan("8B", **STRONG | {"student_tokens": "1.8B", "teacher_params": ["12B"]})
    assert short.call.probability == 0.5 and "fewer than 0.3" in short.headline.note


def test_of_a_cut_little_of_a_gain_is_counted_and_at_equal_compute_something_is_lost():
    cut = dl.plan("300M", **STRONG, start="pruned")
    assert 0 < abs(cut.gain.mean) < abs(gain(**STRONG)) and any("for a cut" in line for line in cut.assumptions)
    paid = dl.plan("300M", **{k: v for k, v in STRONG.items() if k != "student_tokens"}, compute=5e19)
    assert any("At equal compute" in line for line in paid.assumptions)


def test_at_equal_compute_no_weight_saves_the_tokens_that_a_teacher_costs():
    asked = {"teacher_params": ["8B"], "teacher_tokens": ["200B"], "compute": 1e20, "may_train_teacher": False}
    alone, tuned = (dl.plan("1B", **asked, with_flips=False, distill_weight=w) for w in (1, "tuned"))
    cost = tuned.headline.details["cost"]
    assert cost == alone.headline.details["cost"] < -0.02
    assert tuned.gain.mean / tuned.headline.pretrain.loss.mean > cost - 0.005 and tuned.call.distil < 0.3


def test_a_short_run_is_no_ground_for_a_teacher_but_for_a_cut():
    short = dl.plan("8B", student_tokens="1.8B", teacher_params=["12B"], teacher_tokens=["8T"], with_flips=False)
    assert not short.headline.is_decisive and short.better_start.better == "pruned"


def test_a_cut_needs_a_larger_teacher():
    with pytest.raises(ConfigError, match=r"must be larger: 1\.2B is no more than the student's 2B"):
        dl.plan("2B", **STRONG, start="pruned")


def test_weights_of_a_recipe():
    assert (TeachingRecipe().gained(learnt(), 1024), TeachingRecipe().readings(learnt(), "random")) == (1, (1.0,))
    assert TeachingRecipe(weight=0.5).readings(learnt(), "random") == (0.125,)
    assert TeachingRecipe(is_said=False, is_tuned=True).readings(learnt(), "pruned") == (0.0,)
    assert TeachingRecipe(temperature=2).gained(learnt(), 1024) == pytest.approx(0.8)


@pytest.fixture(scope="module")
def answered():
    return retrodict()


def test_the_planner_is_no_worse_on_published_outcomes_than_its_page_says(answered):
    score, unseen = answered.by("learnt")
    assert (score.group, unseen.group) == ("learnt from", "not learnt from")
    assert score.brier < 0.158 < 0.225 < score.base
    assert score.right >= 0.9 * (score.right + score.wrong) and score.right + score.wrong >= 18
    assert 0.85 <= score.covered / score.intervals <= 0.95
    known = [pair for pair in answered.rows if pair[0].source in ASKED_ONLY]
    fresh = [pair for pair in known if pair[0].source in ("arXiv:2410.18779", "github:numenta/nupic.research#483")]
    with ANSWERS.open(encoding="utf-8") as file:
        asked_of = {row["id"]: row["version"][:8] for row in csv.DictReader(file)}
    seven, thirteen = ([p for p in known if asked_of[p[0].id] == commit] for commit in ("ed838093", "d3eba0d5"))
    old, new, last, today = (
        Retrodiction(rows=tuple(rows)).score
        for rows in ([p for p in known if p not in fresh + seven + thirteen], fresh, seven, thirteen)
    )
    assert len(old.rows) - old.refused == 10 and old.brier < 0.18 < 0.21 and old.wrong <= 1
    assert len(new.rows) == 3 and new.brier < 0.09 and not new.wrong
    assert len(last.rows) - last.refused == 7 and last.brier < 0.2 < last.base and not last.wrong
    assert last.covered == last.intervals == 4
    assert len(today.rows) - today.refused == 13 and today.brier < today.base < 0.25 and not today.wrong


def test_probabilities_are_numbers(answered):
    said = [answer.probability_a for _, answer in answered.rows if answer.status != "refused"]
    assert np.all((np.array(said) > 0) & (np.array(said) < 1))
