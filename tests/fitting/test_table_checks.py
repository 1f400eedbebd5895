"""Bad tables: each is refused with row and column, or answered with a status that says what to add."""

import numpy as np
import pytest

import distillaw as dl
from distillaw.errors import ConfigError, DataError, FitError, UnitError
from distillaw.fitting.result import FitStatus


def changed(table, column, row, value):
    values = table[column].astype(object) if isinstance(value, str) else table[column].copy()
    values[row] = value
    return table | {column: values}


@pytest.mark.parametrize("value", [np.nan, -1.0, 0.0, np.inf])
@pytest.mark.parametrize("column", ["loss", "params", "tokens"])
def test_bad_value_is_named_by_row_and_column(grid, column, value):
    with pytest.raises(DataError, match=rf"{column} in row 18 \(index 17\) is {value}"):
        dl.fit(changed(grid, column, 17, value), family="supervised", bootstrap=0)


def test_text_is_named_by_row_and_column(grid):
    with pytest.raises(DataError, match=r"loss in row 4 \(index 3\) is 'abc', which is not a number"):
        dl.fit(changed(grid, "loss", 3, "abc"), family="supervised", bootstrap=0)


@pytest.mark.parametrize("column", ["params", "tokens"])
def test_constant_column(grid, column):
    table = grid | {column: np.full(30, 1e9)}
    with pytest.raises(DataError, match=rf"{column} is 1e\+09 in all 30 rows"):
        dl.fit(table, family="supervised", bootstrap=0)


@pytest.mark.parametrize("rows", [1, 5, 8])
def test_too_few_runs_draw_no_curve(grid, rows):
    result = dl.fit({k: v[:rows] for k, v in grid.items()}, family="supervised", bootstrap=50)
    assert result.status is FitStatus.TOO_FEW_RUNS
    assert result.status == "TOO_FEW_RUNS" == str(result.status) and result.status != "CONVERGED"  # a word, as in JSON
    assert result.law is None and result.conf_int() == {}
    with pytest.raises(FitError, match="at least 9 independent runs"):
        result.predict(params=1e9, tokens=1e10)
    with pytest.raises(FitError, match="TOO_FEW_RUNS"):
        result.raise_for_status()


def test_many_rows_of_few_runs_are_few_runs(grid):
    table = grid | {"group": np.arange(30) % 5}
    result = dl.fit(table, family="chinchilla", bootstrap=20)
    assert result.status is FitStatus.TOO_FEW_RUNS and result.ngroups == 5
    assert dl.fit(table, family="chinchilla", group="none", bootstrap=0).is_usable


def test_one_isoflop_curve():
    N = np.geomspace(1e8, 1e10, 12)
    D = 1e21 / (6 * N)
    loss = dl.published("busbridge2025").supervised(params=N, tokens=D)
    result = dl.fit({"params": N, "tokens": D, "loss": loss}, family="supervised", bootstrap=0)
    assert result.status is FitStatus.ONE_COMPUTE_LEVEL
    assert "second budget, e.g. 3e+21" in result.remedy
    with pytest.raises(FitError, match="isoFLOP"):
        result.predict(params=1e9, tokens=1e10)


def test_one_ratio_of_tokens_to_parameters_is_weakly_identified():
    N = np.geomspace(1e8, 1e10, 14)
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(14))
    loss = dl.published("busbridge2025").supervised(params=N, tokens=20 * N) * noise
    result = dl.fit({"params": N, "tokens": 20 * N, "loss": loss}, family="chinchilla", bootstrap=0)
    assert result.status in (FitStatus.WEAKLY_IDENTIFIED, FitStatus.AT_BOUND)


def test_exact_copies_count_once(grid):
    twice = {k: np.r_[v, v] for k, v in grid.items()}
    result = dl.fit(twice, family="supervised", bootstrap=0)
    assert result.nobs == 60 and result.ngroups == 30
    assert any("30 rows are exact copies" in note for note in result.notes)


