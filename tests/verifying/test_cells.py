import math
from dataclasses import replace

import pytest
from forecasts import BETTER, OLD, SMALL, TAUGHT, row, write_table

from distillaw.errors import UnitError
from distillaw.verifying.frozen import PredictedPoint, measure, read_runs, seen_runs


def runs_of(tmp_path, *rows):
    return read_runs(write_table(tmp_path / "runs.csv", [*OLD, *rows]))


def test_a_cell_is_its_size_tokens_and_teacher():
    rounded = replace(SMALL, tokens=1_000_448)
    assert SMALL.is_same(rounded) and not SMALL.is_same(replace(SMALL, tokens=1.02e6))
    assert not SMALL.is_same(TAUGHT) and not TAUGHT.is_same(BETTER)
    nameless = PredictedPoint(params=1e5, tokens=1e6, teacher_loss=2.5001)
    assert TAUGHT.is_same(nameless) and not BETTER.is_same(nameless)
    assert TAUGHT.is_same(replace(TAUGHT, teacher_loss=2.6))  # a teacher has one name, whatever its loss is called


def test_the_measurement_is_the_mean_over_seeds(tmp_path):
    found = measure(SMALL, runs_of(tmp_path, row("a", SMALL, 3.0), row("b", SMALL, 3.2, seed=1)))
    assert found.loss == pytest.approx(3.1) and len(found.by_seed) == 2 and not found.problem


def test_searches_controls_and_teachers_measure_nothing(tmp_path):
    runs = runs_of(
        tmp_path,
        row("a", SMALL, 3.0, purpose="tuning"),
        row("b", SMALL, 3.0, purpose="control:lambda"),
        row("c", SMALL, 3.0, role="teacher", purpose="teacher"),
    )
    assert measure(SMALL, runs) is None
    assert seen_runs(SMALL, runs) == ["a"]  # a search's run gives the cell away all the same


def test_a_loss_that_is_no_number_and_mixed_settings_are_no_measurement(tmp_path):
    nan = measure(SMALL, runs_of(tmp_path, row("a", SMALL, 3.0), row("b", SMALL, "nan", seed=1)))
    assert math.isnan(nan.loss) and "b: its loss is nan" in nan.problem
    mixed = measure(SMALL, runs_of(tmp_path, row("a", SMALL, 3.0), row("b", SMALL, 3.1, weight=0.5)))
    assert math.isnan(mixed.loss) and "lambda = 0.5, 1" in mixed.problem


def test_losses_in_bits_are_refused(tmp_path):
    path = tmp_path / "bits.csv"
    path.write_text("params,tokens,loss,loss_unit\n1e5,1e6,4.2,bits\n")
    with pytest.raises(UnitError, match="nats"):
        read_runs(path)


def test_rows_without_an_id_go_by_their_number(tmp_path):
    path = tmp_path / "bare.csv"
    path.write_text("params,tokens,loss\n1e5,1e6,4.2\n2e5,1e6,4.1\n")
    assert [run.run_id for run in read_runs(path)] == ["row 1", "row 2"]


def test_rows_of_the_arm_that_laws_are_fitted_on_and_all_teachers(tmp_path):
    """Searches of fresh students are no fresh arm; a teacher's first weights are random in every study."""
    path = tmp_path / "arms.csv"
    path.write_text(
        "run_id,role,purpose,arm,params,tokens,loss\nt,teacher,teacher,fresh,2e5,1e6,3.0\n"
        "search,student,tuning,fresh,1e5,1e5,4.2\np,student,grid,pruned,1e5,1e6,3.5\n"
        "q,student,tuning,pruned,1e5,1e5,4.0\n"
    )
    assert [run.run_id for run in read_runs(path)] == ["t", "p", "q"]
