"""Are stated probabilities right? Several hundred simulated studies with a known truth (docs/verdict.md)."""

import numpy as np
import pytest
from synthetic_study import World, write_study

from distillaw.planning.api import plan

pytestmark = pytest.mark.slow

SEEN_NOISE = (0.0013, 0.0019, 0.0035, 0.0037, 0.0038, 0.0056)
"""Seed noise of repeated cells of the open and the pocket study, as a share of the loss, which is about 4.3 here."""
TEACHERS = ("0.02M", "0.1M", "0.3M")


def simulate(folder, seed, steepness):
    """One study as the quickstart makes them: three teachers, three seeds of one of them and of no teacher."""
    rng = np.random.default_rng([seed, 5])
    world = World(
        students=(1e5,),
        budgets=(150_000,),
        documents=64,
        interaction_sd=0.02,
        rng_seed=seed,
        gain_scale=float(rng.uniform(-0.35, 0.4)),
        seed_sd=4.3 * float(rng.choice(SEEN_NOISE)),
        steepness=steepness,
    )
    write_study(folder, world, skip=("from-0.02M-s1", "from-0.02M-s2", "from-0.3M-s1", "from-0.3M-s2"))
    verdict = plan(1e5, student_tokens=150_000, study=folder)
    own = world.truth["student-0.1M-alone-s0-150kt"]
    gains = {t: own - world.truth[f"student-0.1M-from-{t}-s0-150kt"] for t in TEACHERS}
    gain = gains[verdict.headline.best.teacher.run_id.split("-")[1]]
    best = max(0.0, *gains.values())
    return {
        "said": verdict.call.distil,
        "came": gain > verdict.margin,
        "verdict": verdict.verdict,
        "covered": verdict.gain.lower < gain < verdict.gain.upper,
        "gain": gain,
        "regret": best - (gain if verdict.verdict == "distil" else 0.0),
        "regret_largest": best - gains["0.3M"],
        "regret_never": best,
    }


@pytest.mark.parametrize("steepness", [None, (0.09, 0.04)], ids=["best rates", "searched rates"])
def test_stated_probabilities_intervals_and_regret(tmp_path, steepness):
    rows = []
    for k in range(500):
        (tmp_path / str(k)).mkdir()
        rows.append(simulate(tmp_path / str(k), k, steepness))
    said, came = (np.array([r[key] for r in rows]) for key in ("said", "came"))
    for low, high in ((0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 1)):
        inside = (said >= low) & (said <= high)
        print(
            f"said {low}-{high}: {inside.sum()} studies, mean {said[inside].mean():.3f}, came {came[inside].mean():.3f}"
        )
    regret = {key: np.mean([r[key] for r in rows]) for key in ("regret", "regret_largest", "regret_never")}
    covered = np.mean([r["covered"] for r in rows])
    print(f"coverage {covered:.3f}; regret, nats/token: {regret}")
    assert 0.87 <= covered <= 0.95  # 500 studies know a coverage of 0.9 to 0.013
    called = said >= 0.8
    assert came[called].mean() >= said[called].mean() - 0.03
    assert came[said <= 0.2].mean() <= 0.05
    pretrain = [r["gain"] <= 0 for r in rows if r["verdict"] == "pretrain"]
    assert np.mean(pretrain) > 0.97
    assert regret["regret"] < 0.2 * min(regret["regret_largest"], regret["regret_never"])
