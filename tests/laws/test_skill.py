"""From loss to skill: the law, its intervals, anchors, the fit, and what the shipped laws say."""

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.fits.skill_law import Runs, fit_skill
from distillaw.errors import ConfigError, DataError
from distillaw.laws.skill import skill_law, skill_laws


def simulated(rng: np.random.Generator, halfway: float, width: float, floor: float, n: int = 30) -> Runs:
    loss = rng.uniform(2.4, 4.5, n)
    score = floor + (1 - floor) / (1 + np.exp((loss - halfway) / width))
    return Runs(loss, np.clip(score + rng.normal(0, 0.01, n), 0, 1))


def corpora(rng: np.random.Generator, collections: int = 4) -> dict:
    return {
        (f"c{k}", f"t{j}"): simulated(rng, 2.8 + rng.normal(0, 0.3), 0.4 * np.exp(rng.normal(0, 0.1)), 0.27)
        for k in range(collections)
        for j in range(2)
    }


def test_a_known_truth_comes_back():
    law = fit_skill("t", corpora(np.random.default_rng(0), 12), chance=0.25)
    assert law.scatter == pytest.approx(0.01, rel=0.15)
    assert law.centre[0] == pytest.approx(2.8, abs=0.25)
    assert np.exp(-law.centre[1]) == pytest.approx(0.4, rel=0.12)
    assert law.centre[2] == pytest.approx(0.27, abs=0.02)


def test_intervals_hold_on_corpora_not_seen():
    rng = np.random.default_rng(1)
    law = fit_skill("t", corpora(rng), chance=0.25)
    level, gain = [], []
    for new in corpora(rng, 15).values():
        scores = [law.score((x, x, x)) for x in new.loss[:2]]
        level += [s.lower <= y <= s.upper for s, y in zip(scores, new.score[:2], strict=True)]
        worth = law.gain((new.loss[0],) * 3, (new.loss[0] - new.loss[1],) * 3)
        gain.append(worth.lower <= new.score[1] - new.score[0] <= worth.upper)
    assert np.mean(level) >= 0.85
    assert np.mean(gain) >= 0.85


def test_a_measured_score_narrows_and_centres():
    law = skill_law("arc_easy")
    told = law.anchored((3.2, 0.5))
    before, after, at = (each.score((3.0,) * 3) for each in (law, told, told))
    assert after.upper - after.lower < (before.upper - before.lower) / 3
    assert told.score((3.2,) * 3).median == pytest.approx(0.5, abs=0.01)
    assert at.median > 0.5


@pytest.mark.parametrize("task", skill_laws())
def test_shipped_laws_fall_with_loss_and_reach_chance(task):
    law = skill_law(task)
    scores = [law.score((x, x, x)) for x in (2.4, 2.8, 3.2, 4.0, 6.0)]
    assert all(a.median >= b.median for a, b in pairwise(scores))
    assert all(0 <= s.lower + 0.1 and s.lower <= s.median <= s.upper for s in scores)
    assert scores[-1].at_chance
    assert abs(scores[-1].median - law.chance) < 0.08


def test_no_gain_is_worth_nothing_and_doubt_of_the_loss_widens():
    law = skill_law("hellaswag").anchored((3.0, 0.4))
    none = law.gain((3.0,) * 3, (0.0,) * 3)
    assert none.at_chance
    assert none.median == pytest.approx(0, abs=0.002)
    sure, unsure = (law.score((3.0, 3.0 - d, 3.0 + d)) for d in (0.0, 0.2))
    assert unsure.upper - unsure.lower > sure.upper - sure.lower


def test_refusals_name_the_rule():
    with pytest.raises(ConfigError, match="arc_easy"):
        skill_law("arc_eazy")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        skill_law("arc_easy").anchored((3.0, 62.0))
    rng = np.random.default_rng(2)
    with pytest.raises(DataError, match="at least two"):
        fit_skill("t", {("a", "b"): simulated(rng, 2.8, 0.4, 0.25)}, chance=0.25)
    with pytest.raises(DataError, match=r"score 1\.5"):
        bad = Runs(np.array([3.0, 3.1]), np.array([0.4, 1.5]))
        fit_skill("t", {("a", "b"): bad, ("c", "d"): bad}, chance=0.25)
