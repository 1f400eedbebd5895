"""Inversions: each undoes the law, and the searches find what a brute-force scan finds."""

import numpy as np
import pytest

from distillaw.errors import DataError
from distillaw.laws.published import published

LAW = published("surrogate-s2")
N, D = np.array([2e8, 1e9, 8e9]), np.array([5e9, 8e10, 3e11])


def test_tokens_for_a_loss_undo_the_law():
    loss = LAW.supervised(params=N, tokens=D)
    np.testing.assert_allclose(LAW.supervised.tokens_for_loss(params=N, loss=loss), D, rtol=1e-9)


def test_out_of_reach_is_infinite():
    assert LAW.supervised.tokens_for_loss(params=1e8, loss=[2.0, 1.0]).tolist() == [np.inf, np.inf]
    never = LAW.distillation.tokens_for_loss(student_params=1e9, teacher_loss=2.2, student_loss=2.1)
    assert never == np.inf  # a student never passes its teacher


def test_compute_optimal_beats_its_neighbours_and_follows_the_exponent():
    best = LAW.supervised.compute_optimal(compute=[1e20, 1e22])
    for factor in (0.9, 1.1):
        worse = LAW.supervised(params=best.params * factor, tokens=best.tokens / factor)
        assert (worse > best.loss).all()
    np.testing.assert_allclose(6 * best.params * best.tokens, [1e20, 1e22])
    growth = np.log(best.params[1] / best.params[0]) / np.log(100)
    assert growth == pytest.approx(LAW.supervised.derived["a"], rel=1e-12)
    ratio = best.tokens / best.params
    assert (ratio < 20).all()  # somewhat below 20 tokens per parameter


def test_optimal_teacher_is_the_minimum_of_a_scan():
    best = LAW.distillation.optimal_teacher_loss(student_params=N, student_tokens=D)
    scan = np.linspace(1.85, 2.8, 20001)[:, None]
    losses = LAW.distillation(student_params=N, student_tokens=D, teacher_loss=scan)
    np.testing.assert_allclose(best.teacher_loss, scan[np.argmin(losses, axis=0), 0], atol=2e-4)
    np.testing.assert_allclose(best.student_loss, losses.min(axis=0), rtol=1e-8)
    assert best.at_edge.tolist() == [False, False, True]  # the 8B student would like a better teacher than 1.85


def test_student_tokens_undo_the_distillation_law():
    teacher = np.array([2.5, 2.2, 2.0])
    loss = LAW.distillation(student_params=N, student_tokens=D, teacher_loss=teacher)
    found = LAW.distillation.tokens_for_loss(student_params=N, teacher_loss=teacher, student_loss=loss)
    np.testing.assert_allclose(found, D, rtol=1e-6)


def test_efficiency_text_of_the_paper_under_the_surrogate():
    # 500M student at 2.4 nats needs 0.66 of the supervised tokens under S2, at the
    # teacher that is cheapest when its inference is paid; the fewest tokens with any teacher are a little fewer
    tokens = LAW.supervised.tokens_for_loss(params=5e8, loss=2.4)
    grid = np.linspace(1.85, 2.39, 400)
    at = {"student_params": 5e8, "teacher_loss": grid, "student_loss": 2.4}
    assert 0.60 < LAW.distillation.tokens_for_loss(**at).min() / tokens < 0.66
    printed = published("busbridge2025").distillation
    at["teacher_loss"] = np.linspace(1.5, 2.39, 400)
    fewest = printed.tokens_for_loss(**at).min() / tokens
    assert 0.01 < fewest < 0.012  # 0.012 at the cheapest: the absurdity that the warning is about


def test_a_law_without_a_range_asks_for_one():
    law = published("surrogate-s2").distillation
    bare = type(law)(**{k: v for k, v in law.coefficients.items() if k != "kappa"}, supervised=law.supervised)
    with pytest.raises(DataError, match="pass low="):
        bare.optimal_teacher_loss(student_params=1e9, student_tokens=1e10)
