"""What an arm's rate may cost, from the runs at other rates that exist."""

import math
from pathlib import Path

import pytest

from distillaw.planning.rate_doubt import DRIFT, LATTICE, STEEPNESS, rate_doubt
from distillaw.planning.record import Run, StudyRecord

SMALL, LARGE = 60_000, 960_000


def _run(tokens, octaves=0.0, *, teacher=None, loss=3.0, purpose="grid", **settings):
    row = {"role": "student", "purpose": purpose, "params": 100_000, "tokens": tokens, "seed": 0, "loss": loss,
           "teacher_run": teacher, "peak_lr": 0.01 * 2**octaves, "branch_lr": 0.01 * 2**octaves,
           "run_id": f"{tokens} {octaves} {teacher} {purpose} {settings}", **settings}  # fmt: skip
    return Run(row=row, folder=None)


def _bracket(tokens, steepness, **settings):
    return [_run(tokens, x, loss=3.0 + steepness, purpose="tuning", **settings) for x in (-1.0, 1.0)]


def _doubt(runs, *, teacher=None):
    own = {t: {0: _run(t, teacher=teacher)} for t in (SMALL, LARGE)}
    grid = [seeds[0] for seeds in own.values()]
    record = StudyRecord(
        folder=Path("made"), info={}, runs=[*grid, *runs], unfinished=(), tuning={}, problems=()
    )
    return rate_doubt(record, own, is_taught=teacher is not None)


def test_where_both_sides_were_tried_the_lattice_and_the_steepness_there_are_what_is_left():
    doubt = _doubt([*_bracket(SMALL, 0.2), *_bracket(LARGE, 0.06)])
    assert doubt.reaches(LARGE) and not doubt.reaches(2 * LARGE)
    assert doubt.at(LARGE) == pytest.approx(math.sqrt(3) * 0.06 * LATTICE**2)


def test_beyond_what_was_checked_the_best_rate_moves_on_unseen():
    doubt = _doubt(_bracket(SMALL, 0.05))
    assert not doubt.reaches(LARGE)
    drift = DRIFT * math.log2(LARGE / SMALL)
    assert doubt.at(LARGE) == pytest.approx(
        math.sqrt(3) * (0.05 * LATTICE**2 + STEEPNESS["alone"] * drift**2)
    )
    assert doubt.at(LARGE) > 10 * doubt.at(SMALL)


def test_taught_students_hardly_depend_on_their_rate_and_speak_for_all_teachers():
    unchecked = _doubt([], teacher="t")
    assert unchecked.at(LARGE) < 0.2 * _doubt([]).at(LARGE)
    assert _doubt([_run(LARGE, teacher="u"), *_bracket(LARGE, 0.03, teacher="u")], teacher="t").reaches(LARGE)


def test_one_side_is_no_check_and_a_run_that_differs_otherwise_is_none():
    one, _ = _bracket(LARGE, 0.05)
    assert not _doubt([one]).reaches(LARGE)
    assert not _doubt(_bracket(LARGE, 0.05, init="pruned")).reaches(LARGE)


def test_nothing_is_said_of_runs_that_do_not_say_their_rate():
    run = _run(SMALL, peak_lr=None, branch_lr=None)
    record = StudyRecord(folder=Path("made"), info={}, runs=[run], unfinished=(), tuning={}, problems=())
    assert rate_doubt(record, {SMALL: {0: run}}, is_taught=False) is None
