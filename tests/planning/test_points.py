"""Nats to points in a plan: scores beside losses, a gain in points, and the verdict unmoved."""

import pytest

import distillaw as dl
from distillaw.errors import ConfigError
from in_process import answer

ASKED = {"student_params": "300M", "student_tokens": "20B", "teacher_loss": [2.2], "with_flips": False}


def test_scores_stand_beside_losses_and_the_verdict_is_about_loss():
    plain, told = dl.plan(**ASKED), dl.plan(**ASKED, metric="arc_easy", score_at=["2.6=55%"])
    assert (told.verdict, told.probability, told.gain) == (plain.verdict, plain.probability, plain.gain)
    found = told.to_json()
    assert "metric" not in plain.to_json()
    rows = {row["name"]: row for row in found["strategies"]}
    best, alone = rows[told.headline.best.name], rows["pretrain"]
    assert alone["score_gain"] is None
    assert best["score"]["median"] > alone["score"]["median"] > 25
    assert best["score_gain"]["lower"] < best["score_gain"]["median"] < best["score_gain"]["upper"]
    assert found["metric"]["gain"]["median"] == pytest.approx(best["score_gain"]["median"], abs=0.3)
    assert "In arc_easy the gain is worth" in str(told)
    assert any("in published outcomes those of a teacher had" in line for line in told.warnings)


def test_without_a_score_of_ones_own_the_level_is_hardly_known():
    alone, told = (dl.plan(**ASKED, metric="piqa", **more) for more in ({}, {"score_at": "2.6=0.7"}))
    widths = [v.points.score(v.strategies[0]) for v in (alone, told)]
    assert widths[0].upper - widths[0].lower > 2 * (widths[1].upper - widths[1].lower)
    assert any("--score-at" in line for line in alone.warnings)
    assert not any("--score-at" in line for line in told.warnings)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"metric": "boolq"}, "no law from loss to boolq"),
        ({"score_at": ["3=0.5"]}, "belongs to --metric"),
        ({"metric": "piqa", "score_at": ["0.5"]}, "LOSS=SCORE"),
        ({"metric": "piqa", "score_at": ["3=62"]}, "between 0 and 1"),
    ],
)
def test_what_says_nothing_is_refused(more, said):
    with pytest.raises(ConfigError, match=said):
        dl.plan(**ASKED, **more)


def test_the_command_prints_points():
    words = "plan --student 300M --tokens 20B --teacher-loss 2.2 --metric arc_easy --score-at 2.6=0.55".split()
    done = answer(*words, code=0)
    assert "arc_easy" in done.stdout
    assert "  points  " in done.stdout
