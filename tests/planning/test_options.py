"""What could be done: every option pays the same bill, and what is free is chosen globally."""

import numpy as np
import pytest

from distillaw.accounting.hardware import hardware
from distillaw.accounting.scenarios import CostShares
from distillaw.errors import ConfigError, VocabularyError
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.published import published
from distillaw.planning.api import plan
from distillaw.planning.bills import Device, bill, largest_served, tokens_for
from distillaw.planning.options import Option, _tokens_at_shares, find_options, option_loss
from distillaw.planning.situation import Situation, Teacher, forward_curve, forward_flop

EIGHT = Teacher(name="8B", params=8e9, tokens=3e11)
SURROGATES = ("surrogate-s1", "surrogate-s2", "surrogate-s3")


@pytest.fixture(scope="module")
def ensemble():
    laws = [published(name) for name in SURROGATES]
    return LawEnsemble.of([(law.supervised, law.distillation) for law in laws])


def by_kind(situation, ensemble):
    return {option.kind: option for option in find_options(situation, ensemble)}


@pytest.mark.parametrize("scenario", ["best-case", "inference", "pretraining", "pretraining-inference"])
@pytest.mark.parametrize("shares", [None, CostShares(0.3, 0.02)])
def test_every_option_costs_the_budget(ensemble, scenario, shares):
    situation = Situation(
        student_params=1e9,
        compute=1e23,
        max_params=4e9,
        teachers=[EIGHT],
        scenario=scenario,
        shares=shares,
        students_served=3,
        inference_tokens=1e12,
    )
    options = find_options(situation, ensemble)
    assert {"pretrain", "pretrain-larger", "distil", "train-teacher"} <= {option.kind for option in options}
    for option in options:
        paid = bill(
            situation,
            option.student_params,
            option.student_tokens,
            option.teacher,
            distilled_share=option.distilled_share,
        )
        assert paid["total"] == pytest.approx(1e23, rel=1e-6), option.name


def test_the_larger_student_and_a_free_one_are_optimal_on_a_dense_grid(ensemble):
    free = Situation(student_params=None, compute=1e21, teachers=[EIGHT])
    larger = by_kind(Situation(student_params=2e8, compute=1e21, max_params=1e11, teachers=[EIGHT]), ensemble)
    sizes = np.geomspace(1e7, 1e11, 4001)
    for teacher, found in ((None, by_kind(free, ensemble)["pretrain"]), (EIGHT, by_kind(free, ensemble)["distil"])):
        losses = []
        for size in sizes:
            tokens = tokens_for(free, size, teacher)
            option = Option(
                kind="distil" if teacher else "pretrain",
                teacher=teacher,
                student_params=size,
                student_tokens=tokens or 1.0,
            )
            losses.append(option_loss(ensemble, free, option).loss.mean() if tokens else np.inf)
        assert option_loss(ensemble, free, found).loss.mean() <= min(losses) * (1 + 1e-9)
    assert larger["pretrain-larger"].student_params == pytest.approx(
        by_kind(free, ensemble)["pretrain"].student_params, rel=1e-3
    )


def test_the_best_teacher_to_train_beats_a_dense_grid_of_teachers(ensemble):
    situation = Situation(student_params=5e8, compute=3e21, students_served=20)
    found = by_kind(situation, ensemble)["train-teacher"]
    best = option_loss(ensemble, situation, found).loss.mean()
    for size in np.geomspace(1e8, 1e11, 61):
        for tokens in np.geomspace(1e9, 1e13, 61):
            teacher = Teacher(name="t", params=size, tokens=tokens, exists=False)
            left = tokens_for(situation, 5e8, teacher)
            if left is not None:
                option = Option(kind="distil", teacher=teacher, student_params=5e8, student_tokens=left)
                assert best <= option_loss(ensemble, situation, option).loss.mean() + 1e-9


def test_handing_over_at_the_ends_is_one_of_the_pure_strategies(ensemble):
    situation = Situation(student_params=1e9, student_tokens=2e10, teachers=[EIGHT])
    own, taught = (
        Option(kind=kind, teacher=teacher, student_params=1e9, student_tokens=2e10)
        for kind, teacher in (("pretrain", None), ("distil", EIGHT))
    )
    mixed = [
        Option(
            kind="distil-then-pretrain", teacher=EIGHT, student_params=1e9, student_tokens=2e10, distilled_share=share
        )
        for share in (1e-6, 1 - 1e-9)
    ]
    for pure, option in ((own, mixed[0]), (taught, mixed[1])):
        np.testing.assert_allclose(
            option_loss(ensemble, situation, option).loss, option_loss(ensemble, situation, pure).loss, rtol=1e-4
        )