def test_losses_in_bits_are_refused_until_declared(grid):
    table = {"params": grid["params"], "tokens": grid["tokens"], "bits_per_byte": grid["loss"]}
    with pytest.raises(UnitError, match="does not look like nats"):
        dl.fit(table, family="supervised", columns={"loss": "bits_per_byte"}, bootstrap=0)
    bits = grid | {"loss": grid["loss"] / np.log(2)}
    converted = dl.fit(bits, family="supervised", unit="bits", bootstrap=0)
    assert converted.params["E"] == pytest.approx(1.22, rel=1e-6)


@pytest.mark.parametrize(
    ("column", "values"), [("loss_unit", ("nats", "bits")), ("params_convention", ("total", "non-embedding"))]
)
def test_mixed_units_and_conventions_are_refused(grid, column, values):
    table = grid | {column: np.array(values)[np.arange(30) % 2]}
    with pytest.raises(UnitError, match=f"column '{column}' mixes"):
        dl.fit(table, family="supervised", bootstrap=0)


def test_missing_and_misspelt_columns(grid):
    with pytest.raises(DataError, match="no column for loss; the table has: params, tokens"):
        dl.fit({k: grid[k] for k in ("params", "tokens")}, family="supervised")
    with pytest.raises(DataError, match="did you mean 'loss'"):
        dl.fit(grid, family="supervised", columns={"loss": "los"})
    with pytest.raises(ConfigError, match="did you mean 'params'"):
        dl.fit(grid, family="supervised", columns={"param": "params"})
    with pytest.raises(ConfigError, match="did you mean 'supervised'"):
        dl.fit(grid, family="supervized")


def test_columns_of_different_length(grid):
    with pytest.raises(DataError, match="different lengths"):
        dl.fit(grid | {"loss": grid["loss"][:-1]}, family="supervised")


def test_tuning_runs_are_left_out(study):
    odd = study | {"purpose": np.where(np.arange(len(study["purpose"])) == 3, "tuning", study["purpose"])}
    odd["loss"] = np.where(np.arange(len(odd["loss"])) == 3, 9.0, odd["loss"])
    result = dl.fit(odd, family="supervised", bootstrap=0)
    assert result.nobs == 29 and result.params["gamma"] == pytest.approx(0.452, rel=1e-6)
    assert "1 rows of searches or controls left out (column purpose)" in result.notes


def test_distilled_rows_without_any_supervised_loss(study):
    taught = np.isfinite(study["teacher_loss"])
    table = {k: v[taught] for k, v in study.items()}
    with pytest.raises(DataError, match="--supervised LAW"):
        dl.fit(table, family="distillation-reduced", bootstrap=0)
    with pytest.raises(DataError, match="teacher_loss"):
        dl.fit({k: v[~taught] for k, v in study.items()}, family="distillation-reduced", bootstrap=0)


def test_a_loss_that_never_changes_is_refused(grid):
    with pytest.raises(DataError, match="loss is 3 in all 30 rows"):
        dl.fit(grid | {"loss": np.full(30, 3.0)}, family="supervised", bootstrap=0)


def totals(study, vocab, matrices=1):
    """The study with all counts as totals: students of width 512 to 2048, teachers of width 4096."""
    width = 512.0 * (1 + np.arange(len(study["loss"])) % 4)
    taught = np.isfinite(study["teacher_loss"])
    teachers = np.where(taught, 3e9, np.nan)
    return study | {
        "params": study["params"] + matrices * vocab * width,
        "width": width,
        "teacher_params": teachers + matrices * vocab * 4096,
        "teacher_width": np.where(taught, 4096.0, np.nan),
    }


@pytest.mark.parametrize("matrices", [1, 2])
def test_students_and_teachers_are_converted_together(study, matrices):
    options = {"family": "distillation-reduced", "bootstrap": 0, "check": False}
    table = totals(study, 32000, matrices)
    known = dl.fit(study, **options)
    found = dl.fit(table, **options, params_convention="total", vocab=32000, matrices=matrices)
    assert found.params == pytest.approx(known.params, rel=1e-6)
    assert found.params_convention == "non-embedding"
    assert any("teacher_params likewise, from teacher_width" in note for note in found.notes)


