import numpy as np
import pytest

from distillaw.errors import DataError
from distillaw.laws.distillation import KappaDistillationLaw, ReducedDistillationLaw
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.published import published

NAMES = ("busbridge2025", "surrogate-s1", "surrogate-s2", "surrogate-s3")


def pairs():
    laws = [published(name) for name in NAMES]
    full = [(law.supervised, law.distillation) for law in laws]
    power = laws[2].distillation
    kappa = KappaDistillationLaw(
        **{k: power.coefficients[k] for k in ("A", "B", "alpha", "beta", "gamma", "c0", "kappa", "f1")},
        supervised=power.supervised,
    )
    reduced = ReducedDistillationLaw(s0=5.9, p=0.245, q=0.03, c0=2.5, kappa=2.2, f1=0.09, supervised=power.supervised)
    return [*full, (power.supervised, kappa), (power.supervised, reduced)]


def test_every_form_gives_what_its_own_law_gives():
    n, d = np.geomspace(1e7, 1e11, 9)[:, None, None], np.geomspace(1e8, 1e13, 7)[:, None]
    t = np.linspace(1.3, 3.5, 5)
    ensemble = LawEnsemble.of(pairs())
    together = ensemble.distillation(student_params=n, student_tokens=d, teacher_loss=t)
    assert together.shape == (6, 9, 7, 5)
    for one, (plain, student) in zip(together, pairs(), strict=True):
        np.testing.assert_allclose(one, student(student_params=n, student_tokens=d, teacher_loss=t), rtol=1e-12)
        np.testing.assert_allclose(
            LawEnsemble.of([(plain, None)]).supervised(params=n, tokens=d)[0], plain(params=n, tokens=d), rtol=1e-13
        )


def test_a_teacher_loss_by_member():
    ensemble = LawEnsemble.of(pairs()[:4])
    teacher, tokens = np.array([2.0, 2.1, 2.2, 2.3])[:, None], np.geomspace(1e9, 1e11, 3)[None]
    got = np.exp(ensemble.log_distilled(np.full((1, 1), np.log(1e9)), np.log(tokens), np.log(teacher)))
    assert got.shape == (4, 3)
    for i, (_, student) in enumerate(pairs()[:4]):
        want = student(student_params=1e9, student_tokens=tokens[0], teacher_loss=teacher[i, 0])
        np.testing.assert_allclose(got[i], want, rtol=1e-12)


def test_a_grid_as_long_as_the_ensemble_is_still_a_grid():
    ensemble = LawEnsemble.of(pairs()[:4])
    sizes = np.geomspace(1e8, 1e10, 4)
    assert ensemble.supervised(params=sizes, tokens=2e10).shape == (4, 4)
    assert ensemble.supervised(params=1e9, tokens=2e10).shape == (4,)


def test_taking_members_and_bad_input():
    ensemble = LawEnsemble.of(pairs())
    few = ensemble.take([1, 1, 5])
    assert few.size == 3
    both = [e.supervised(params=1e9, tokens=2e10) for e in (ensemble, few)]
    np.testing.assert_array_equal(both[1], both[0][[1, 1, 5]])
    with pytest.raises(DataError, match="teacher_loss"):
        ensemble.distillation(student_params=1e9, student_tokens=2e10, teacher_loss=-1.0)
    with pytest.raises(DataError, match="all of them"):
        LawEnsemble.of([])
