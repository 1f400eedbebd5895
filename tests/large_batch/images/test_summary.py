"""Means, differences, shares and slopes of studies whose truth is chosen; intervals against simulation."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import WRONG, make_study, write_study

from distillaw.errors import CacheError, DataError
from distillaw.large_batch.images.results import (
    read_record,
    read_walks,
    score_columns,
    score_gains,
    scores_of,
    slope_ratio,
)
from distillaw.large_batch.images.spec import hoffer2017
from distillaw.large_batch.images.words import gain_sentence, headline, outcome, verdict_sentences, walk_sentences

PAPER = hoffer2017().row("F1").accuracy


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return read_record(write_study(tmp_path_factory.mktemp("made"), make_study()))


def test_means_and_shares_are_those_chosen(record):
    scores = {score.column: score for score in score_columns(record, PAPER)}
    assert {name: score.mean for name, score in scores.items()} == {
        name: pytest.approx(100 - count / 100) for name, count in WRONG.items()
    }
    assert scores["SB"].seed_spread == pytest.approx(np.std([0.08, 0.04, 0, -0.04, -0.08], ddof=1))
    assert scores["+LR"].closed == pytest.approx(50 / 120) and scores["+RA"].closed == pytest.approx(150 / 120)
    assert scores["SB"].closed is None and scores["LB"].closed is None
    for score in scores.values():
        low, high = score.interval
        assert low < score.mean < high
    low, high = scores["+RA"].closed_interval
    assert 0.5 < low < 1.25 < high < 3


def test_a_share_has_an_end_exactly_where_the_gap_is_clear(tmp_path):
    seen = set()
    for more in range(0, 60, 10):
        made = read_record(write_study(tmp_path / str(more), make_study(seeds=3), wrong=WRONG | {"LB": 180 + more}))
        gap = next(gain for gain in score_gains(made, PAPER) if (gain.before, gain.after) == ("SB", "LB"))
        is_clear = not gap.interval[0] <= 0 <= gap.interval[1]
        share = next(score for score in score_columns(made, PAPER) if score.column == "+RA")
        assert (share.closed_interval is not None) == is_clear
        seen.add(is_clear)
    assert seen == {True, False}


def test_differences_are_paired_and_judged_against_the_paper(record):
    gains = {(gain.before, gain.after): gain for gain in score_gains(record, PAPER)}
    assert list(gains)[:4] == [("SB", "LB"), ("LB", "+LR"), ("+LR", "+GBN"), ("+GBN", "+RA")]
    gap = gains["SB", "LB"]
    assert gap.mean == pytest.approx(-1.2) and gap.paper == pytest.approx(97.05 - 98.27)
    assert gap.se_seeds == pytest.approx(0, abs=1e-12), "every seed has the same difference"
    assert gap.is_significant and outcome(gap) == "reproduces"
    tiny = gains["+LR", "+GBN"]
    assert tiny.mean == pytest.approx(0.02) and not tiny.is_significant and outcome(tiny) == "not resolved"
    assert outcome(gains["SB", "RA alone"]) == "not in the paper"
    wider = replace(gap, mean=3 * gap.mean, interval=(3 * gap.interval[0], 3 * gap.interval[1]))
    assert outcome(wider) == "same sign, other size" and "the size does not" in gain_sentence(wider)


def test_the_interval_covers_other_seeds_and_other_images():
    """Differences between two columns whose errors are drawn anew, 300 times."""
    from distillaw.runs.paired import paired_over_seeds

    generator, held, truth = np.random.default_rng(0), 0, 0.02
    for _ in range(300):
        hard = generator.random(1000) < 0.1  # images that are hard for everybody
        pairs = []
        for _ in range(5):
            luck = generator.normal(0, 0.004)
            rates = [0.02 + 0.5 * hard, 0.02 + truth + luck + 0.5 * hard]
            errors = [
                {
                    "column": "x",
                    "seed": 0,
                    "test_images": 1000,
                    "wrong": np.flatnonzero(generator.random(1000) < rate).tolist(),
                }
                for rate in rates
            ]
            pairs.append(tuple(scores_of(e) for e in errors))
        low, high = paired_over_seeds([(b, a) for a, b in pairs]).interval(0.95)
        held += low < truth < high
    assert held >= 280


def test_holm_is_stricter_than_each_test_alone(record, tmp_path):
    """A difference that one test would call real is not called so among eight."""
    close = read_record(write_study(tmp_path, make_study(), wrong=WRONG | {"+GBN": 210}, spread=7))
    gains = score_gains(close, PAPER)
    alone = [gain for gain in gains if gain.p is not None and gain.p < 0.05]
    assert {g.p for g in gains if g.is_significant} == {
        g.p for g in alone if g.p <= max((h.p for h in gains if h.is_significant), default=0)
    }
    p = sorted(gain.p for gain in gains)
    holm = 0
    while holm < len(p) and p[holm] <= 0.05 / (len(p) - holm):
        holm += 1
    assert sum(gain.is_significant for gain in gains) == holm < len(gains)


def test_no_gap_no_share(tmp_path):
    flat = read_record(write_study(tmp_path, make_study(), wrong=dict.fromkeys(WRONG, 200)))
    scores = {score.column: score for score in score_columns(flat, PAPER)}
    assert scores["+RA"].closed_interval is None
    gains = score_gains(flat, PAPER)
    assert not any(gain.is_significant for gain in gains)
    assert headline(list(scores.values()), gains).startswith("The large batch is not clearly worse here")


def test_slopes_and_their_ratio_are_those_chosen(record):
    walks = {(walk.batch, walk.is_corrected): walk for walk in read_walks(record)}
    assert {key: walk.slope.value for key, walk in walks.items()} == {
        (128, False): pytest.approx(1.0),
        (1024, False): pytest.approx(0.7),
        (4096, False): pytest.approx(0.4),
        (128, True): pytest.approx(1.0),
        (1024, True): pytest.approx(0.95),
        (4096, True): pytest.approx(0.9),
    }
    assert walks[128, True].column == "SB" and walks[4096, True].column == "+GBN"
    assert walks[1024, False].column == "walk 1024" and walks[4096, False].last_step == 15 * 30
    assert all(walk.log_wins == 5 for walk in walks.values())
    assert walks[128, False].first_tensor_slope.value == pytest.approx(0.5)
    before, after = (slope_ratio(list(walks.values()), corrected=c) for c in (False, True))
    assert before.value == pytest.approx(0.4) and after.value == pytest.approx(0.9)
    said = " ".join(walk_sentences(list(walks.values())))
    assert "25 of 25 curves" in said and "the correction raises it again" in said and "below 1 still" in said


def test_words_say_what_the_numbers_say(record, tmp_path):
    gains = score_gains(record, PAPER)
    assert headline(score_columns(record, PAPER), gains) == (
        "The large batch loses 1.20 points; with all three corrections it ends 0.30 points above the small batch."
    )
    verdicts = verdict_sentences(gains)
    assert "LB − SB" in verdicts[0] and verdicts[0].startswith("Reproduces")
    worse = read_record(write_study(tmp_path, make_study(), wrong=WRONG | {"+LR": 420}))
    scaled = next(gain for gain in score_gains(worse, PAPER) if gain.after == "+LR")
    assert gain_sentence(scaled).endswith("this does not reproduce: the sign is the other.")


def test_a_study_that_is_half_done(tmp_path):
    study = make_study()
    half = read_record(
        write_study(tmp_path, study, diverged=("+LR",), skip=lambda cell: cell.column == "+RA" or cell.seed > 2)
    )
    gains = {(gain.before, gain.after): gain for gain in score_gains(half, PAPER)}
    assert ("LB", "+GBN") in gains and ("SB", "+RA") not in gains and gains["SB", "LB"].seeds == 3
    assert len(half.diverged) == 3 and "+RA seed 0" in half.missing
    assert "+LR" not in [score.column for score in score_columns(half, PAPER)]


def test_one_seed_has_no_interval(tmp_path):
    single = read_record(write_study(tmp_path, make_study(seeds=1)))
    score, gain = score_columns(single, PAPER)[0], score_gains(single, PAPER)[0]
    assert score.interval is None and gain.interval is None and gain.p is None and not gain.is_significant
    assert "one seed, no interval" in gain_sentence(gain)


def test_folders_that_are_no_study(tmp_path):
    with pytest.raises(CacheError, match=r"no large_batch\.json"):
        read_record(tmp_path)
    with pytest.raises(DataError, match="beyond the 3 of the test set"):
        scores_of({"column": "SB", "seed": 0, "test_images": 3, "wrong": [3]})
