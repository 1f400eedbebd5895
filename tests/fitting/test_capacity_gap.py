"""The capacity-gap line: recovered from bracketed students, refused otherwise."""

import numpy as np
import pytest

import distillaw as dl
from distillaw.errors import FitError
from distillaw.fitting.query import predict_student
from distillaw.fitting.result import FitStatus


def pilot(students, *, depth=0.05, noise=0.0, seed=0, teachers=8):
    """Parabolas in ln T around T* = 2.5 S - 3M; the grids are symmetric in no student."""
    rng = np.random.default_rng(seed)
    rows = []
    for S in students:
        best = 2.5 * S - 3e6
        for T in np.geomspace(0.8 * S, 12 * S, teachers):
            loss = 3.0 - 0.1 * np.log(S / 1e7) + depth * np.log(T / best) ** 2
            rows.append((S, 20 * S, T, 2.5, loss + noise * rng.standard_normal()))
    names = ("params", "tokens", "teacher_params", "teacher_loss", "loss")
    return dict(zip(names, np.array(rows).T, strict=True))


def test_line_is_recovered():
    result = dl.fit(pilot([1e7, 3e7, 1e8, 3e8, 1e9]), family="capacity-gap", bootstrap=50)
    assert result.status is FitStatus.CONVERGED
    assert result.params["slope"] == pytest.approx(2.5, rel=1e-9)
    assert result.params["intercept"] == pytest.approx(-3.0, rel=1e-6)
    assert result.predict(student_params=5e8).mean == pytest.approx(2.5 * 5e8 - 3e6, rel=1e-9)


def test_a_fitted_line_answers_with_status_and_interval():
    result = dl.fit(pilot([1e7, 3e7, 1e8, 3e8, 1e9], noise=0.002), family="capacity-gap", bootstrap=50)
    inside, outside = (predict_student("mine", result, student_params=params) for params in (2e8, 2e11))
    low, high = inside["best_teacher_interval"]
    assert inside["status"] == result.status.name and low < inside["best_teacher_params"] < high
    assert outside["status"] == "EXTRAPOLATED" and outside["inside_range"] is False


def test_interval_covers_the_slope_under_noise():
    table = pilot([1e7, 3e7, 1e8, 3e8, 1e9], noise=0.002) | {"loss_se": np.full(40, 0.002)}
    result = dl.fit(table, family="capacity-gap", bootstrap=300)
    low, high = result.conf_int()["slope"]
    assert low < 2.5 < high and high - low > 0.02


def test_fewer_than_four_bracketed_students_give_no_line():
    result = dl.fit(pilot([1e7, 1e8, 1e9]), family="capacity-gap")
    assert result.status is FitStatus.TOO_FEW_RUNS and result.law is None
    with pytest.raises(FitError, match="3 student sizes, 4 are needed"):
        result.predict(student_params=1e8)


def test_a_minimum_at_the_end_is_not_a_best_teacher():
    table = pilot([1e7, 3e7, 1e8, 3e8, 1e9])
    keep = table["teacher_params"] < 2.2 * table["params"]
    result = dl.fit({k: v[keep] for k, v in table.items()}, family="capacity-gap")
    assert result.status is FitStatus.TOO_FEW_RUNS
    assert "largest teacher is best: try larger" in result.remedy
