"""The forms of the prior: their anchor, their limits, and the distillation law inside them."""

import numpy as np
import pytest

from distillaw.laws.distillation import KappaDistillationLaw
from distillaw.laws.supervised import SupervisedLaw
from distillaw.settling.belief import TAUGHT, Anchor, Family


def family(form, teachers=(2.2, 2.9)):
    return Family(form=form, anchor=Anchor(params=1e7, tokens=2e8, loss=3.4), teacher_losses=np.array(teachers))


@pytest.mark.parametrize("form", TAUGHT)
def test_central_member_passes_through_the_anchor(form):
    f = family(form)
    log_losses = f.log_losses(np.zeros((1, f.num_coefficients)), [1e7], [2e8])
    assert log_losses.shape == (1, 1, 3)
    assert np.exp(log_losses[0, 0, 0]) == pytest.approx(3.4, rel=1e-12)


@pytest.mark.parametrize("form", TAUGHT)
def test_losses_fall_with_size_and_tokens(form):
    f = family(form)
    z = np.random.default_rng(0).standard_normal((300, f.num_coefficients))
    grid = f.log_losses(z, [1e7, 2e7, 4e7, 1e7, 1e7], [2e8, 2e8, 2e8, 4e8, 8e8])
    own = grid[:, :, 0]
    assert (own[:, 1] < own[:, 0]).all() and (own[:, 2] < own[:, 1]).all()
    assert (own[:, 3] < own[:, 0]).all() and (own[:, 4] < own[:, 3]).all()


@pytest.mark.parametrize("form", TAUGHT)
def test_a_student_hardly_beats_a_teacher_of_nothing_peculiar(form):
    f = family(form, teachers=(3.3, 3.39))
    z = np.random.default_rng(1).standard_normal((500, f.num_coefficients))
    z[:, -2:] = 0.0  # e_a
    grown = f.log_losses(z, [1e9], [2e11])[:, 0, 1:]
    assert (grown > np.log([3.3, 3.39]) - 0.025).all()
    assert np.median(grown - np.log([3.3, 3.39])) < 0.05  # and with everything to learn from, it gets there


def test_law_form_is_the_distillation_law():
    f = family("law")
    z = np.random.default_rng(2).standard_normal(f.num_coefficients)
    z[-2:] = 0.0
    c = {name: centre + spread * z[i] for i, (name, (centre, spread)) in enumerate(f.priors.items())}
    alpha, beta, gamma, slower, faster, kappa, f1 = (
        np.exp(c[k]) for k in ("alpha", "beta", "gamma", "alpha_shift", "beta_shift", "kappa", "f1")
    )
    n0, d0, teachers = 1e7, 2e8, np.array([2.2, 2.9])
    floor = 2.2 / (1 + np.exp(-c["floor"]))
    beyond = 3.4 * np.exp(c["level"]) - floor
    w, taught_w = 1 / (1 + np.exp(-c["share"])), 1 / (1 + np.exp(-c["share"] - c["tilt"]))
    own = SupervisedLaw(
        E=floor,
        A=beyond ** (1 / gamma) * w * n0 ** (alpha / gamma),
        B=beyond ** (1 / gamma) * (1 - w) * d0 ** (beta / gamma),
        alpha=alpha / gamma,
        beta=beta / gamma,
        gamma=gamma,
    )
    reference = np.exp(np.log(teachers).mean())
    scale = (beyond * np.exp(c["left"]) * reference ** c["c0"]) ** (1 / gamma)
    law = KappaDistillationLaw(
        supervised=own,
        A=scale * taught_w * n0 ** (alpha * slower / gamma),
        B=scale * (1 - taught_w) * d0 ** (beta * faster / gamma),
        alpha=alpha * slower / gamma,
        beta=beta * faster / gamma,
        gamma=gamma,
        c0=c["c0"],
        kappa=kappa,
        f1=f1,
    )
    for n, d in ((1e7, 2e8), (4e7, 1e9), (1e9, 2e10)):
        found = np.exp(f.log_losses(z[None], [n], [d])[0, 0])
        assert found[0] == pytest.approx(float(own(params=n, tokens=d)), rel=1e-10)
        wanted = law.distillation(student_params=n, student_tokens=d, teacher_loss=teachers)
        assert found[1:] == pytest.approx(np.asarray(wanted), rel=1e-10)
