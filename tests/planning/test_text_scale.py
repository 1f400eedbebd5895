"""One scale of text through all that a verdict shows: free sizes, teacher sizes, flips, FLOP of a size, crossovers."""

from dataclasses import replace

import numpy as np
import pytest

from distillaw.laws.published import published
from distillaw.planning.api import plan
from distillaw.planning.bills import bill, tokens_bought, tokens_for
from distillaw.planning.evidence import band_of, crossings
from distillaw.planning.question import named_teacher
from distillaw.planning.situation import FOREIGN_TEXT_ERROR, Situation, Teacher, forward_curve, forward_flop
from distillaw.planning.text_scale import TEXT_SPREAD, TextScale

LAW = published("surrogate-s2")
HARDER = 1.2
"""How much more the user's text costs than the law's."""
ALONE = {"law": "surrogate-s2", "published": False}


def teacher(factor, params=8e9, tokens=3e11):
    """As the law has it, on a text whose losses are `factor` times the law's; which strays from the law by nothing."""
    loss = factor * float(LAW.supervised(params=params, tokens=tokens))
    return Teacher(name="8B", params=params, tokens=tokens, loss=loss, estimate_error=0.0)


@pytest.mark.parametrize(
    ("question", "at_hand", "kind"),
    [
        ({"compute": 1e21}, (2e9, 4e10), "distil"),
        ({"student_params": 1e9, "student_tokens": 1e12}, (3e9, 1e12), "distil-then-pretrain"),
    ],
    ids=["free size", "handed over"],
)
def test_what_is_chosen_does_not_depend_on_how_hard_the_text_is(question, at_hand, kind):
    own, harder = (plan(**question, teachers=[teacher(f, *at_hand)], **ALONE, with_flips=False) for f in (1.0, HARDER))
    rows = {row.kind: row for row in harder.strategies}
    assert kind in rows
    for row in own.strategies:
        same = rows[row.kind]
        assert same.student_params == pytest.approx(row.student_params)
        assert same.student_tokens == pytest.approx(row.student_tokens)
        assert same.distilled_share == pytest.approx(row.distilled_share)
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


def at_law(loss, **given):
    """(scale, loss on the law's text) of a teacher measured on the user's."""
    known = Teacher(name="8B", params=8e9, tokens=3e11, loss=loss, **given)
    verdict = plan("1B", student_tokens="20B", teachers=[known], **ALONE, with_flips=False)
    scale = TextScale.of(verdict.evidence[0])
    return scale, loss / scale.ratio


def test_a_measured_loss_is_in_part_the_text_and_in_part_the_teacher():
    """d = s + q with normal priors: a share of it to each, by their variances, checked by integrating over s."""
    estimate = float(LAW.supervised(params=8e9, tokens=3e11))
    s = np.linspace(-2, 2, 200_001)
    for factor in (0.85, 0.97, 1.03, 1.3):
        d = np.log(factor)
        scale, there = at_law(factor * estimate)
        density = np.exp(-((s / TEXT_SPREAD) ** 2) / 2 - ((d - s) / FOREIGN_TEXT_ERROR) ** 2 / 2)
        assert np.log(scale.ratio) == pytest.approx((s * density).sum() / density.sum(), rel=1e-6)
        assert np.log(there / estimate) == pytest.approx(d - np.log(scale.ratio))
    assert at_law(1.3 * estimate)[0].sd > 2 * at_law(1.01 * estimate)[0].sd, "a text far from the law's is less sure"


def test_a_lower_loss_is_a_better_teacher_and_never_a_worse_one():
    """Of the teacher on the law's text this is so throughout; what it does for the student is the law's to say."""
    found = [at_law(loss)[1] for loss in np.linspace(1.6, 3.0, 15)]
    assert (np.diff(found) > 0).all()
    sure = [at_law(loss, estimate_error=0.0)[1] for loss in (1.7, 2.5)]
    assert sure[0] == pytest.approx(sure[1]), "a teacher that strays from the law by nothing tells of the text alone"


@pytest.mark.parametrize(
    ("asked", "name", "rises"),
    [(("300M", "6B"), "pythia-1.4b", False), (("1B", "100B"), "llama-3.1-8b", True)],
    ids=["near the student", "beyond the capacity gap"],
)
def test_the_loss_of_a_named_teacher_moves_the_probability_the_way_the_law_says(asked, name, rises):
    """Weak for the student, a lower loss is for the better; beyond the capacity gap the law has it for the worse."""
    student, tokens = asked
    losses = (2.3, 2.5, 2.7, 2.9) if not rises else (1.7, 1.9, 2.1, 2.3)
    verdicts = [
        plan(student, student_tokens=tokens, teachers=[named_teacher(name, x)], with_flips=False) for x in losses
    ]
    steps = np.diff([v.call.distil for v in verdicts])
    assert (steps > 0).all() if rises else (steps < 0).all()
    for verdict in verdicts:
        said = " ".join(verdict.assumptions)
        assert "is put down to your text" in said and "the teacher is judged as" in said
        assert ("a weaker teacher" if rises else "a stronger teacher") in said


@pytest.mark.parametrize("share", [0.75, 2.0])
def test_what_a_loss_is_above_or_below_is_a_share_of_what_the_laws_make_of_it(share):
    estimate = float(LAW.supervised(params=8e9, tokens=2e12))
    teacher = Teacher(name="8B", params=8e9, tokens=2e12, loss=share * estimate)
    verdict = plan("1B", student_tokens="20B", teachers=[teacher], with_flips=False)
    said = " ".join(verdict.assumptions)
    assert ("is 25.0 % below what" if share < 1 else "is 100.0 % above what") in said
    scale = TextScale.of(verdict.headline)
    assert f"{100 * abs(scale.ratio - 1):.1f} % {'easier' if share < 1 else 'harder'} is put down" in said


def test_a_loss_alone_says_that_nothing_tells_text_and_teacher_apart():
    verdict = plan("1B", student_tokens="20B", teachers=[Teacher(name="t", loss=2.0)], with_flips=False)
    assert any("Nothing says how your text compares" in line for line in verdict.assumptions)


def test_two_teachers_tell_the_text_better_than_one():
    one, two = (
        Teacher(name=n, params=p, tokens=t, loss=1.2 * float(LAW.supervised(params=p, tokens=t)))
        for n, p, t in (("3B", 3e9, 1e12), ("8B", 8e9, 3e11))
    )
    scales = [
        TextScale.of(plan("1B", student_tokens="20B", teachers=ts, **ALONE, with_flips=False).evidence[0])
        for ts in ([one], [one, two])
    ]
    assert abs(np.log(scales[1].ratio / 1.2)) < abs(np.log(scales[0].ratio / 1.2))
    assert scales[1].sd < scales[0].sd


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
    bad = plan("1B", student_tokens="1T", teachers=[Teacher(name="bad", params=5e8, tokens=1e10)], distill_weight=1)
    assert bad.verdict == "pretrain"
    answer = bad.to_json()
    assert answer["crossover_tokens"]["lower"] is None and answer["crossover_tokens"]["median"] is None
    assert answer["crossover"]["share_before"] > 0.5
    assert answer["crossover_compute"]["share_before"] > 0.5
    assert "ahead from 100B tokens on, where the search begins" in " ".join(answer["reasons"])
