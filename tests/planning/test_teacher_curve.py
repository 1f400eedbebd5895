"""The bottom of the curve against dense scans, the flat range against the loss itself, the figures of laws.md 13.5."""

from dataclasses import replace

import numpy as np
import pytest

from distillaw.errors import ConfigError, DataError
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.published import published
from distillaw.planning.teacher_curve import FLAT, teacher_curve, teacher_loss_curve
from slopes import slope

SURROGATES = ("surrogate-s1", "surrogate-s2", "surrogate-s3")


def ensemble(*names):
    return LawEnsemble.of([(published(n).supervised, published(n).distillation) for n in names])


def one_law(law):
    return LawEnsemble.of([(law.supervised, law)])


def distilled(names, size, tokens, teachers, teacher_tokens):
    """Mean student loss by plain calls of the laws."""
    laws = [published(n) for n in names]
    return np.mean(
        [
            law.distillation(
                student_params=size,
                student_tokens=tokens,
                teacher_loss=law.supervised(params=teachers, tokens=teacher_tokens),
            )
            for law in laws
        ],
        axis=0,
    )


@pytest.mark.parametrize("names", [("busbridge2025",), ("surrogate-s2",), SURROGATES])
@pytest.mark.parametrize(("size", "tokens"), [(2e8, 4e9), (1e9, 160e9), (1e10, 1e12)])
def test_the_best_teacher_is_that_of_a_dense_scan(names, size, tokens):
    curve = teacher_curve(ensemble(*names), student_params=size, student_tokens=tokens, teacher_tokens_per_param=20)
    scan = np.geomspace(size / 8, 4096 * size, 40_001)
    losses = distilled(names, size, tokens, scan, 20 * scan)
    assert curve.best.student_loss <= losses.min() * (1 + 1e-12)
    assert curve.best.at == pytest.approx(scan[int(np.argmin(losses))], rel=5e-4)
    assert not curve.best.at_edge
    np.testing.assert_allclose(
        curve.mean, distilled(names, size, tokens, curve.sizes, curve.teacher_tokens), rtol=1e-12
    )


@pytest.mark.parametrize("name", ["busbridge2025", *SURROGATES])
def test_the_optimum_has_a_slope_of_zero(name):
    law, at = published(name).distillation, {"student_params": 1e9, "student_tokens": 2e10}
    best = teacher_loss_curve(ensemble(name), **at).best
    assert abs(slope(lambda loss: law(**at, teacher_loss=loss), best.at)) < 1e-6


def test_size_and_loss_are_one_optimum():
    """A teacher enters through its loss alone, so the best size of any schedule has the best loss."""
    free = teacher_loss_curve(ensemble("surrogate-s1"), student_params=1e9, student_tokens=80e9).best
    for schedule in ({"teacher_tokens_per_param": 20}, {"teacher_tokens_per_param": 100}, {"teacher_tokens": 2e12}):
        curve = teacher_curve(ensemble("surrogate-s1"), student_params=1e9, student_tokens=80e9, **schedule)
        assert curve.best_teacher_loss == pytest.approx(free.at, rel=1e-6)
        assert curve.best.student_loss == pytest.approx(free.student_loss, rel=1e-12)


def test_the_bottom_is_flat():
    """13.5: half, double, ratio 1, 2.5 and 100, in per cent; too small is worse than too large."""
    curve = teacher_curve(
        ensemble("busbridge2025"), student_params=1e9, student_tokens=160e9, teacher_tokens_per_param=20
    )
    costs = {cost.name: cost for cost in curve.costs}
    printed = {
        "half the best": 0.5,
        "twice the best": 0.2,
        "100 x the student": 1.4,
        "2.5 x the student": 2.1,
        "1 x the student": 8.7,
    }
    assert {name: round(cost.per_cent, 1) for name, cost in costs.items()} == printed
    for cost in curve.costs:
        loss = distilled(("busbridge2025",), 1e9, 160e9, cost.params, 20 * cost.params)
        assert cost.nats == pytest.approx(float(loss) - curve.best.student_loss, abs=1e-12)