def test_teachers_without_a_width_are_set_aside_or_refused(study):
    table = totals(study, 32000)
    del table["teacher_width"]
    total = {"params_convention": "total", "vocab": 32000, "bootstrap": 0, "check": False}
    reduced = dl.fit(table, family="distillation-reduced", **total)
    assert any("teacher_params are set aside" in note for note in reduced.notes)
    with pytest.raises(UnitError, match="--teacher-width COLUMN"):
        dl.fit(table, family="capacity-gap", **total)
    with pytest.raises(UnitError, match="fewer than the embedding"):
        dl.fit(table, family="distillation-reduced", **total | {"vocab": 1e9})
    with pytest.raises(ConfigError, match="add --vocab"):
        dl.fit(study, family="distillation-reduced", width="width")


def test_a_slope_that_only_the_prior_knows_is_said(grid, with_noise):
    table = with_noise(grid | {"loss": 30 * grid["params"] ** -0.1 + grid["tokens"] ** -1.5}, 0.01, 0)
    result = dl.fit(table, family="supervised", bootstrap=0)
    assert result.status is FitStatus.WEAKLY_IDENTIFIED and "say less of q than" in result.remedy


def test_every_status_is_a_sentence(grid, with_noise):
    for status in FitStatus:
        assert status.value[0].isupper() and status.value.endswith(".")
    isoflop = np.geomspace(1e8, 1e10, 12)
    seen = {
        FitStatus.TOO_FEW_RUNS: {k: v[:5] for k, v in grid.items()},
        FitStatus.ONE_COMPUTE_LEVEL: {"params": isoflop, "tokens": 1e20 / isoflop, "loss": 1 + 1e9 / isoflop},
        FitStatus.AT_BOUND: with_noise(grid | {"loss": 30 * grid["params"] ** -0.1 + grid["tokens"] ** -1.5}, 0.01, 0),
    }
    for status, table in seen.items():
        result = dl.fit(table, family="supervised", bootstrap=0, priors="none")
        assert result.status is status, (status, result.status)
        assert result.remedy[0].isupper() and result.remedy.endswith(".")
        assert result.summary().splitlines()[:2] == [f"supervised: {status.name}", f"  {result.remedy}"]
        assert f"<p>{status.name}" in result._repr_html_() or status.name in result._repr_html_().split("<table>")[0]
        assert result.to_json()["status"] == status.name


def test_chosen_rows_keep_their_numbers(grid):
    text = np.where(np.arange(30) % 3, "web", "books")
    result = dl.fit(grid | {"text": text}, family="chinchilla", bootstrap=0, where={"text": "web"})
    assert result.fitted_rows.tolist() == np.flatnonzero(text == "web").tolist()
    bad = changed(grid | {"text": text}, "loss", 4, np.nan)
    with pytest.raises(DataError, match="counting the 20 rows with text = web"):
        dl.fit(bad, family="chinchilla", bootstrap=0, where={"text": "web"})


def test_mixed_settings_are_remarked_among_taught_rows_only(study):
    """Rows without a teacher have lambda 0 by definition; that is no mixture."""
    taught = np.isfinite(study["teacher_loss"])
    weights = np.where(taught, 1.0, 0.0)
    one = dl.fit(study | {"lambda": weights}, family="distillation-reduced", bootstrap=0)
    assert not any("mix lambda" in note for note in one.notes)
    weights[np.flatnonzero(taught)[:3]] = 0.5
    two = dl.fit(study | {"lambda": weights}, family="distillation-reduced", bootstrap=0)
    assert "rows mix lambda = 0.5, 1.0; the law holds for one value of it" in two.notes


@pytest.mark.parametrize("table", [None, [{"params": 1e9, "tokens": 1e10, "loss": 3.0}]])
def test_what_is_no_table(table):
    with pytest.raises(ConfigError, match=f"table: got a {type(table).__name__}; give columns"):
        dl.fit(table, family="supervised")
