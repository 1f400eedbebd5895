"""What students begin from: a cut is a random start some tokens later, and the question may be about cuts."""

from dataclasses import replace

import numpy as np
import pytest

from distillaw.errors import ConfigError
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.published import published
from distillaw.laws.starts import CUTS
from distillaw.planning.api import plan
from distillaw.planning.bills import effective_tokens, student_tokens_worth
from distillaw.planning.options import Option, find_options, option_loss
from distillaw.planning.situation import Situation, Teacher

EIGHT = Teacher(name="8B", params=8e9, tokens=2e11)
TWELVE = Teacher(name="12B", params=1.2e10, tokens=4e10)


@pytest.fixture(scope="module")
def ensemble():
    laws = [published(name) for name in ("surrogate-s1", "surrogate-s2", "surrogate-s3")]
    return LawEnsemble.of([(law.supervised, law.distillation) for law in laws])


def cut(**changes):
    asked = {"student_params": 4e9, "student_tokens": 1e11, "teachers": [EIGHT], "start": "pruned"}
    return Situation(**{**asked, **changes})


@pytest.mark.parametrize("taught", [True, False])
def test_a_cut_has_the_loss_of_a_random_start_that_trained_its_head_start_longer(ensemble, taught):
    of_half = {"student_params": 4e9, "source_params": 8e9, "source_tokens": 2e11}
    later = 1e11 + float(CUTS.head_start(**of_half, taught=taught)[0])
    of_cut = next(o for o in find_options(cut(), ensemble) if (o.teacher is not None) == taught)
    random = replace(cut(start="random"), student_tokens=later)
    same = Option(kind="distil", teacher=of_cut.teacher, student_params=4e9, student_tokens=later)
    np.testing.assert_allclose(
        option_loss(ensemble, cut(), of_cut).loss, option_loss(ensemble, random, same).loss, rtol=1e-12
    )


def test_the_question_about_cuts_is_between_cuts_of_one_source():
    verdict = plan("4B", student_tokens=1e11, teachers=[EIGHT, TWELVE], start="pruned", with_flips=False)
    assert {row.kind for row in verdict.strategies} == {"prune-and-pretrain", "prune-and-distil"}
    assert {row.cut_of for row in verdict.strategies} == {EIGHT}, "the cut that is worth more tokens"
    assert not any(row.is_speculative for row in verdict.strategies) and verdict.headline.is_decisive
    assert any(row.name == "prune the 8B, then distil from the 12B" for row in verdict.strategies)
    assert verdict.better_start is None
    assert "ahead of random weights" in " ".join(verdict.assumptions)


def test_a_cut_narrows_what_a_teacher_is_worth():
    random, pruned = (
        plan("4B", student_tokens=1e11, teachers=[EIGHT], start=start, with_flips=False)
        for start in ("random", "pruned")
    )
    assert pruned.gain.mean < random.gain.mean
    assert pruned.headline.pretrain.loss.mean < random.headline.pretrain.loss.mean


def test_beside_a_verdict_on_random_starts_stands_whether_a_cut_is_better():
    verdict = plan("4B", student_tokens=2e10, teachers=[EIGHT], with_flips=False)
    start = verdict.better_start
    assert start.better == "pruned" and start.pruned > 0.8 and start.gain.mean > 0.1
    assert start.row.cut_of == EIGHT and start.other.cut_of is None
    assert verdict.to_json()["better_start"]["better"] == "pruned" and verdict.to_json()["start"] == "random"
    assert any(line.startswith("Starts: prune") for line in verdict.reasons)
    late = plan("4B", student_tokens=4e12, teachers=[EIGHT], with_flips=False).better_start
    assert late.gain.mean < 0.3 * start.gain.mean, "the lead of a start fades"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"start": "pretrained"}, "another pretrained model"),
        ({"teachers": [replace(EIGHT, tokens=None, loss=2.0)]}, "size and the tokens"),
        ({"student_params": 1e8}, "so small a part"),
        ({"scenario": "pretraining"}, "in the bill"),
        ({"teachers": [replace(EIGHT, exists=False)]}, "at hand"),
    ],
)
def test_a_start_that_no_law_covers_leaves_the_verdict_open_and_says_why(changes, why):
    asked = {"student_params": 4e9, "student_tokens": 1e11, "teachers": [EIGHT], "start": "pruned"} | changes
    verdict = plan(**asked, with_flips=False)
    assert verdict.title == "UNKNOWN" and verdict.probability == 0.5
    assert why in verdict.sentence
    assert {e.status for e in verdict.evidence if e.speaks and e.kind == "surrogate"} == {"NO_START_LAW"}


def test_what_is_cut_hangs_on_the_size():
    with pytest.raises(ConfigError, match="give --student"):
        plan(compute=1e21, teachers=[EIGHT], start="pruned")


def test_doubt_of_the_head_start_widens_the_gain(ensemble):
    sure, unsure = (cut(start_law=replace(CUTS, spread=spread)) for spread in (0.01, 2.0))
    shown = [o for o in find_options(replace(sure, start="random"), ensemble) if o.cut_of]
    assert {o.kind for o in shown} == {"prune-and-distil", "prune-and-pretrain"}
    for option in shown:
        narrow, broad = (option_loss(ensemble, replace(s, start="random"), option).sd for s in (sure, unsure))
        assert narrow < broad


def test_repeats_count_for_less_and_a_head_start_counts_beside_them():
    asked = cut(unique_tokens=2e10)
    taught, alone = (student_tokens_worth(asked, 1e11, taught=taught) for taught in (True, False))
    assert alone > taught > effective_tokens(asked, 1e11)
    random = student_tokens_worth(replace(asked, start="random"), 1e11, taught=True)
    assert random == effective_tokens(asked, 1e11)
    assert student_tokens_worth(replace(asked, start_shift=1.0), 1e11, taught=True) > taught