@pytest.mark.parametrize("names", [("busbridge2025",), SURROGATES])
def test_the_ends_of_the_flat_range_are_where_the_loss_passes_the_bound(names):
    curve = teacher_curve(ensemble(*names), student_params=1e9, student_tokens=2e10, teacher_tokens=3e11, margin=0.02)
    for flat, within in ((curve.best.flat, FLAT), (curve.best.within_margin, 0.02)):
        assert flat.within == within and flat.is_connected
        ends = np.array([flat.lower, flat.upper])
        bound = (1 + within) * curve.best.student_loss
        for end, is_open, outwards in zip(ends, (flat.is_open_below, flat.is_open_above), (0.999, 1.001), strict=True):
            loss = distilled(names, 1e9, 2e10, end, 3e11)
            assert loss <= bound * (1 + 1e-12) if is_open else loss == pytest.approx(bound, rel=1e-9)
            assert is_open or distilled(names, 1e9, 2e10, end * outwards, 3e11) > bound
    assert curve.best.within_margin.lower < curve.best.flat.lower < curve.best.at < curve.best.flat.upper


def test_a_search_that_stops_short_says_so():
    small = teacher_curve(
        ensemble("surrogate-s1"),
        student_params=1e9,
        student_tokens=160e9,
        teacher_tokens_per_param=20,
        sizes=np.geomspace(1e9, 3e9, 5),
    )
    assert small.best.at_edge and small.best.at == pytest.approx(3e9) and small.best.flat.is_open_above


def test_every_member_has_its_own_best():
    curve = teacher_curve(ensemble(*SURROGATES), student_params=1e9, student_tokens=80e9, teacher_tokens_per_param=20)
    for at, name in zip(curve.best.at_by_member, SURROGATES, strict=True):
        own = teacher_curve(ensemble(name), student_params=1e9, student_tokens=80e9, teacher_tokens_per_param=20)
        assert at == pytest.approx(own.best.at, rel=1e-5)
    assert min(curve.best.at_by_member) < curve.best.at < max(curve.best.at_by_member)
    assert curve.gain == pytest.approx(curve.supervised_loss.mean() - curve.mean.min(), abs=1e-4)


def test_a_second_valley_is_reported():
    """A sharp break makes two: copy a weak teacher well, or a strong one badly; 0.9 % apart here."""
    s1 = published("surrogate-s1").distillation
    law = replace(s1, f1=0.02, c0=2.5, c1=2350.0)
    law = replace(law, d1=(law.c1 * law.f1) ** law.f1 * 0.97)
    best = teacher_loss_curve(one_law(law), student_params=1e9, student_tokens=2e10, margin=0.01).best
    assert best.flat.is_connected and not best.within_margin.is_connected
    assert best.within_margin.upper < 2.1  # the other valley is at 2.35


def test_ratio_and_break():
    found = teacher_loss_curve(ensemble("busbridge2025"), student_params=1e9, student_tokens=160e9)
    law = published("busbridge2025").distillation
    assert found.break_ratio[0] == pytest.approx(law.derived["break"], rel=1e-12)
    assert found.ratio == pytest.approx(found.best.at / law.supervised(params=1e9, tokens=160e9), rel=1e-12)


def test_bad_input():
    members = ensemble("surrogate-s1")
    at = {"student_params": 1e9, "student_tokens": 2e10}
    with pytest.raises(ConfigError, match="either teacher_tokens or"):
        teacher_curve(members, **at)
    with pytest.raises(ConfigError, match="either teacher_tokens or"):
        teacher_curve(members, **at, teacher_tokens=1e12, teacher_tokens_per_param=20)
    with pytest.raises(ConfigError, match="ascending"):
        teacher_curve(members, **at, teacher_tokens=1e12, sizes=[3e9, 2e9, 1e9])
    with pytest.raises(ConfigError, match="share of the loss"):
        teacher_curve(members, **at, teacher_tokens=1e12, margin=5)
    with pytest.raises(DataError, match="student_tokens"):
        teacher_curve(members, student_params=1e9, student_tokens=-1, teacher_tokens=1e12)
    with pytest.raises(ConfigError, match="irreducible"):
        teacher_loss_curve(members, **at, losses=[1.1, 1.5, 2.0])
    plain = LawEnsemble.of([(published("hoffmann2022").supervised, None)])
    with pytest.raises(ConfigError, match="no distillation half"):
        teacher_loss_curve(plain, **at)
