"""Hits, errors and sums against values computed by hand."""

import json
from statistics import NormalDist

import numpy as np
import pytest
from forecasts import BETTER, OLD, SMALL, TAUGHT, freeze_by_hand, predict, row, write_table

from distillaw.errors import CacheError
from distillaw.verifying import scorecard
from distillaw.verifying.frozen import PredictedPoint
from distillaw.verifying.scorecard import find_sources, score_places, score_study


@pytest.fixture
def table(tmp_path):
    """A table before the runs; its predictions go to runs.predictions/."""
    return write_table(tmp_path / "runs.csv", OLD)


def freeze(table, predictions, **kwargs):
    return freeze_by_hand(table.with_suffix(".predictions"), predictions, **kwargs)[0]


def ran(table, *rows):
    write_table(table, [*OLD, *rows])
    return score_study(table)


def test_a_hit_and_a_miss(table):
    freeze(table, [predict(SMALL, 3.1, 0.2, by="good"), predict(SMALL, 3.5, 0.1, by="bad")])
    score = ran(table, row("n1", SMALL, 3.0), row("n2", SMALL, 3.1, seed=1))
    good, bad = score.predictions
    assert good.measured == pytest.approx(3.05) and good.num_seeds == 2
    assert good.error == pytest.approx(0.05) and good.share == pytest.approx(0.05 / 3.05)
    assert good.is_hit() and good.is_hit(0.5) and good.z == pytest.approx(-0.05 / (0.2 / 1.6448536))
    assert bad.is_hit() is False and bad.interval_score == pytest.approx((0.2 + 20 * 0.35) / 3.05)
    sums = {t.by: t for t in scorecard.by_forecaster(score.predictions)}
    assert (sums["good"].hits, sums["bad"].hits) == (1, 0) and sums["bad"].rms == pytest.approx(0.45)
    assert [t.by for t in scorecard.by_forecaster(score.predictions)] == ["good", "bad"]


def test_cells_that_are_not_run_stay_pending(table):
    freeze(table, [predict(SMALL, 3.1, 0.2), predict(TAUGHT, 3.0, 0.2)])
    score = ran(table, row("n1", SMALL, 3.0))
    assert [p.status for p in score.predictions] == ["scored", "pending"]
    assert [t.num for t in scorecard.by_forecaster(score.predictions)] == [1]
    assert json.loads(json.dumps(score.predictions[1].to_json(), allow_nan=False))["measured"] is None


def test_a_gain_that_is_not_measured_is_no_decision(table):
    freeze(table, [predict(TAUGHT, 0.2, 0.05, quantity="gain", probability=0.95)])
    score = score_study(table)
    assert [p.status for p in score.predictions] == ["pending"]
    assert scorecard.decisions(score.predictions, score.choices) == []


def test_a_diverged_run_is_unusable_and_says_so(table):
    freeze(table, [predict(SMALL, 3.1, 0.2)])
    (one,) = ran(table, row("n1", SMALL, "nan")).predictions
    assert one.status == "unusable" and "n1: its loss is nan" in one.problem
    assert scorecard.by_forecaster([one]) == []


def test_what_was_known_never_counts(table):
    known = [*OLD, row("n1", SMALL, 3.0)]
    freeze(table, [predict(SMALL, 3.0, 0.1)], known=known)  # a file that does not admit it
    freeze(table, [predict(SMALL, 3.0, 0.2, after=True)], known=known)
    score = ran(table, row("n1", SMALL, 3.0))
    assert [p.status for p in score.predictions] == ["after the fact"] * 2
    assert not scorecard.by_forecaster(score.predictions) and score.is_sound


def test_a_tampered_file_counts_nothing_and_the_card_is_not_sound(table):
    one = freeze(table, [predict(SMALL, 3.1, 0.2)])
    document = json.loads(one.path.read_text())
    document["predictions"][0]["mean"] = 3.0
    one.path.chmod(0o644)
    one.path.write_text(json.dumps(document))
    score = ran(table, row("n1", SMALL, 3.0))
    assert not score.is_sound and not score.predictions
    assert "TAMPERED" in score.problems[0]


def test_an_altered_table_is_named(table):
    freeze(table, [predict(SMALL, 3.1, 0.2)])
    write_table(table, [OLD[0] | {"loss": 3.9}, row("n1", SMALL, 3.0)])
    changed, gone = score_study(table).problems
    assert "old-1: 4 then, 3.9 now" in changed
    assert "1 runs" in gone and "old-2" in gone
    assert score_study(table).is_sound  # the predictions themselves are whole


def test_gains_are_paired_over_the_seeds_of_both_arms(table):
    freeze(table, [predict(TAUGHT, 0.2, 0.05, quantity="gain", probability=0.95)])
    (one,) = ran(
        table,
        row("a0", SMALL, 3.0),
        row("a1", SMALL, 3.4, seed=1),
        row("a2", SMALL, 9.0, seed=2),
        row("t0", TAUGHT, 2.9),
        row("t1", TAUGHT, 3.1, seed=1),
    ).predictions
    assert one.measured == pytest.approx(0.2) and one.num_seeds == 2 and one.counts
    (sign,) = scorecard.decisions([one], [])
    assert sign["right"] == 1 and sign["brier"] == pytest.approx(0.05**2)


