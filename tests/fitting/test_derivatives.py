"""Analytic gradients and curvatures of every model against central differences."""

import numpy as np
import pytest

from distillaw.fitting.models import FREE, JointModel, Model, StudentModel, SupervisedModel, TiedModel, along_valley
from distillaw.fitting.second import _law, _to_standard

H = np.finfo(float).eps ** (1 / 3)


def rows(seed=0, count=20):
    rng = np.random.default_rng(seed)
    n, d = rng.normal(size=(2, count)) * 1.5
    t = rng.uniform(0.5, 1.0, count)
    return n, d, t, t + rng.uniform(-0.05, 0.4, count)


SUPERVISED = np.array([[0.2, 0.3, 0.5, 0.2, 0.25, 0.7], [0.1, -0.3, -1.5, 0.1, 0.35, -0.7]])
STUDENT = np.array(
    [[0.5, 0.3, 0.25, 0.3, 0.4, 2.5, 0.8, np.log(0.1), 0.02], [0.5, -1.0, 0.1, 0.4, -0.4, 1.0, 0.2, np.log(0.2), 2e-4]]
)


def models():
    n, d, t, s = rows()
    yield pytest.param(SupervisedModel(n, d, gamma_free=True), SUPERVISED, id="supervised")
    yield pytest.param(TiedModel(n, d, gamma_free=True), SUPERVISED, id="tied")
    for form in FREE:
        yield pytest.param(StudentModel(n, d, t, s, form=form), STUDENT, id=form)


def joint():
    n, d, t, s = rows()
    own, cells = (SupervisedModel(v, w, gamma_free=True) for v, w in ((n, d), (n[:8], d[:8])))
    return JointModel(own, cells, StudentModel(n[:8], d[:8], t[:8], s[:8], form="full"))


@pytest.mark.parametrize(
    ("model", "theta"), [*models(), pytest.param(joint(), np.hstack([SUPERVISED, STUDENT]), id="joint")]
)
def test_gradient(model, theta):
    point = model.evaluate(theta)
    np.testing.assert_allclose(point.value, model.value(theta), rtol=1e-13)
    for j in range(theta.shape[1]):
        up, down = theta.copy(), theta.copy()
        up[:, j] += H
        down[:, j] -= H
        numeric = (model.value(up) - model.value(down)) / (2 * H)
        np.testing.assert_allclose(point.gradient[:, j], numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("model", "theta"), list(models()))
def test_curvature(model, theta):
    c = np.random.default_rng(1).normal(size=(2, 20))
    ours = model.evaluate(theta).curvature(c)
    for j in range(theta.shape[1]):
        up, down = theta.copy(), theta.copy()
        up[:, j] += H
        down[:, j] -= H
        numeric = (
            np.einsum("ri,rki->rk", c, model.evaluate(up).gradient)
            - np.einsum("ri,rki->rk", c, model.evaluate(down).gradient)
        ) / (2 * H)
        np.testing.assert_allclose(ours[:, j], numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("model", "theta"), [*models(), pytest.param(joint(), np.hstack([SUPERVISED, STUDENT]), id="joint")]
)
def test_second_solver_has_the_same_law_in_other_parameters(model, theta):
    z = _to_standard(model, theta[0])
    value, jacobian = _law(model, z)
    np.testing.assert_allclose(value, model.value(theta[:1])[0], rtol=1e-12)
    for j in model.free:
        up, down = z.copy(), z.copy()
        up[j] += H
        down[j] -= H
        numeric = (_law(model, up)[0] - _law(model, down)[0]) / (2 * H)
        np.testing.assert_allclose(jacobian[j], numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("delta", [1.0, 0.1])
def test_moments_equal_the_generic_path(delta):
    n, d, _, _ = rows()
    model = SupervisedModel(n, d, gamma_free=True)
    rng = np.random.default_rng(3)
    y, weights = model.value(SUPERVISED[:1])[0] + 0.2 * rng.normal(size=20), rng.uniform(0, 2, (2, 20))
    ours, generic = (normal(model, SUPERVISED, y, weights, delta) for normal in (SupervisedModel.normal, Model.normal))
    for a, b in zip(ours, generic, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("delta", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("kind", [SupervisedModel, TiedModel])
@pytest.mark.parametrize("held", [None, 0, 3])
def test_the_fast_path_equals_the_generic_one_whatever_is_held(delta, kind, held):
    n, d, _, _ = rows()
    model = kind(n, d, gamma_free=held != 3)
    model = model if held is None else model.holding(held)
    rng = np.random.default_rng(2)
    y, weights = model.value(SUPERVISED[:1])[0] + 0.2 * rng.normal(size=20), rng.uniform(0, 2, (2, 20))
    for a, b in zip(
        model.normal(SUPERVISED, y, weights, delta), Model.normal(model, SUPERVISED, y, weights, delta), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_the_bent_step_is_the_straight_one_to_first_order():
    rng = np.random.default_rng(4)
    step = rng.normal(size=SUPERVISED.shape)
    for size in (1e-3, 1e-5):
        bent = along_valley(SUPERVISED, size * step)
        np.testing.assert_allclose(bent, size * step, atol=10 * size**2)


def test_the_bent_step_keeps_what_the_runs_fix():
    step = np.array([[-0.8, 0.9, 0.0, 0.1, -0.05, 0.3]] * 2)
    moved = SUPERVISED + along_valley(SUPERVISED, step)

    def fixed(theta):
        e, s0, _, p, q, _ = theta.T
        share = 1 / (1 + np.exp(e - s0))
        return np.stack([np.logaddexp(e, s0), share * p, share * q])

    change = (fixed(SUPERVISED + H * step) - fixed(SUPERVISED - H * step)) / (2 * H)
    np.testing.assert_allclose(fixed(moved), fixed(SUPERVISED) + change, rtol=1e-6)
    for held in range(5):
        still = step.copy()
        still[:, held] = 0
        bent = along_valley(SUPERVISED, still)
        assert (bent[:, held] == 0).all()


def test_many_rows_and_replicates_at_one_point_give_the_plain_sums():
    rng = np.random.default_rng(3)
    n, d = rng.normal(size=(2, 40_000))  # several blocks of rows
    y, theta = 1.0 + 0.1 * rng.normal(size=40_000), np.array([0.5, 0.2, 0.3, 0.3, 0.35, 0.4])
    weights = rng.poisson(1.0, size=(3, 40_000)).astype(float)
    model = SupervisedModel(n, d, gamma_free=True)
    nearby = np.stack([theta, theta, theta + 1e-3])  # not one point, so replicate by replicate
    together = model.normal(np.repeat(theta[None], 3, axis=0), y, weights, 0.05)
    apart, metric = model.normal(nearby, y, weights, 0.05), model.metric(nearby, weights)
    for i in range(2):
        alone = model.normal(theta[None], y, weights[i : i + 1], 0.05)
        for a, b, c in zip(together, apart, alone, strict=True):
            np.testing.assert_allclose(a[i], b[i], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(c[0], b[i], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(model.metric(theta[None], weights[i : i + 1])[0], metric[i], rtol=1e-12)
    shared = model.metric(np.repeat(theta[None], 3, axis=0), weights)
    np.testing.assert_allclose(shared[:2], metric[:2], rtol=1e-12)
