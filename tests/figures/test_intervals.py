"""Whether intervals held: the numbers of the fit's own hold-outs, and of frozen forecasts made by hand."""

import pytest

from distillaw.errors import DataError
from distillaw.figures.intervals import draw_hold_outs, hold_outs
from distillaw.planning.record import read_study
from distillaw.report.intervals import hold_out_sentences, hold_out_table
from distillaw.verifying.metrics import wilson


def test_hold_outs_are_those_of_the_fit(fitted):
    record = read_study(fitted)
    (found,) = hold_outs(record)
    calibration = record.laws["supervised"].calibration
    assert found.num == calibration.num_held_out == sum(row.num for row in found.rows)
    assert found.share == pytest.approx(calibration.obtained)
    assert found.hits == round(sum(row.inside * row.num for row in found.rows))
    assert found.interval == wilson(found.hits, found.num)
    (said,) = hold_out_sentences([found])
    assert f"{found.hits} of {found.num} held-out predictions inside their 90 % intervals" in said
    (ax,) = draw_hold_outs([found]).axes
    assert [bar.get_height() for bar in ax.patches] == [row.half for row in found.rows]
    assert [line.get_ydata()[0] for line in ax.lines] == [row.error for row in found.rows]
    assert len(hold_out_table([found]).rows) == len(found.rows)


def test_a_study_without_laws_has_none(noisy):
    assert hold_outs(read_study(noisy)) == []
    with pytest.raises(DataError, match="No law of this study"):
        draw_hold_outs([])
