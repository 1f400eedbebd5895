"""Figures of laws by themselves: the curves are the law's, bands stop or are hatched where it was not fitted."""

import numpy as np
import pytest

import distillaw as dl
from distillaw.errors import ConfigError
from distillaw.planning.map_grid import laws_for_map
from distillaw.planning.teacher_curve import teacher_curve, teacher_loss_curve


def curve_of(ax, color):
    """Points of every line of a colour, left to right."""
    lines = [line for line in ax.lines if line.get_color() == color and len(line.get_xdata()) > 2]
    found = np.concatenate([np.stack(line.get_data(), axis=1) for line in lines])
    return found[np.argsort(found[:, 0])]


def test_curves_over_tokens_are_those_of_the_law():
    law = dl.published("surrogate-s1")
    (ax,) = dl.figures.loss_over_tokens(law, student_params=1e9, teacher_loss=2.1).axes
    alone, taught = curve_of(ax, "#1a1a1a"), curve_of(ax, "#0072b2")
    assert alone[:, 1] == pytest.approx(law.supervised(params=1e9, tokens=alone[:, 0]))
    wanted = law.distillation(student_params=1e9, student_tokens=taught[:, 0], teacher_loss=2.1)
    assert taught[:, 1] == pytest.approx(wanted)
    assert taught[0, 0] == pytest.approx(2e9) and taught[-1, 0] == pytest.approx(2e12)


def test_outside_the_fitted_range_curves_are_dashed():
    law = dl.published("surrogate-s1")
    (ax,) = dl.figures.loss_over_tokens(law, student_params=1e9, teacher_loss=2.1).axes
    for line in ax.lines:
        x = np.array(line.get_xdata())[1:-1]
        inside = law.supervised.range.inside({"params": 1e9, "tokens": x})
        if line.get_color() == "#0072b2":
            coords = {"student_params": 1e9, "student_tokens": x, "teacher_loss": 2.1}
            inside = law.distillation.range.inside(coords)
        assert inside.all() if line.get_linestyle() == "-" else not inside.any()
    assert "hatched: outside the fitted range" in ax.get_title(loc="left")


def test_a_fitted_law_without_a_teacher_draws_no_distillation(fitted):
    with pytest.raises(ConfigError, match="no distillation half"):
        dl.figures.loss_over_tokens(str(fitted / "laws" / "supervised.json"), student_params=1e5, teacher_loss=3.0)


def test_unknown_laws_and_laws_without_a_teacher_are_refused():
    with pytest.raises(ConfigError, match="did you mean"):
        dl.figures.loss_over_tokens("surogate-s1", student_params=1e9, teacher_loss=2.0)
    with pytest.raises(ConfigError, match="no distillation half"):
        dl.figures.loss_over_tokens("besiroglu2024", student_params=1e9, teacher_loss=2.0)


def test_the_flat_stretch_of_teacher_sizes_is_the_library_s():
    (ax,) = dl.figures.loss_over_teacher_size(student_params=1e9, student_tokens=2e10).axes
    curve = teacher_curve(
        laws_for_map(()).ensemble,
        student_params=1e9,
        student_tokens=2e10,
        teacher_tokens_per_param=20,
        sizes=np.geomspace(1.25e8, 3e11, 200),
    )
    band = next(patch for patch in ax.patches if patch.get_alpha() == 0.18)
    assert band.get_x() == pytest.approx(curve.best.flat.lower, rel=1e-6)
    assert band.get_x() + band.get_width() == pytest.approx(curve.best.flat.upper, rel=1e-6)
    assert any(text.get_text().startswith("best 13.") for text in ax.texts)


def test_the_best_teacher_loss_is_marked():
    (ax,) = dl.figures.loss_over_teacher_loss("surrogate-s2", student_params=1e9, student_tokens=2e10).axes
    curve = teacher_loss_curve(laws_for_map(("surrogate-s2",)).ensemble, student_params=1e9, student_tokens=2e10)
    dots = [line.get_data() for line in ax.lines if len(line.get_xdata()) == 1]
    assert [(float(x[0]), float(y[0])) for x, y in dots] == [(curve.best.at, curve.best.student_loss)]
    assert ax.xaxis_inverted() and "better" in ax.get_xlabel()


def test_strategies_show_what_the_verdict_says():
    verdict = dl.plan(1e9, student_tokens=2e10)
    losses, gains = dl.figures.strategies(verdict).axes
    dots = [float(line.get_xdata()[0]) for line in losses.lines if len(line.get_xdata()) == 1]
    assert dots == [row.loss.mean for row in verdict.strategies]
    spans = [tuple(line.get_xdata()) for line in gains.lines if len(line.get_xdata()) == 2]
    wanted = [(row.gain.lower, row.gain.upper) for row in verdict.strategies if row.gain]
    assert [span for span in spans if span != (0, 0)][: len(wanted)] == wanted
