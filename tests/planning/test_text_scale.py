"""One scale of text through all that a verdict shows: free sizes, teacher sizes, flips, FLOP of a size, crossovers."""

from dataclasses import replace

import numpy as np
import pytest

from distillaw.laws.published import published
from distillaw.planning.api import plan
from distillaw.planning.bills import bill, forward_curve, forward_flop, tokens_bought, tokens_for
from distillaw.planning.crossover import band_of, crossings
from distillaw.planning.situation import Situation, Teacher

LAW = published("surrogate-s2")
HARDER = 1.2
"""How much more the user's text costs than the law's."""
ALONE = {"law": "surrogate-s2", "published": False}


def teacher(factor, params=8e9, tokens=3e11):
    """As the law has it, on a text whose losses are `factor` times the law's."""
    loss = factor * float(LAW.supervised(params=params, tokens=tokens))
    return Teacher(name="8B", params=params, tokens=tokens, loss=loss)


@pytest.mark.parametrize(
    ("question", "at_hand", "kind"),
    [
        ({"compute": 1e21}, (2e9, 4e10), "distil"),
        ({"student_params": 1e9, "student_tokens": 1e12}, (3e9, 1e12), "distil-then-pretrain"),
    ],
    ids=["free size", "handed over"],
)
def test_what_is_chosen_does_not_depend_on_how_hard_the_text_is(question, at_hand, kind):
    own, harder = (
        plan(**question, teachers=[teacher(f, *at_hand)], **ALONE, with_flips=False) for f in (1.0, HARDER)
    )
    rows = {row.kind: row for row in harder.strategies}
    assert kind in rows
    for row in own.strategies:
        same = rows[row.kind]
        assert same.student_params == pytest.approx(row.student_params)
        assert same.student_tokens == pytest.approx(row.student_tokens)
        assert same.taught == pytest.approx(row.taught)
        assert same.loss.mean == pytest.approx(HARDER * row.loss.mean)
        if row.kind != "train-teacher" and row.teacher is not None:
            assert same.teacher.loss == pytest.approx(HARDER * row.teacher.loss), "the user's own number"


def test_the_losses_of_other_teacher_sizes_are_the_users():
    own, harder = (
        plan("1B", student_tokens="20B", teachers=[teacher(f)], **ALONE, with_flips=False).teachers.to_json()
        for f in (1.0, HARDER)
    )
    assert harder["best"] == own["best"] and harder["flat"] == own["flat"]
    assert harder["student_loss"] == pytest.approx(HARDER * own["student_loss"])
    np.testing.assert_allclose(harder["losses"], HARDER * np.array(own["losses"]))
    for mine, theirs in zip(harder["costs"], own["costs"], strict=True):
        assert mine["nats"] == pytest.approx(HARDER * theirs["nats"], abs=1e-12)
        assert mine["teacher_loss"] == pytest.approx(HARDER * theirs["teacher_loss"])
        assert mine["per_cent"] == pytest.approx(theirs["per_cent"])


def test_a_teacher_that_turns_out_worse_does_not_make_the_text_a_harder_one():
    """The scale comes from that very loss: unless it is held, no change of it would matter."""
    verdict = plan("1B", student_tokens="20B", teachers=[teacher(HARDER, 3e9, 1e12)], **ALONE)
    flips = [flip for flip in verdict.flips if flip.input == "teacher_loss"]
    assert verdict.verdict == "distil"
    assert [flip.verdict for flip in flips] == ["too-close"] * 2
    assert min(flip.then for flip in flips) < flips[0].now < max(flip.then for flip in flips)


@pytest.fixture
def priced():
    """A study that counted two sizes, a per cent off the family's count."""
    plain = Situation(student_params=1e6, compute=1e15, vocab=512, context=128)
    prices = {n: off * forward_flop(plain, n) for n, off in ((1e5, 1.01), (1e6, 0.99))}
    return replace(plain, prices=prices)


def test_the_search_pays_what_the_bill_counts(priced):
    sizes = np.geomspace(2e4, 5e6, 12)
    at_hand = Teacher(name="t", params=1e6, tokens=1e7, loss=3.0)
    for one in (None, at_hand):
        bought = tokens_bought(priced, sizes, one)
        for size, tokens in zip(sizes, bought, strict=True):
            assert bill(priced, size, tokens, one)["total"] == pytest.approx(1e15, rel=1e-12)
            assert tokens_for(priced, size, one) == pytest.approx(tokens, rel=1e-12)


def test_flop_of_a_size_go_through_what_was_counted_and_are_smooth_between(priced):
    for size, flop in priced.prices.items():
        assert forward_flop(priced, size) == pytest.approx(flop, rel=1e-12)
    plain = replace(priced, prices={})
    sizes = np.geomspace(1e4, 1e7, 301)
    off = forward_curve(priced, sizes) / forward_curve(plain, sizes)
    assert off[0] == pytest.approx(1.01) and off[-1] == pytest.approx(0.99)
    assert (np.diff(off) < 1e-12).all()


TOKENS = np.array([1e9, 1e10, 1e11])


@pytest.mark.parametrize(
    ("gain", "at"),
    [
        ([-1, -1, -1], 0.0),
        ([-1, -2, 0], 0.0),
        ([1, 1, 1], np.inf),
        ([-1, 1, 1], np.inf),
        ([1, -1, -1], 10**9.5),
        ([-1, 1, -1], 10**10.5),
    ],
)
def test_first_crossing(gain, at):
    assert crossings(TOKENS, np.array([gain], dtype=float))[0] == pytest.approx(at)


def test_a_crossing_before_the_search_is_censored_not_placed_at_its_edge():
    band = band_of(np.array([0.0] * 6 + [2e9] * 2 + [np.inf] * 2), (1e9, 1e11), "made up", 0.5)
    assert (band.lower, band.median, band.upper) == (None, None, 2e9)
    assert (band.share_before, band.share_none) == (0.6, 0.2)
    assert band.to_json()["share_before"] == 0.6
    bad = plan("1B", student_tokens="1T", teachers=[Teacher(name="bad", params=5e8, tokens=1e10)])
    assert bad.verdict == "pretrain"
    answer = bad.to_json()
    assert answer["crossover_tokens"]["lower"] is None and answer["crossover_tokens"]["median"] is None
    assert answer["crossover"]["share_before"] > 0.5
    assert answer["crossover_compute"]["share_before"] > 0.5
    assert "ahead from 100B tokens on, where the search begins" in " ".join(answer["reasons"])
