"""Whether intervals held: the numbers of the fit's own hold-outs, and of frozen forecasts made by hand."""

import pytest
from forecasts import BETTER, OLD, SMALL, TAUGHT, freeze_by_hand, predict, row, write_table

from distillaw.errors import DataError
from distillaw.figures.fits import draw_coverage, draw_hold_outs, hold_outs
from distillaw.fitting.study import kept_laws
from distillaw.report.trust import coverage_picture, hold_out_sentences, hold_out_table
from distillaw.runs.paired import wilson_interval
from distillaw.runs.record import read_study
from distillaw.verifying.scorecard import score_study


def test_hold_outs_are_those_of_the_fit(fitted):
    record = read_study(fitted)
    (found,) = hold_outs(record)
    calibration = kept_laws(record).fits["supervised"].calibration
    num = calibration.num_held_out
    assert num == sum(row["num"] for row in found.rows)
    assert found.hits / num == pytest.approx(calibration.obtained)
    assert found.hits == round(sum(row["inside"] * row["num"] for row in found.rows))
    low, high = (100 * end for end in wilson_interval(found.hits / num, num))
    (said,) = hold_out_sentences([found])
    assert f"{found.hits} of {num} held-out predictions inside their 90 % intervals" in said
    assert f"{low:.0f} to {high:.0f} % as if they were independent" in said
    (ax,) = draw_hold_outs([found]).axes
    assert [bar.get_height() for bar in ax.patches] == [100 * row["half_width"] for row in found.rows]
    assert [line.get_ydata()[0] for line in ax.lines] == [100 * row["error"] for row in found.rows]
    assert len(hold_out_table([found]).rows) == len(found.rows)


def test_a_study_without_laws_has_none(noisy):
    assert hold_outs(read_study(noisy)) == []
    with pytest.raises(DataError, match="No law of this study"):
        draw_hold_outs([])


@pytest.fixture
def scored(tmp_path):
    """Three losses forecast by one law: two inside their 90 % interval, one of them inside its 50 % interval."""
    table = tmp_path / "runs.csv"
    write_table(table, OLD)
    freeze_by_hand(
        table.with_suffix(".predictions"),
        [predict(SMALL, 3.00, 0.10), predict(TAUGHT, 2.80, 0.10), predict(BETTER, 2.70, 0.10)],
    )
    write_table(table, [*OLD, row("a", SMALL, 3.01), row("b", TAUGHT, 2.88), row("c", BETTER, 2.95)])
    return score_study(table).predictions


def test_coverage_is_the_share_inside_at_every_level(scored):
    (ax,) = draw_coverage(scored).axes
    curve = next(line for line in ax.lines if line.get_label().startswith("law"))
    assert list(curve.get_xdata()) == [50, 90]
    assert list(curve.get_ydata()) == pytest.approx([100 / 3, 200 / 3])
    assert "n = 3" in curve.get_label()
    bars = [line.get_ydata() for line in ax.lines if len(set(line.get_xdata())) == 1]
    for bar, hits in zip(bars, (1, 2), strict=True):
        assert list(bar) == pytest.approx([100 * end for end in wilson_interval(hits / 3, 3)])
    assert "law, loss, 90 % intervals: 67 % of 3 inside." in coverage_picture(scored).alt


def test_without_a_scored_interval_there_is_no_coverage():
    with pytest.raises(DataError, match="No frozen interval"):
        draw_coverage([])
