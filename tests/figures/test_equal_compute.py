"""Loss at equal compute, against studies whose law is known."""

from itertools import pairwise

import numpy as np
import pytest
from synthetic_study import supervised_loss

from distillaw.errors import DataError
from distillaw.figures.fits import study_laws
from distillaw.figures.losses import APART, BEYOND, draw_isoflop, iso_budgets, teacher_styles
from distillaw.report.students import isoflop_sentences
from distillaw.runs.record import read_study


def test_every_point_pays_the_same_compute_and_lies_on_the_law(grid_record):
    budgets = iso_budgets(grid_record)
    runs = {(run.params, run.teacher_run or ""): run for run in grid_record.students}
    shift = next(r.loss - supervised_loss(r.params, r.tokens) for r in grid_record.students if not r.teacher_run)
    assert len(budgets) >= 2
    for budget in budgets:
        assert len(budget.curves[0].points) >= 3 and not budget.curves[0].teacher_run
        for curve in budget.curves:
            for point in curve.points:
                run = runs[point.params, curve.teacher_run]
                flop = (run.number("train_flops") + run.number("teacher_flops")) / run.tokens * point.tokens
                assert flop == pytest.approx(budget.compute)
        for point in budget.curves[0].points:
            true = supervised_loss(point.params, point.tokens) + shift
            assert abs(point.loss - true) < max(point.half, 0.01)


def test_budgets_stand_apart_and_arms_are_read_hardly_beyond_their_runs(grid_record):
    budgets = iso_budgets(grid_record)
    computes = [budget.compute for budget in budgets]
    assert computes == sorted(computes)
    assert min(b / a for a, b in pairwise(computes)) >= APART * 0.999
    largest = max(run.tokens for run in grid_record.students)
    points = [p for budget in budgets for curve in budget.curves for p in curve.points]
    assert all(p.tokens <= BEYOND * largest for p in points)
    assert all(p.is_beyond == (p.tokens > 1.01 * largest) for p in points)


def test_the_sentence_names_the_lowest_point_of_the_curve_that_is_drawn(grid_record):
    budgets = iso_budgets(grid_record)
    figure = draw_isoflop(budgets, teacher_styles(grid_record))
    for ax, budget, sentence in zip(figure.axes, budgets, isoflop_sentences(budgets), strict=False):
        drawn = {round(float(y), 9) for line in ax.lines for y in line.get_ydata()}
        for curve in budget.curves:
            assert {round(p.loss, 9) for p in curve.points} <= drawn
        best = min(budget.curves[0].points, key=lambda p: p.loss)
        assert f"({best.loss:.3f} ± {best.half:.3f} nats/token" in sentence
        assert ax.get_xlabel() == "student parameters (non-embedding)"


def test_laws_are_drawn_with_bands_that_are_hatched_outside_their_range(fitted):
    record = read_study(fitted)
    laws = study_laws(record)
    assert set(laws) == {"supervised"}
    budgets = iso_budgets(record)
    figure = draw_isoflop(budgets, teacher_styles(record), laws=laws)
    law = laws["supervised"]
    for ax, budget in zip(figure.axes, budgets, strict=False):
        points = budget.curves[0].points
        inside = law.fitted_range.inside(
            {"params": np.array([p.params for p in points]), "tokens": np.array([p.tokens for p in points])}
        )
        hatched = [band.get_hatch() for band in ax.collections]
        assert hatched and (None in hatched or not inside.any())
        assert any(hatched) == (not inside.all())


def test_two_sizes_are_too_few_and_the_design_that_would_do_is_named(noisy):
    record = read_study(noisy)
    budgets = iso_budgets(record)
    assert budgets == []
    with pytest.raises(DataError, match=r"three student sizes .* --kind isoflop-students"):
        draw_isoflop(budgets, teacher_styles(record))