def test_arms_without_a_common_seed_give_no_gain(table):
    freeze(table, [predict(TAUGHT, 0.2, 0.05, quantity="gain")])
    (one,) = ran(table, row("a0", SMALL, 3.0), row("t1", TAUGHT, 2.9, seed=1)).predictions
    assert one.status == "unusable" and "share no seed" in one.problem


def test_the_wrong_teacher_costs_its_regret(table):
    freeze(table, [predict(SMALL, 3.0, 0.1)], choices=[([TAUGHT, BETTER], [0.7, 0.3])])
    score = ran(table, row("a", TAUGHT, 2.95), row("b", BETTER, 2.9))
    (choice,) = score.choices
    assert choice.counts and not choice.is_hit and choice.regret == pytest.approx(0.05)
    (entry,) = scorecard.decisions([], score.choices)
    assert entry["right"] == 0 and entry["brier"] == pytest.approx(0.49)


def test_errors_are_shown_by_distance(table):
    far = PredictedPoint(params=1e5, tokens=9e6)
    freeze(table, [predict(SMALL, 3.0, 0.1), predict(far, 2.9, 0.1, outside={"student_tokens": np.log(9.0)})])
    score = ran(table, row("a", SMALL, 3.0), row("b", far, 2.5))
    inside, beyond = scorecard.by_distance(score.predictions)
    assert (inside["to"], inside["coverage"]) == (1.0, 1.0)
    assert (beyond["from"], beyond["to"], beyond["coverage"]) == (4.0, 10.0, 0.0)


def test_forecasters_are_ranked_on_cells_that_all_of_them_predicted(table):
    easy = PredictedPoint(params=1e5, tokens=2e6)
    freeze(
        table,
        [predict(SMALL, 3.0, 0.1, by="one"), predict(SMALL, 3.1, 0.1, by="two"), predict(easy, 2.8, 0.001, by="two")],
    )
    (entry,) = scorecard.head_to_head(ran(table, row("a", SMALL, 3.0), row("b", easy, 2.8)).predictions)
    assert entry["num"] == 1 and [r["by"] for r in entry["ranking"]] == ["one", "two"]


def test_a_calibrated_forecaster_comes_out_calibrated(table):
    """200 cells at the quantiles of what was stated: every level is obtained as often as it says."""
    points, sd = [PredictedPoint(params=1e5 * 1.1**k, tokens=1e6) for k in range(200)], 0.1
    z = [NormalDist().inv_cdf((k + 0.5) / 200) for k in range(200)]
    freeze(table, [predict(point, 3.0, 1.6448536 * sd) for point in points])
    score = ran(table, *(row(f"n{k}", point, 3.0 + sd * z[k]) for k, point in enumerate(points)))
    found = {entry["level"]: entry["obtained"] for entry in scorecard.calibration(score.predictions)}
    assert found[0.9] == pytest.approx(0.9, abs=0.005)
    inner = 2 * NormalDist().cdf(1.6448536 / 2) - 1  # that interval is half as wide, whatever it is called
    assert found[0.5] == pytest.approx(inner, abs=0.005)
    assert [row.z for row in score.predictions] == pytest.approx(z, abs=1e-5)


def test_a_folder_of_studies_is_summed_and_copies_count_once(tmp_path):
    for name, mean in (("a", 3.0), ("b", 3.5), ("copy", 3.0)):
        (tmp_path / name).mkdir()
        table = write_table(tmp_path / name / "runs.csv", OLD)
        if name != "copy":
            freeze(table, [predict(SMALL, mean, 0.1)])
            write_table(table, [*OLD, row("n", SMALL, 3.0)])
    source, target = tmp_path / "a", tmp_path / "copy"
    (target / "runs.predictions").mkdir()
    for path in (source / "runs.predictions").glob("[0-9]*.json"):
        (target / "runs.predictions" / path.name).write_text(path.read_text())
    assert len(find_sources([tmp_path, tmp_path / "a"])) == 3
    card = score_places([tmp_path])
    assert len(card.studies) == 2 and len(card.copies) == 1 and card.is_sound
    (sums,) = scorecard.by_forecaster(card.predictions)
    assert (sums.num, sums.hits) == (2, 1)


def test_an_unreadable_study_does_not_hide_the_others(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        freeze(write_table(tmp_path / name / "runs.csv", OLD), [predict(SMALL, 3.0, 0.1)])
    (tmp_path / "b" / "runs.csv").write_text("params,tokens\n1,2\n")
    card = score_places([tmp_path])
    assert len(card.studies) == 1 and len(card.unreadable) == 1 and not card.is_sound


def test_nothing_frozen_is_one_clear_line(table, tmp_path):
    with pytest.raises(CacheError, match="nothing is frozen"):
        score_study(table)
    with pytest.raises(CacheError, match="no frozen predictions"):
        find_sources([tmp_path])