@pytest.mark.parametrize("scenario", ["best-case", "inference", "pretraining", "pretraining-inference"])
def test_handing_over_pays_the_same_bill_whatever_the_share(scenario):
    situation = Situation(student_params=1e9, compute=1e23, teachers=[EIGHT], scenario=scenario, inference_tokens=1e11)
    pure = Option(kind="distil", teacher=EIGHT, student_params=1e9, student_tokens=tokens_for(situation, 1e9, EIGHT))
    for share in (0.1, 0.7, 1.0):
        tokens = float(_tokens_at_shares(situation, pure, np.array([share]))[0])
        assert bill(situation, 1e9, tokens, EIGHT, distilled_share=share)["total"] == pytest.approx(1e23)


def test_a_teacher_of_unknown_size_is_judged_where_it_costs_nothing():
    unknown = Teacher(name="served elsewhere", loss=2.0)
    free = plan("1B", compute=1e21, teachers=[unknown], scenario="best-case", may_train_teacher=False, with_flips=False)
    assert free.headline.best.student_tokens == free.headline.pretrain.student_tokens
    assert free.headline.best.compute["total"] == pytest.approx(1e21)
    with pytest.raises(ConfigError, match="pays for no teacher"):
        plan("1B", compute=1e21, teachers=[unknown], may_train_teacher=False)


@pytest.mark.parametrize(
    "wrong", [{"loss_se": 3.0}, {"loss_se": -0.1}, {"loss_se": float("nan")}, {"estimate_error": 1.5}]
)
def test_errors_larger_than_the_loss_are_refused(wrong):
    with pytest.raises(ConfigError, match="standard error"):
        Teacher(name="t", params=2e9, tokens=4e10, loss=2.1, **wrong)


def test_estimates_never_carry_a_verdict():
    verdict = plan("4B", compute=3e21, teachers=[EIGHT], with_flips=False)
    estimates = [row.is_speculative for row in verdict.strategies]
    assert any(estimates) and estimates == sorted(estimates), "estimates stand last, whatever they promise"
    assert min(verdict.strategies, key=lambda row: row.loss.mean).cut_of == EIGHT
    assert not verdict.headline.best.is_speculative and verdict.headline.best_pretrain.kind == "pretrain"
    best = next(row for row in verdict.strategies if row.name == verdict.headline.best.name)
    assert verdict.gain.mean == pytest.approx(best.gain.mean)


def test_stored_logits_are_shared_and_repeats_count_for_less(ensemble):
    plain = {"student_params": 1e9, "compute": 1e22, "teachers": [EIGHT]}
    online, stored = (
        by_kind(Situation(**plain, students_served=4, logits=how), ensemble)["distil"].student_tokens
        for how in ("online", "stored")
    )
    assert stored > 1.5 * online
    few = Situation(**plain, unique_tokens=1e10)
    options = by_kind(few, ensemble)
    fresh = by_kind(Situation(**plain), ensemble)
    for kind in ("pretrain", "distil"):
        assert (
            option_loss(ensemble, few, options[kind]).loss > option_loss(ensemble, few, fresh[kind]).loss - 1e-12
        ).all()
        worse = option_loss(ensemble, few, options[kind]).loss.mean()
        assert worse > option_loss(ensemble, Situation(**plain), fresh[kind]).loss.mean() + 0.005


def test_flop_of_a_size_are_smooth_and_agree_with_the_curve():
    situation = Situation(student_params=1e9, compute=1e21)
    sizes = np.geomspace(1e5, 1e11, 2001)
    curve = np.log(forward_curve(situation, sizes))
    assert np.abs(np.diff(curve, 2)).max() < 2e-4
    assert forward_flop(situation, float(sizes[700])) == pytest.approx(np.exp(curve[700]))


