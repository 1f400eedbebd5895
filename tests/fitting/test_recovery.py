"""Noise-free data from a known law return it; the two solvers agree; noise is not mistaken for a law."""

import numpy as np
import pytest

import distillaw as dl
from distillaw.errors import DataError
from distillaw.fitting.result import FitStatus

TRUTH = dl.published("busbridge2025").supervised.coefficients


def test_supervised_returns_the_truth(grid):
    result = dl.fit(grid, family="supervised", bootstrap=0)
    for name, value in TRUTH.items():
        assert result.params[name] == pytest.approx(value, rel=1e-6)
    assert result.status is FitStatus.CONVERGED
    assert abs(result.solver_disagreement) < 1e-4


def test_chinchilla_returns_the_truth():
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 4e9, 5), np.geomspace(2e9, 2e11, 5)))
    truth = dl.published("gemstones-hot").supervised
    result = dl.fit({"params": N, "tokens": D, "loss": truth(params=N, tokens=D)}, family="chinchilla", bootstrap=0)
    for name, value in result.params.items():
        assert value == pytest.approx(truth.coefficients[name], rel=1e-6)


@pytest.mark.parametrize("given", [True, False], ids=["given supervised law", "joint fit"])
def test_full_distillation_law_returns_the_truth(study, given):
    truth = dl.published("surrogate-s2")
    result = dl.fit(study, family="distillation", supervised=truth if given else None, bootstrap=0)
    for name, value in truth.distillation.coefficients.items():
        assert result.params[name] == pytest.approx(value, rel=1e-5 if name in ("c1", "d1") else 1e-6)
    if not given:
        for name, value in truth.supervised.coefficients.items():
            assert result.derived["supervised"][name] == pytest.approx(value, rel=1e-6)


def test_reduced_law_returns_the_truth(study):
    supervised = dl.published("busbridge2025").supervised
    taught = np.isfinite(study["teacher_loss"])
    table = {k: v[taught] for k, v in study.items()}
    truth = dl.fit(study, family="distillation-reduced", supervised=supervised, bootstrap=0).law
    table["loss"] = truth(
        student_params=table["params"], student_tokens=table["tokens"], teacher_loss=table["teacher_loss"]
    )
    result = dl.fit(table, family="distillation-reduced", supervised=supervised, bootstrap=0)
    for name, value in truth.coefficients.items():
        assert result.params[name] == pytest.approx(value, rel=1e-6)


def test_measured_supervised_losses_replace_a_law(study):
    truth = dl.published("surrogate-s2")
    taught = np.isfinite(study["teacher_loss"])
    table = {k: v[taught] for k, v in study.items()}
    own = truth.supervised(params=table["params"], tokens=table["tokens"])
    given = dl.fit(table | {"supervised_loss": own}, family="distillation", bootstrap=0)
    assert given.params["kappa"] == pytest.approx(truth.distillation.kappa, rel=1e-6)
    at = {"student_params": 1e9, "student_tokens": 2e10, "teacher_loss": 2.2}
    with pytest.raises(DataError, match="supervised_loss"):
        given.predict(**at)
    own = truth.supervised(params=1e9, tokens=2e10)
    assert given.predict(**at, supervised_loss=own).mean == pytest.approx(truth.distillation(**at), rel=1e-6)


@pytest.mark.parametrize("family", ["supervised", "chinchilla", "distillation-reduced", "distillation-kappa"])
def test_solvers_agree_on_noisy_data(study, with_noise, family):
    result = dl.fit(with_noise(study, 0.003, 1), family=family, bootstrap=0)
    assert abs(result.solver_disagreement) < 1e-6


def test_noise_scale_and_prediction_cover_the_truth(grid, with_noise):
    result = dl.fit(with_noise(grid, 0.003, 2), family="supervised", bootstrap=200)
    assert 0.0015 < result.noise < 0.0055  # 30 rows
    target = dl.published("busbridge2025").supervised(params=7e10, tokens=1.4e12)
    prediction = result.predict(params=7e10, tokens=1.4e12)
    assert prediction.lower < target < prediction.upper
    assert not prediction.inside_range


def test_supervised_uncertainty_is_carried_into_the_distillation_law(study, with_noise):
    table = with_noise(study, 0.003, 3)
    law = dl.fit(table, family="supervised", bootstrap=200)
    carried = dl.fit(table, family="distillation-reduced", supervised=law, bootstrap=200)
    frozen = dl.fit(table, family="distillation-reduced", supervised=law.law, bootstrap=200)

    def width(result):
        low, high = result.conf_int()["kappa"]
        return high - low

    assert width(carried) > width(frozen)
    assert any("taken as known" in note for note in frozen.notes)
