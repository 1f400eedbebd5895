"""What an arm's rate may cost, from the runs at other rates that exist."""

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import distillaw
from distillaw.laws.rates import LATTICE, NEAR
from distillaw.planning.arms import STEEPNESS, rate_uncertainty
from distillaw.runs.record import Run, StudyRecord

SMALL, LARGE = 60_000, 960_000


def _run(tokens, octaves=0.0, *, teacher=None, loss=3.0, purpose="grid", **settings):
    rate = 0.01 * 2**octaves
    row = {
        "role": "student",
        "purpose": purpose,
        "params": 100_000,
        "tokens": tokens,
        "seed": 0,
        "loss": loss,
        "teacher_run": teacher,
        "peak_lr": rate,
        "branch_lr": rate,
        "run_id": f"{tokens} {octaves} {teacher} {purpose} {settings}",
        **settings,
    }
    return Run(row=row, folder=None)


def _bracket(tokens, steepness, *, best=0.0, **settings):
    """Half and double the grid's rate; the grid's run has a loss of 3."""
    return [
        _run(tokens, x, loss=3.0 + steepness * ((x - best) ** 2 - best**2), purpose="tuning", **settings)
        for x in (-1.0, 1.0)
    ]


def _doubt(runs, *, teacher=None, rates=(0.0, 0.0)):
    own = {t: {0: _run(t, x, teacher=teacher)} for t, x in zip((SMALL, LARGE), rates, strict=True)}
    grid = [seeds[0] for seeds in own.values()]
    record = StudyRecord(folder=Path("made"), info={}, runs=[*grid, *runs], unfinished=(), tuning={}, problems=())
    return rate_uncertainty(record, own, has_teacher=teacher is not None)


def test_where_both_sides_were_tried_the_parabola_says_where_the_best_rate_is():
    doubt = _doubt(_bracket(LARGE, 0.1, best=-0.3))
    assert doubt.reaches(LARGE) and not doubt.reaches(2 * LARGE)
    off, variance = doubt.octaves(LARGE)
    assert off == pytest.approx(0.27, abs=0.03), "a tenth towards the middle of the lattice"
    assert math.sqrt(variance) < LATTICE / 2.5
    assert 0.1 * 0.3**2 < doubt.at(LARGE) < 0.02
    assert _doubt(_bracket(LARGE, 0.1)).at(LARGE) < doubt.at(LARGE)


def test_a_flat_parabola_leaves_what_the_lattice_leaves():
    flat = _doubt(_bracket(LARGE, 1e-5))
    off, variance = flat.octaves(LARGE)
    assert (off, math.sqrt(variance)) == (pytest.approx(0, abs=0.01), pytest.approx(LATTICE, rel=0.01))
    assert 0 < flat.at(LARGE) < _doubt(_bracket(LARGE, 0.1)).steepness(LARGE) * LATTICE**2


def test_beyond_what_was_checked_the_best_rate_moves_on_unseen():
    doubt = _doubt(_bracket(SMALL, 0.05))
    assert not doubt.reaches(LARGE)
    assert doubt.steepness(LARGE) == STEEPNESS["alone"] > doubt.steepness(SMALL)
    assert doubt.at(LARGE) > 10 * doubt.at(SMALL)
    fallen = _doubt(_bracket(SMALL, 0.05), rates=(0.0, -0.32 * math.log2(LARGE / SMALL)))
    assert fallen.octaves(LARGE)[0] == pytest.approx(0, abs=0.01)
    assert fallen.at(LARGE) < 0.6 * doubt.at(LARGE)


def test_checks_at_two_budgets_of_another_size_say_how_the_best_rate_falls():
    far = [_run(t, x, loss=3.0, params=50_000) for t, x in ((SMALL, 0.0), (LARGE, -2.0))]
    sides = [
        _run(t, x + s, loss=3.1, params=50_000, purpose="tuning")
        for t, x in ((SMALL, 0.0), (LARGE, -2.0))
        for s in (-1, 1)
    ]
    doubt = _doubt([*_bracket(SMALL, 0.1), *far, *sides], rates=(0.0, -2.0))
    off, variance = doubt.octaves(LARGE)
    assert abs(off) < 0.1 and doubt.reaches(LARGE)
    assert 0.05 < math.sqrt(variance) < LATTICE  # another size is not this one


def test_taught_students_hardly_depend_on_their_rate_and_speak_for_all_teachers():
    unchecked = _doubt([], teacher="t")
    assert unchecked.at(LARGE) < 0.2 * _doubt([]).at(LARGE)
    assert _doubt([_run(LARGE, teacher="u"), *_bracket(LARGE, 0.03, teacher="u")], teacher="t").reaches(LARGE)


def test_one_side_is_no_check_and_a_run_that_differs_otherwise_is_none():
    one, _ = _bracket(LARGE, 0.05)
    assert not _doubt([one]).reaches(LARGE)
    assert not _doubt(_bracket(LARGE, 0.05, init="pruned")).reaches(LARGE)


def test_points_far_from_the_best_rate_do_not_bend_the_parabola():
    cliff = _run(LARGE, 1 + NEAR, loss=6.0, purpose="tuning")
    runs = _bracket(LARGE, 0.1)
    assert _doubt([*runs, cliff]).at(LARGE) == _doubt(runs).at(LARGE)


def test_nothing_is_said_of_runs_that_do_not_say_their_rate():
    run = _run(SMALL, peak_lr=None, branch_lr=None)
    record = StudyRecord(folder=Path("made"), info={}, runs=[run], unfinished=(), tuning={}, problems=())
    assert rate_uncertainty(record, {SMALL: {0: run}}, has_teacher=False) is None


@pytest.mark.parametrize("has_teacher", [False, True], ids=["alone", "taught"])
def test_searches_of_the_open_study_foresee_the_best_rates_at_four_times_their_budget(has_teacher):
    file = Path(distillaw.__file__).parent / "studies" / "open_runs.parquet"
    runs = [Run(row=row, folder=None) for row in pq.read_table(file).to_pylist()]
    record = StudyRecord(folder=Path("open"), info={}, runs=runs, unfinished=(), tuning={}, problems=())
    searched = StudyRecord(
        folder=Path("open"),
        info={},
        runs=[run for run in runs if run.purpose != "control:horizon"],
        unfinished=(),
        tuning={},
        problems=(),
    )
    for size in (83_280, 310_480):
        own = {}
        for run in record.students_by_size[size]:
            if bool(run.teacher_run) == has_teacher:
                own.setdefault(run.tokens, {})[run.seed] = run
        said, seen = (rate_uncertainty(r, own, has_teacher=has_teacher) for r in (searched, record))
        (off, variance), (true_off, true_variance) = said.octaves(819_968), seen.octaves(819_968)
        assert abs(off - true_off) < 2 * np.sqrt(variance + true_variance)
        assert true_variance < 0.5 * variance
        assert seen.at(819_968) < said.at(819_968)
