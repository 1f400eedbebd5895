"""The result object: what it says first, that it survives a file, that its parts agree."""

import json

import numpy as np
import pytest

import distillaw as dl
from distillaw.errors import DataError
from distillaw.fitting.result import FitResult


@pytest.fixture(scope="module")
def fitted(study, with_noise):
    return dl.fit(with_noise(study, 0.003, 5), family="distillation-reduced", bootstrap=100)


AT = {"student_params": 1e9, "student_tokens": 2e10, "teacher_loss": [2.0, 2.2, 2.5]}


def test_file_round_trip_predicts_the_same(fitted, tmp_path):
    again = FitResult.load(fitted.save(tmp_path / "laws" / "reduced.json"))
    for ours, theirs in zip(
        (fitted.predict(**AT), fitted.draws(**AT)), (again.predict(**AT), again.draws(**AT)), strict=True
    ):
        if isinstance(ours, np.ndarray):
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_array_equal(ours.upper, theirs.upper)
    assert again.summary() == fitted.summary()
    assert again.to_json() == fitted.to_json()
    assert list(tmp_path.rglob("*.tmp")) == []
    json.dumps(fitted.to_json(), allow_nan=False)


def test_broken_file_is_named(tmp_path):
    (tmp_path / "x.json").write_text('{"format": "distillaw-fit", ')
    with pytest.raises(DataError, match="not a JSON file"):
        FitResult.load(tmp_path / "x.json")
    (tmp_path / "y.json").write_text('{"format": "distillaw-fit", "schema_version": 1}')
    with pytest.raises(DataError, match="incomplete"):
        FitResult.load(tmp_path / "y.json")
    with pytest.raises(DataError, match="distillaw fit TABLE"):
        FitResult.load(tmp_path / "z.json")


def test_law_object_predicts_what_the_result_predicts(fitted):
    np.testing.assert_allclose(fitted.law(**AT), fitted.predict(**AT).mean, rtol=1e-12)


def test_intervals_widen_with_level_and_distance(fitted):
    narrow, wide = fitted.predict(**AT, level=0.5), fitted.predict(**AT, level=0.95)
    assert (wide.upper - wide.lower > narrow.upper - narrow.lower).all()
    far = fitted.predict(student_params=1e11, student_tokens=2e13, teacher_loss=2.0)
    assert not far.inside_range
    assert np.log(far.upper / far.lower) > np.log(wide.upper / wide.lower).max()


def test_draws_match_the_interval_and_pair_with_the_supervised_law(fitted):
    draws = fitted.draws(**AT)
    assert draws.shape == (100, 3)
    prediction = fitted.predict(**AT)
    inside = (draws > prediction.lower) & (draws < prediction.upper)
    assert 0.75 < inside.mean() <= 1.0
    supervised = fitted.supervised_draws(params=1e9, tokens=2e10)
    assert supervised.shape == (100, 1) and supervised.std() > 0


def test_summary_says_validity_first(fitted):
    lines = fitted.summary().splitlines()
    assert lines[0] == "distillation-reduced: CONVERGED"
    assert "independent runs" in lines[1]
    assert "CONVERGED" in fitted._repr_html_().split("<table>")[0]


def test_residuals_and_rows_align(study, with_noise):
    table = with_noise(study, 0.003, 6)
    result = dl.fit(table, family="supervised", bootstrap=0)
    i = result.fitted_rows
    expected = np.log(result.law(params=table["params"][i], tokens=table["tokens"][i]) / table["loss"][i])
    np.testing.assert_allclose(result.resid, expected, atol=1e-12)


def test_prediction_refuses_unknown_coordinates(fitted):
    with pytest.raises(DataError, match="missing student_tokens, teacher_loss"):
        fitted.predict(student_params=1e9)
    with pytest.raises(DataError, match="unknown tokens"):
        fitted.predict(**AT, tokens=1e9)


def test_same_seed_same_interval(grid, with_noise):
    table = with_noise(grid, 0.003, 1)
    first, second = (dl.fit(table, family="supervised", bootstrap=50, seed=4).conf_int() for _ in range(2))
    assert first == second
    assert first != dl.fit(table, family="supervised", bootstrap=50, seed=5).conf_int()


def test_repeated_cells_measure_the_noise(grid, with_noise):
    twice = {k: np.r_[v, v] for k, v in grid.items()}
    result = dl.fit(with_noise(twice, 0.004, 1), family="supervised", bootstrap=0, check=False)
    found = result.details["seed_noise"]
    assert found["num_cells"] == found["spare"] == 30
    assert found["sd"] == pytest.approx(0.004, rel=0.3)  # one standard error of 30 degrees of freedom is 13 %
    assert "noise between runs of one cell" in result.summary()
    for table in (grid, twice):  # no repeats, exact copies
        assert "seed_noise" not in dl.fit(table, family="supervised", bootstrap=0, check=False).details