def test_hours_money_and_serving_limits_by_hand():
    flop, text = Device(preset=hardware("h100-sxm"), mfu=0.5).buys(device_hours=100)
    assert flop == pytest.approx(100 * 3600 * 989e12 * 0.5)
    assert "100 device-hours" in text
    same, _ = Device(preset=hardware("h100-sxm"), price_per_hour=4, mfu=0.5).buys(money=400)
    assert same == pytest.approx(flop)
    limit = largest_served(latency=0.01, bandwidth=1e12, weight_bytes=1, context=4096, vocab=1)
    assert limit.params == pytest.approx(1e10, rel=1e-3), "10 ms at 1 TB/s reads ten billion bytes"
    tight = largest_served(memory_bytes=1e10, weight_bytes=1, context=4096, vocab=32768)
    assert tight.params < 1e10, "the cache and the embedding take their part"


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        ({"compute": 1e21, "money": 5.0}, ConfigError, "one budget"),
        ({"device_hours": 5.0, "money": 5.0}, ConfigError, "either device-hours or money"),
        ({"money": -5.0}, ConfigError, "positive"),
        ({"compute": 1e21, "max_params": "300M"}, ConfigError, "larger than the largest"),
        ({"compute": 1e21, "logits": "cached"}, ConfigError, "online, stored"),
        ({"compute": 1e21, "delta_lgt": 2.0}, ConfigError, r"\[0, 1\]"),
        ({"compute": 1e21, "inference_tokens": 1e12}, ConfigError, "nothing is left to train on"),
        ({"compute": 1e21, "unique_tokens": 0}, ConfigError, "positive"),
        ({"compute": 1e21, "teachers": ["pythia-1b", "Qwen2.5-7B"]}, VocabularyError, "bits per byte"),
        ({"compute": 1e21, "teachers": ["qwen2.5-8b"]}, ConfigError, "near it"),
        ({"compute": 1e21, "published": False}, ConfigError, "no law to plan with"),
    ],
)
def test_bad_questions_are_refused_with_the_rule(call, error, match):
    with pytest.raises(error, match=match):
        plan("1B", **call)


def test_tokens_with_a_free_size_need_a_limit():
    with pytest.raises(ConfigError, match="name the student"):
        plan(student_tokens=1e10)
    with pytest.raises(ConfigError, match="largest one you can serve"):
        Situation(student_params=None, student_tokens=1e10)


@pytest.mark.parametrize(
    ("name", "called"),
    [("8B", "the 8B"), ("300M teacher", "the 300M teacher"), ("teacher", "the teacher"), ("my-teacher", "my-teacher")],
)
def test_a_teacher_within_a_sentence(name, called):
    teacher = Teacher(name=name, loss=2.0)
    option = Option(kind="distil", student_params=1e8, student_tokens=1e9, teacher=teacher)
    assert teacher.called == called and option.name == f"distil from {called}"


def gains(verdict):
    """By strategy that laws describe its gain, nats/token."""
    return {row.name: row.gain for row in verdict.strategies if row.gain is not None and not row.is_speculative}


@pytest.mark.parametrize(
    ("asked", "named", "alone"),
    [
        ({"student_params": "105M", "device_hours": 2.3}, [Teacher(name="t", params=6.4e9, tokens=2.07e11)], []),
        ({"student_params": "429M", "compute": 3.08e19}, [Teacher(name="t", params=1.43e10, tokens=1.63e12)], []),
        ({"student_params": "36M", "compute": 1.2e19}, [Teacher(name="far", params=2e9, tokens=4e11), EIGHT], [EIGHT]),
    ],
    ids=["trained for this", "trained for a larger one", "one of two"],
)
def test_what_a_teacher_gains_and_how_surely_does_not_hang_on_what_else_could_be_done(asked, named, alone):
    both, one = (gains(plan(**asked, teachers=teachers, with_flips=False)) for teachers in (named, alone))
    assert both.keys() > one.keys()
    for name, gain in one.items():
        width = gain.upper - gain.lower
        assert both[name].mean == pytest.approx(gain.mean, abs=0.02 * width)
        assert both[name].upper - both[name].lower == pytest.approx(width, rel=0.1), "but for other draws"


def test_the_order_of_teachers_says_nothing():
    weak = Teacher(name="weak", params=5e8, tokens=1e10)
    orders = [weak, EIGHT], [EIGHT, weak]
    one, other = (plan("200M", student_tokens="4B", teachers=teachers, with_flips=False) for teachers in orders)
    assert one.call == other.call
    assert gains(one) == gains(other)
